"""ICA: how much more probable is the answer behind similar holdout examples?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.numerics.ordering import floats
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.signals.forward_signals import SequenceLogProb
from gristmill.pipeline.signals.pair_signals import SIDES, Doubles, log_probs
from gristmill.selectors.preference import table
from gristmill.selectors.preference._in_context_examples import BehindExamples, Neighbours


@dataclass(frozen=True, kw_only=True)
class Ica(Scorer):
    """In-context approximation of the holdout loss: the gain by examples from the holdout.

    Examples: score(x, y) = log p(y|x, E) - log p(y|x), E = the k holdout rows nearest to x.
    Pairs: score = (log p(y_w|x, E) - log p(y_l|x, E)) - (log p(y_w|x) - log p(y_l|x)); E shows
    chosen answers alone. Sums over the tokens of the answer, no reference model.

    For an exchangeable model the gain is what training on (x, y) would do for the holdout, by
    Bayes' rule: log p(D|x, y) - log p(D) = log p(y|x, D) - log p(y|x).

    Reads: `SequenceLogProb` of each side of the model in the role "target", plain and
        behind in-context examples; `SentenceEmbedding` of prompts by the role "embedder", to find
        these.
    Reference: required; the holdout: clean rows of the task, not in the pool.
    Higher means: similar clean rows make the answer likelier. Keep it, or weigh it:
        the rule `weighted` with stretch=True (the paper stretches each batch).
    Cost: 1 forward, 1 more of about k + 1 times the tokens, and 16 bytes for each side; O(N M D) to
        find neighbours.
    Paper: "Holdout-Loss-Based Data Selection for LLM Finetuning via In-Context Learning",
        ICLR 2026, arXiv:2510.14459.
    Departures: any embedder (the paper's is all-mpnet-base-v2); the examples are earlier turns of
        the chat, nearest last, and those that do not fit are left out; a row behind none is null.
    Relations: asks what `less` or `lossdiff` ask, with no training at all; the score grows with
        length. `nuggets` shows the row to the holdout, this one the holdout to the row.
    Example: `Ica(k=3).score(pool, reference)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = ("example", "pair")
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2510.14459"
    cost: ClassVar[str] = "1 fe, 1 of k + 1 times the tokens; twice for pairs"
    k: int = 3

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"ica: k is {self.k}; give 0 or more in-context examples.")

    @property
    def in_context(self) -> tuple[SequenceLogProb, ...]:
        """Each side behind its in-context examples."""
        found = self.given.artifacts.get("neighbours")
        views = (BehindExamples(side=s, found=found, shots=self.k) for s in SIDES)
        return tuple(SequenceLogProb(view=view) for view in views)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (*log_probs(), *self.in_context)

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (Neighbours(k=self.k),) if self.k else ()

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        if self.k and "neighbours" not in self.given.artifacts:
            raise ValueError(
                "ica shows neighbours that its recipe finds: let `score` run its recipes, or give "
                "k=0."
            )
        blocks = []
        for block in pool.blocks():
            gain_2N = np.stack(
                [
                    floats(block[behind.column]) - floats(block[plain.column])
                    for behind, plain in zip(self.in_context, log_probs(), strict=True)
                ]
            )
            blocks.append(table(block["id"], gain(gain_2N)))
        return pl.concat(blocks)


def gain(gain_2N: Doubles) -> Doubles:
    """Gain of the chosen side less that of the rejected one, where there is one."""
    gain_N: Doubles = gain_2N[0] - np.nan_to_num(gain_2N[1], nan=0.0)
    return gain_N
