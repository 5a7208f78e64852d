"""LossDiff: does training on the validation pairs also help on this pair?"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.prepare.preference import PairTuned, PairWarmUp, settings_for, warmed_up
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.signals.pair_signals import Objective
from gristmill.selectors.preference import count_targets, table


@dataclass(frozen=True, kw_only=True)
class Lossdiff(Scorer):
    """Fall of a pair's loss from the warmed-up model to the same model tuned on validation pairs.

    LossDiff(d) = l(theta; d) - l(theta_val; d). If theta_val is one gradient step of size eta from
    theta, LossDiff = eta IF + O(eta^2) with IF(d) = <grad l(d), g_v>, the influence of `tif`.

    Reads: `SequenceLogProb` of both sides under the roles "target", "validation", "reference".
    Reference: required; validation pairs, from 32 on, neither in the pool nor in any test set. The
        model in the role "validation" is trained on them; they are not observed.
    Higher means: what helps on the validation pairs helps here. Use the rule `band`: the lowest
        are noisy or mislabelled.
    Cost: 3 pair-forwards and 48 bytes a pair to observe, after one epoch of DPO on the pool and one
        on the validation pairs; O(N) to score.
    Paper: "Towards Understanding Valuable Preference Data for Large Language Model Alignment",
        ICLR 2026, arXiv:2510.13212.
    Departures: the paper does not say where theta_val starts; ours starts from theta, so that the
        expansion above holds (`start="reference"` is the other choice).
    Relations: `tif` is what it estimates, at the price of gradients or of two finite-difference
        copies; `lossdiff_irm` joins it with `irm`, which reads a subset of its signals.
    Example: `Lossdiff(start="reference").score(pool, reference)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2510.13212"
    rule: ClassVar[str] = "band"
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
    def recipes(self) -> tuple[Recipe, ...]:
        tuned = PairTuned(base=self.start, settings=settings_for(self.objective))
        return (*warmed_up(self.objective, self.warm_up), tuned)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        count_targets(reference)
        loss, blocks = self.objective, []
        for block in pool.blocks():
            before_N, after_N = (
                loss.loss(loss.margin(block, role)) for role in ("target", "validation")
            )
            blocks.append(table(block["id"], before_N - after_N))
        return pl.concat(blocks)
