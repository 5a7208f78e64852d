"""CW-PO: how sure is a weak annotator of the label?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.numerics.ordering import floats
from gristmill.pipeline.prepare.preference import RewardTuned
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.signals.pair_signals import VIEWS, Doubles
from gristmill.pipeline.signals.reward import RewardScore
from gristmill.selectors.preference import table


@dataclass(frozen=True, kw_only=True)
class CwPo(Scorer):
    """Confidence of a weak reward model in a pair, as a weight for any preference loss.

    C = 2 (sigma(D / tau) - 1/2) = tanh(D / 2 tau), D = r(x, y_w) - r(x, y_l) of the weak model.
    label="given": C of the label as it stands, in (-1, 1); below 0 the annotator disagrees.
    label="annotator": C of the label that the annotator gives, |C| in [0, 1); where `score_gap` is
    below 0 the sides are to be swapped before training.

    Reads: `RewardScore` of both sides by the model in the role "judge", never the policy's.
    Reference: optional; labelled pairs on which the model in the role "weak" is trained into the
        annotator, else it is trained on 30 per cent of the pool.
    Higher means: the annotator agrees with the label and is sure. Keep it, or weigh it by C: the
        rule `weighted`.
    Cost: 1 pair-forward of a small model and 16 bytes a pair to observe, after its training; O(N)
        to score.
    Paper: "When Weak LLMs Speak with Confidence, Preference Alignment Gets Stronger", ICLR 2026,
        arXiv:2603.04968.
    Departures: the paper has no labels on the rest and always takes the annotator's; a selection
        cannot swap sides, so by default the label given counts. Pairs on which the annotator was
        trained are scored too.
    Relations: `reward_margin` without the bound, so that one extreme pair counts for more. A long
        trained annotator saturates, C is 1 for all: look at the weights that `select` tells.
    Example: `CwPo(label="annotator").score(pool)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    reference: ClassVar = "optional"
    paper: ClassVar[str] = "arXiv:2603.04968"
    rule: ClassVar[str] = "weighted"
    cost: ClassVar[str] = "2 fe of a weak model"
    label: Literal["given", "annotator"] = "given"
    share: float = 0.3  # of the pool that is taken as labelled without a reference set
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"cw_po: the temperature is {self.temperature}; give more than 0.")

    @property
    def signals(self) -> tuple[Signal, ...]:
        return tuple(RewardScore(role="judge", view=view) for view in VIEWS)

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (RewardTuned(role="judge", base="weak", share=self.share),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        blocks = []
        for block in pool.blocks():
            chosen_N, rejected_N = (floats(block[s.column]) for s in self.signals)
            gap_N = chosen_N - rejected_N
            score_N = confidence(gap_N, self.temperature)
            score_N = np.abs(score_N) if self.label == "annotator" else score_N
            blocks.append(table(block["id"], score_N, gap=gap_N))
        return pl.concat(blocks)


def confidence(gap_N: Doubles, temperature: float = 1.0) -> Doubles:
    """C of score gaps: bounded by 1, odd in the gap."""
    bounded: Doubles = np.tanh(gap_N / (2.0 * temperature))
    return bounded
