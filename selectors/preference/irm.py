"""IRM: by how much does the model already prefer the chosen response?"""

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
class Irm(Scorer):
    """Implicit reward margin of the warmed-up model, signed.

    m(d) = beta ((s(y_w) - ref(y_w)) - (s(y_l) - ref(y_l))), s and ref the log-probabilities of a
    response (sums over its tokens) under the model and its reference.

    Also called: DPO margin. It grows with length; SimPO's divides by it.

    Reads: `SequenceLogProb` of both sides under the roles "target" and "reference".
    Reference: none.
    Higher means: the model agrees with the label. The useful pairs lie in the middle: use the rule
        `band`, not `top`. The lowest are noisy or mislabelled, the highest learnt already.
    Cost: 2 pair-forwards and 32 bytes a pair to observe, after one epoch of DPO; O(N) to score.
    Paper: "Towards Understanding Valuable Preference Data for Large Language Model Alignment",
        ICLR 2026, arXiv:2510.13212.
    Departures: beta 0.1 and the bands' quantiles are ours, the paper does not give them; epochs
        double on small pools until margins exceed 0.1.
    Relations: `lossdiff_irm` adds what validation pairs say; `implicit_gap` is this one turned
        round. `reward_margin` asks a reward model instead.
    Example: `Irm().score(pool)`
    """

    scope: ClassVar = "pool"  # whether all margins are 0 is no shard's to say
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    paper: ClassVar[str] = "arXiv:2510.13212"
    rule: ClassVar[str] = "band"
    cost: ClassVar[str] = "4 fe and DPO on the pool"
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
        return pl.concat([table(ids, margin_N) for ids, margin_N in blocks])
