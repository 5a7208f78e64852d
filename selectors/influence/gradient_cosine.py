"""Gradient cosine: would a training step on this record also lower the target loss?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal
from gristmill.pipeline.numerics.similarity import Aggregation, Reduction, Similarity
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient
from gristmill.selectors.influence import TASK_COLUMNS, similarity_to_tasks, targets_of


@dataclass(frozen=True, kw_only=True)
class GradientCosine(Scorer):
    """Cosine between a record's loss gradient and those of the target rows, model as it is.

    score(z) = max_task mean_{v in task} cos(R g(z), R g(v)), g the gradient of the mean loss per
    answer token in all linear layers, R a fixed random projection.

    Also called: gradient similarity, TracIn-cosine at one checkpoint. Not a likeness of texts: two
    records are alike if the model would change in the same way for both.

    Reads: `ProjectedGradient` of the model in the role that `role` names ("target").
    Reference: required; tens to hundreds of rows, in neither pool nor test set; a column `task`
        divides them, else their source does.
    Higher means: a step on this record lowers the target loss more. Keep it.
    Cost: 1 forward and 1 backward to activations, 4 D bytes a row to observe; O(N S D) to score.
    Paper: the similarity of Xia et al., "LESS", ICML 2024, arXiv:2402.04333, without its warm-up;
        Pruthi et al., "TracIn", NeurIPS 2020, arXiv:2002.08484.
    Departures: factored projections of every linear layer, not a dense matrix on an adapter. The
        order in which tasks take turns is the rule `round_robin` over `score_target_<task>`.
    Relations: `less` adds warm-up and Adam's direction at over twice the cost. `tracin` keeps the
        gradients' norms and so favours short answers. `rds_plus` needs no backward pass.
    Example: `GradientCosine(reduce="mean").score(pool, reference)`
    """

    scope: ClassVar = "row"
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2402.04333"
    cost: ClassVar[str] = "2 fe"
    multi_model: ClassVar[bool] = True
    role: Literal["target", "proxy"] = "target"
    similarity: Similarity = "cosine"
    aggregation: Aggregation = "mean_of_cosines"
    reduce: Reduction = "max"
    layers: str = "linear"  # or "lora", for a model with an adapter
    loss: Literal["mean", "sum"] = "mean"
    k: int = 16  # numbers kept on each side of a layer
    size: int = 8_192
    seed: int = 0

    @property
    def signals(self) -> tuple[Signal, ...]:
        of = Backward(layers=self.layers, loss=self.loss)
        return (ProjectedGradient(role=self.role, of=of, k=self.k, size=self.size, seed=self.seed),)

    @property
    def record_columns(self) -> tuple[str, ...]:
        return TASK_COLUMNS

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        assert reference is not None
        (signal,) = self.signals
        return similarity_to_tasks(
            pool,
            signal,
            targets_of(reference, signal),
            similarity=self.similarity,
            aggregation=self.aggregation,
            reduce=self.reduce,
        )
