"""TracIn: by how much would steps on this record have lowered the target loss during training?"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient
from gristmill.selectors.influence import TASK_COLUMNS, inner_products, targets_of
from gristmill.selectors.influence._warm_up import AdapterWarmUp


@dataclass(frozen=True, kw_only=True)
class Tracin(Scorer):
    """Inner products of a record's gradient with the mean target gradient, over checkpoints.

    score(z) = sum_c w_c <g(z; c), mean_v g(v; c)>, with g the gradient in the adapter and w_c the
    mean learning rates of the checkpoints, scaled to sum 1: up to that scale the drop of the target
    loss along the run, to first order. `score_self` = sum_c w_c |g(z; c)|^2 is the self-influence,
    high for records that the model finds odd, wrong labels among them.

    Also called: TracInCP, gradient tracing. It does not retrain, and knows no curvature.

    Reads: `ProjectedGradient` of the adapter at every checkpoint of the role that `role` names
        ("target").
    Reference: required; tens to hundreds of rows of one task, in neither pool nor test set.
    Higher means: a step on this record lowers the target loss more. Keep it.
    Cost: a warm-up on 5 % of the pool, then a forward, a backward and 4 D bytes a row and
        checkpoint to observe; O(N D) to score.
    Paper: Pruthi et al., "Estimating Training Data Influence by Tracing Gradient Descent", NeurIPS
        2020, arXiv:2002.08484.
    Departures: gradients of an adapter, projected (unbiased), where the paper reads a last layer;
        the mean over target rows, which orders records like the sum; checkpoints of LESS's
        warm-up, one below 2,000 rows.
    Relations: `less` takes directions instead of norms, Adam's step, and the best of several tasks:
        sturdier where answers differ in length. `ekfac` divides by the curvature.
    Example: `Tracin(loss="sum").score(pool, reference)`
    """

    scope: ClassVar = "row"
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2002.08484"
    cost: ClassVar[str] = "2 fe a checkpoint, warm-up 0.4 fe"
    multi_model: ClassVar[bool] = True
    role: Literal["target", "proxy"] = "target"
    loss: Literal["mean", "sum"] = "mean"
    k: int = 16  # numbers kept on each side of a layer
    size: int = 8_192
    warm_up: AdapterWarmUp = field(default_factory=AdapterWarmUp)  # one checkpoint an epoch
    seed: int = 0

    @property
    def signals(self) -> tuple[Signal, ...]:
        of = Backward(layers="lora", loss=self.loss)
        return (ProjectedGradient(role=self.role, of=of, k=self.k, size=self.size, seed=self.seed),)

    @property
    def record_columns(self) -> tuple[str, ...]:
        return TASK_COLUMNS

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (self.warm_up.recipe(self.role, self.seed),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        assert reference is not None
        (signal,) = self.signals
        target = targets_of(reference, signal, one_task=True)
        means = [y_JD.mean(0, dtype=np.float64)[None] for y_JD in target.features]
        scored = inner_products(pool, signal, ("all",), means, "max").drop("score_target_all")
        return scored.with_columns(score_self=self._self(pool, signal))

    def _self(self, pool: Observations, signal: Signal) -> pl.Series:
        parts = []
        for block in pool.blocks():
            total = pl.Series(np.zeros(block.height))
            for name, weight in pool.columns(signal):
                there = block[name].is_not_null()
                x_ND = block[name].drop_nulls().to_numpy().astype(np.float64)
                norm = np.full(block.height, np.nan)
                norm[there.to_numpy()] = np.einsum("nd,nd->n", x_ND, x_ND)
                total = total + weight * norm
            parts.append(total)
        return pl.concat(parts).fill_nan(None).alias("score_self")
