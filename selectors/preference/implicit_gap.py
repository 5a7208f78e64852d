"""Smallest implicit gap: which pairs does the model find hardest?"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.prepare.preference import PairWarmUp, warmed_up
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.signals.pair_signals import Objective, no_warm_up
from gristmill.selectors.preference import table


@dataclass(frozen=True, kw_only=True)
class ImplicitGap(Scorer):
    """Minus the implicit reward margin of the warmed-up model: hard pairs first.

    score(d) = -m(d), m = beta ((s(y_w) - ref(y_w)) - (s(y_l) - ref(y_l))).
    absolute: score(d) = -|m(d)|, pairs about which the model is undecided.

    Reads: `SequenceLogProb` of both sides under the roles "target" and "reference".
    Reference: none.
    Higher means: the model disagrees with the label, or barely agrees. Keep it, the paper says, 10
        per cent of the pool; on noisy labels these are the wrong ones.
    Cost: 2 pair-forwards and 32 bytes a pair to observe, after one epoch of DPO; O(N) to score.
    Paper: "Difficulty-Based Preference Data Selection by DPO Implicit Reward Gap",
        arXiv:2508.04149.
    Departures: padding is not summed, as it is in the released code; `absolute` is ours.
    Relations: the opposite of `selective_dpo`, which keeps easy pairs; `irm` is the plain margin.
        Where labels may be wrong, the band of `lossdiff_irm` is safer.
    Example: `ImplicitGap(absolute=True).score(pool)`
    """

    scope: ClassVar = "pool"  # whether all margins are 0 is no shard's to say
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    paper: ClassVar[str] = "arXiv:2508.04149"
    cost: ClassVar[str] = "4 fe and DPO on the pool"
    absolute: bool = False
    objective: Objective = field(default_factory=Objective)
    # none: the target is trained already, and "reference" is bound
    warm_up: PairWarmUp | None = field(default_factory=PairWarmUp)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return self.objective.signals("target")

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return warmed_up(self.objective, self.warm_up)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        blocks = [(block["id"], self.objective.margin(block)) for block in pool.blocks()]
        no_warm_up(np.concatenate([margin_N for _, margin_N in blocks] or [np.zeros(0)]))
        return pl.concat(
            [
                table(ids, -np.abs(margin_N) if self.absolute else -margin_N)
                for ids, margin_N in blocks
            ]
        )
