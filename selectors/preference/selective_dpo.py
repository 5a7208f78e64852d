"""Selective DPO: how hard is a pair for models that have not seen it?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import EncodingFacts, Observations, Recipe, Scorer, Signal
from gristmill.pipeline.prepare.preference import Halves, Kept, half_of, settings_for
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.signals.pair_signals import Objective, log_probs
from gristmill.selectors.preference import table


@dataclass(frozen=True, kw_only=True)
class SelectiveDpo(Scorer):
    """Minus the mean DPO loss of the pair under models trained on the other half of the pool.

    score(d) = -mean_s l(theta_{s, 1 - h}; d), h = half of d in the cut of seed s. For each seed the
    pool is cut in two, a model is trained on each half, and each scores the half it has not seen.

    Also called: validation loss as difficulty.

    Reads: `SequenceLogProb` of both sides under the role "reference" and under all models in the
        role "proxy", two for each seed.
    Reference: none.
    Higher means: easier. Keep it, 50 per cent of the pool, and train from easy to hard: the rule
        `curriculum` with by="score_difficulty".
    Cost: 2 pair-forwards a seed beside 1 of the reference and 8 bytes each to observe, after
        training on two halves for each seed; O(N S) to score.
    Paper: "Principled Data Selection for Alignment: The Hidden Risks of Difficult Examples",
        ICML 2025, arXiv:2502.09650.
    Departures: one evaluation at the end of each training, not five on the way; which half a row
        is in depends on (seed, id) alone, so halves are equal in expectation only.
    Relations: the opposite of `implicit_gap`. Mislabelled pairs are hard, so it drops them; pairs
        that are merely rare go with them.
    Example: `SelectiveDpo(seeds=(41, 42)).score(pool)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    paper: ClassVar[str] = "arXiv:2502.09650"
    cost: ClassVar[str] = "14 fe, DPO on two halves for each of 3 seeds"
    multi_model: ClassVar = True
    seeds: tuple[int, ...] = (41, 42, 43)
    beta: float = 0.01
    learning_rate: float = 6e-6

    @property
    def loss(self) -> Objective:
        """The preference loss."""
        return Objective(beta=self.beta)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return self.loss.signals("proxy")

    @property
    def facts(self) -> tuple[EncodingFacts, ...]:
        return self.loss.facts

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        settings = settings_for(self.loss, learning_rate=self.learning_rate)
        return (Kept(), Halves(seeds=self.seeds, settings=settings))

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        columns = [name for name, _ in pool.columns(log_probs("proxy")[0])]
        if len(columns) != 2 * len(self.seeds):
            raise ValueError(
                f"selective_dpo reads two models for each of {len(self.seeds)} seeds in the role "
                f"proxy; found {len(columns)}: leave proxy unbound, so that they are made."
            )
        blocks = []
        for block in pool.blocks():
            loss_SN = np.stack(
                [
                    self.loss.loss(self.loss.margin(block, "proxy", f"@{s}"))
                    for s in range(len(columns))
                ]
            )
            held_out = []
            for s, seed in enumerate(self.seeds):
                other_N = [1 - half_of(ident, seed) for ident in block["id"]]
                held_out.append(loss_SN[2 * s + np.array(other_N, int), np.arange(block.height)])
            difficulty_N = np.mean(held_out, axis=0)
            blocks.append(table(block["id"], -difficulty_N, difficulty=difficulty_N))
        return pl.concat(blocks)
