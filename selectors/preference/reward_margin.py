"""Reward margin: by how much does a reward model prefer the chosen response?"""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.numerics.ordering import floats
from gristmill.pipeline.prepare.preference import RewardTuned
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.signals.pair_signals import VIEWS
from gristmill.pipeline.signals.reward import RewardScore
from gristmill.selectors.preference import table


@dataclass(frozen=True, kw_only=True)
class RewardMargin(Scorer):
    """Reward of the chosen minus reward of the rejected response.

    score(d) = r(x, y_w) - r(x, y_l).

    Also called: external margin. Its scale is the reward model's own: cut by quantiles.

    Reads: `RewardScore` of both sides by the model in the role "reward".
    Reference: optional; labelled pairs on which a reward model is trained if none is bound, else it
        is trained on 30 per cent of the pool.
    Higher means: the reward model agrees with the label, and is sure of it. Keep it.
    Cost: 1 pair-forward of the reward model and 16 bytes a pair to observe; O(N) to score.
    Paper: none; a common baseline.
    Departures: none.
    Relations: `irm` asks the model that is trained, not a second one; `bees` joins both;
        `alignment_potential` subtracts the model's own margin.
    Example: `RewardMargin().score(pool)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    reference: ClassVar = "optional"
    cost: ClassVar[str] = "2 fe of the reward model"

    @property
    def signals(self) -> tuple[Signal, ...]:
        return tuple(RewardScore(view=view) for view in VIEWS)

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (RewardTuned(),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        blocks = []
        for block in pool.blocks():
            chosen_N, rejected_N = (floats(block[s.column]) for s in self.signals)
            blocks.append(table(block["id"], chosen_N - rejected_N))
        return pl.concat(blocks)
