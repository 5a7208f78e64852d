"""LossDiff-IRM: is the pair in the middle of both bands?"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import EncodingFacts, Observations, Recipe, Scorer, Signal
from gristmill.pipeline.prepare.preference import PairTuned, PairWarmUp, settings_for, warmed_up
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.selection.rules.band import centrality
from gristmill.pipeline.signals.pair_signals import Objective, no_warm_up
from gristmill.selectors.preference import count_targets, table


@dataclass(frozen=True, kw_only=True)
class LossdiffIrm(Scorer):
    """How near a pair is to the middle of both LossDiff and IRM, by rank.

    score(d) = min(c(LossDiff(d)), c(IRM(d))), c = 1 - |2 q - 1|, q = (rank - 1/2) / N; the raw
    values are `score_lossdiff` and `score_irm`. The paper keeps a pair iff both lie strictly inside
    their bands: `Band(columns=("score_lossdiff", "score_irm"))`, and with `target_keep=0.64` the
    bands that keep this share. Rule `top` with that budget keeps nearly the same pairs.

    Reads: `SequenceLogProb` of both sides under the roles "target", "validation", "reference".
    Reference: required; validation pairs, from 32 on, neither in the pool nor in any test set. The
        model in the role "validation" is trained on them; they are not observed.
    Higher means: neither noisy nor learnt already. Keep it: 50 to 64 per cent of the pool.
    Cost: 3 pair-forwards and 48 bytes a pair to observe, after one epoch of DPO on the pool and one
        on the validation pairs; O(N log N) to score.
    Paper: "Towards Understanding Valuable Preference Data for Large Language Model Alignment",
        ICLR 2026, arXiv:2510.13212.
    Departures: a rank centrality instead of 0 or 1, so that any budget can be met; quantiles,
        beta and the start of theta_val are ours, the paper does not give them.
    Relations: two forward-only estimates of `tif`, steadier together than `lossdiff` or `irm`
        alone. Continue DPO from the warmed-up target on what it keeps, with the same reference.
    Example: `LossdiffIrm(start="reference").score(pool, reference)`
    """

    scope: ClassVar = "pool"
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2510.13212"
    cost: ClassVar[str] = "6 fe, DPO on the pool and on the targets"
    objective: Objective = field(default_factory=Objective)
    start: Literal["target", "reference"] = "target"  # of the validation model
    # none: the target is trained already, and "reference" is bound
    warm_up: PairWarmUp | None = field(default_factory=PairWarmUp)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return self.objective.signals("target", "validation")

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def facts(self) -> tuple[EncodingFacts, ...]:
        return self.objective.facts

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        tuned = PairTuned(base=self.start, settings=settings_for(self.objective))
        return (*warmed_up(self.objective, self.warm_up), tuned)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        count_targets(reference)
        read: list[Signal | EncodingFacts] = [*self.signals, *self.facts]
        columns = [c.column for c in read]
        frame = pl.concat([block.select("id", *columns) for block in pool.blocks()])
        margin_N, after_N = (
            self.objective.margin(frame, role) for role in ("target", "validation")
        )
        no_warm_up(margin_N)
        lossdiff_N = self.objective.loss(margin_N) - self.objective.loss(after_N)
        score_N = np.minimum(centrality(lossdiff_N), centrality(margin_N))
        return table(frame["id"], score_N, lossdiff=lossdiff_N, irm=margin_N)
