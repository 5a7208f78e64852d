"""LESS: would the optimizer's own step on this record lower the loss of the best-served task?"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.numerics.similarity import Aggregation, Reduction
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient
from gristmill.selectors.influence import TASK_COLUMNS, similarity_to_tasks, targets_of
from gristmill.selectors.influence._warm_up import AdapterWarmUp


@dataclass(frozen=True, kw_only=True)
class Less(Scorer):
    """Cosine of Adam's step on a record with target gradients, summed over warm-up checkpoints.

    score(z) = max_task sum_c w_c mean_{v in task} cos(R g(v; c), R G(z; c)), with g the gradient
    in the adapter, G the step that Adam, in its state at checkpoint c, would take on g, R one
    random projection for all rows and checkpoints, and w_c the mean learning rates scaled to sum 1.

    Also called: low-rank gradient similarity search. Not an influence function: no curvature.

    Reads: `ProjectedGradient` of the adapter, Adam's form for the pool and plain for the targets,
        at every checkpoint of the role that `role` names ("target").
    Reference: required; a few rows of each task, in neither pool nor test set; a column `task`
        divides them, else their source does.
    Higher means: a step on this record serves some task more. Keep it.
    Cost: a warm-up on 5 % of the pool, then a forward, a backward and 4 D bytes a row and
        checkpoint to observe; O(N S D) to score.
    Paper: Xia et al., "LESS: Selecting Influential Data for Targeted Instruction Tuning", ICML
        2024, arXiv:2402.04333.
    Departures: Adam's real step, bias-corrected and with eps outside the root (`adam_eps_inside`
        is what the released code computes); CountSketch instead of a dense matrix (`dense_jl`);
        labels are the assistant's turns with their end markers in the model's own template, where
        the code's also hold the newline behind the marker, in Tulu's; tasks come from the data, in
        any sizes; at least 256 warm-up rows; below 2,000 rows one checkpoint and, unless a rate is
        given, 1e-4. Tasks in turn: the rule `round_robin`.
    Relations: `gradient_cosine` without warm-up is cheaper by half and more, `tracin` keeps norms,
        `rds_plus` is the rival at a fraction of the cost; which wins depends on the pool.
    Example: `Less(size=8_192).score(pool, reference)`
    """

    scope: ClassVar = "row"
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2402.04333"
    cost: ClassVar[str] = "2 fe a checkpoint, warm-up 0.4 fe"
    multi_model: ClassVar[bool] = True
    role: Literal["target", "proxy"] = "target"
    update: Literal["adam", "adam_eps_inside"] = "adam"
    projection: Literal["sjlt", "dense_jl"] = "sjlt"
    size: int = 8_192  # the paper's
    aggregation: Aggregation = "mean_of_cosines"
    reduce: Reduction = "max"
    warm_up: AdapterWarmUp = field(default_factory=AdapterWarmUp)  # one checkpoint an epoch
    seed: int = 0

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (self._gradient(self.update),)

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return (self._gradient("plain"),)

    @property
    def record_columns(self) -> tuple[str, ...]:
        return TASK_COLUMNS

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (self.warm_up.recipe(self.role, self.seed),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        assert reference is not None
        return similarity_to_tasks(
            pool,
            self.signals[0],
            targets_of(reference, self.reference_signals[0]),
            similarity="cosine",
            aggregation=self.aggregation,
            reduce=self.reduce,
        )

    def _gradient(self, update: Literal["plain", "adam", "adam_eps_inside"]) -> ProjectedGradient:
        return ProjectedGradient(
            role=self.role,
            of=Backward(layers="lora"),
            projection=self.projection,
            size=self.size,
            update=update,
            seed=self.seed,
        )
