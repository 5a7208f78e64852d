"""EK-FAC influence: would training on this record, to convergence, lower the target loss?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.numerics.similarity import Doubles, Reduction
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient
from gristmill.selectors.influence import (
    LOG,
    TASK_COLUMNS,
    by_task,
    by_tasks,
    in_own_units,
    inner_products,
    targets_of,
    task_means,
)
from gristmill.selectors.influence._ekfac import (
    Curvature,
    PreconditionedDot,
    PreconditionedGradient,
)


@dataclass(frozen=True, kw_only=True)
class Ekfac(Scorer):
    """Influence function with an eigenvalue-corrected Kronecker-factored curvature.

    score(z) = max_task <(H + d)^-1 mean_v g(v), g(z)>, per layer with inputs a, output gradients s
    and G = s^T a: A = E[a a^T] = Q_A . Q_A^T, S = E[s s^T] = Q_S . Q_S^T, L = E[(Q_S^T G Q_A)^2],
    (H + d)^-1 G = Q_S [(Q_S^T G Q_A) / (L + d)] Q_A^T, d = damping * mean(L). The expectations are
    over rows of the pool with labels drawn from the model. Scores are in units of what the mean
    target gradients score on themselves.

    Also called: EK-FAC influence. Not one step of training, as `tracin` has it: the curvature says
    which directions the rest of the pool settles anyway.

    Reads: `ProjectedGradient` of the model in the role that `role` names ("target"), and of the
        targets `PreconditionedGradient`; with space="whole" `PreconditionedDot` alone.
    Reference: required; tens to hundreds of rows, in neither pool nor test set; a column `task`
        divides them, else their source does.
    Higher means: the record lowers the target loss more. Keep it.
    Cost: 1 forward and 1 backward, 4 k^2 bytes a layer and row to observe (`size` caps them); the
        curvature takes twice that on at most 1,024 rows; O(N S D) to score. space="whole": one
        forward more for each target row, and as many times the weights in memory.
    Paper: Grosse et al., "Studying Large Language Model Generalization with Influence Functions",
        2023, arXiv:2308.03296; George et al., NeurIPS 2018, arXiv:1806.03884.
    Departures: fitted and applied to gradients that are projected on both sides of a layer, as in
        Choe et al., arXiv:2405.13954, which makes curvature of any model a few megabytes;
        space="whole" is EK-FAC itself, for small models, and nearer to retraining. Damping .1 of
        the mean eigenvalue. A row's loss is its sum: against real retraining that did better than
        the mean (benchmarks/lds.py).
    Relations: `gradient_cosine` is the same without curvature, `datainf` with a cruder one that
        needs no second pass. Wrong where the model is far from a minimum: warm it up first.
    Example: `Ekfac(damping=0.1).score(pool, reference)`
    """

    version: ClassVar[int] = 2
    scope: ClassVar = "row"
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2308.03296"
    cost: ClassVar[str] = "2 fe, curvature 4 fe on 1,024 rows"
    reads_reference: ClassVar[bool] = True
    role: Literal["target", "proxy"] = "target"
    space: Literal["projected", "whole"] = "projected"
    damping: float = 0.1
    probes: int = 1_024
    reduce: Reduction = "max"
    layers: str = "linear"  # or "lora", for a model with an adapter
    loss: Literal["mean", "sum"] = "sum"  # as a batch's token mean weighs rows in training
    k: int = 16  # numbers kept on each side of a layer
    size: int | None = None  # a CountSketch of all layers to so many numbers; none: exact
    seed: int = 0

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (self._dots,) if self.space == "whole" else (self._plain,)

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return (self._dots,) if self.space == "whole" else (self._plain, self._solved)

    @property
    def record_columns(self) -> tuple[str, ...]:
        return TASK_COLUMNS

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        k = None if self.space == "whole" else self.k
        return (Curvature(base=self.role, of=self._of, k=k, seed=self.seed, probes=self.probes),)

    @property
    def _of(self) -> Backward:
        return Backward(layers=self.layers, loss=self.loss)

    @property
    def _plain(self) -> ProjectedGradient:
        return ProjectedGradient(
            role=self.role, of=self._of, k=self.k, size=self.size, seed=self.seed
        )

    @property
    def _solved(self) -> PreconditionedGradient:
        return PreconditionedGradient(
            role=self.role,
            plain=self._plain,
            curvature=self.given.artifacts.get("curvature"),
            damping=self.damping,
        )

    @property
    def _dots(self) -> PreconditionedDot:
        return PreconditionedDot(
            role=self.role,
            of=self._of,
            curvature=self.given.artifacts.get("curvature"),
            records=self.given.reference if self.space == "whole" else (),
            damping=self.damping,
        )

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        assert reference is not None
        if self.space == "whole":
            return self._by_dots(pool, reference)
        _, plain_SD = task_means(targets_of(reference, self._plain))
        tasks, solved_SD = task_means(targets_of(reference, self._solved))
        vector_SD = in_own_units(solved_SD, plain_SD)
        return inner_products(pool, self._plain, tasks, [vector_SD], self.reduce)

    def _by_dots(self, pool: Observations, reference: Observations) -> pl.DataFrame:
        ((column, _),) = pool.columns(self._dots)
        tasks, mean_SJ, fine_J = self._target_means(reference, column)
        parts = []
        for block in pool.blocks():
            seen = block.drop_nulls(column)
            dots_NJ = seen[column].to_numpy().astype(np.float64).reshape(seen.height, -1)
            dots_NJ = dots_NJ[:, fine_J] if seen.height else dots_NJ
            # a row at a time: the same bits whatever the block
            score_NS = np.stack([mean_SJ @ d_J for d_J in dots_NJ] or [mean_SJ[:, 0]])
            parts.append(by_task(block, seen["id"], tasks, score_NS[: seen.height], self.reduce))
        return pl.concat(parts)

    def _target_means(
        self, reference: Observations, column: str
    ) -> tuple[tuple[str, ...], Doubles, npt.NDArray[np.bool_]]:
        """Tasks, weights S x J of the target rows that have a gradient, and which rows these are.

        The weights are a task's mean, in units of what these means score on themselves.
        """
        frame = reference.frame().sort("id")  # in the order of `given.reference`
        fine_J = frame[column].is_not_null().to_numpy()
        seen = frame.filter(fine_J)
        if seen.height < frame.height:
            lost = frame.height - seen.height
            LOG.warning(
                "%d of %d target rows have no gradient and are left out.", lost, frame.height
            )
        # row i, column j: the gradient of target row i with the solved one of row j
        gram_JJ = seen[column].to_numpy().astype(np.float64)[:, fine_J]
        member = by_tasks(seen.select("id").with_row_index("at"), reference)
        tasks = tuple(member["task"].unique().sort().to_list())
        mean_SJ = np.zeros((len(tasks), seen.height))
        mean_SJ[[tasks.index(t) for t in member["task"]], member["at"].to_numpy()] = 1.0
        mean_SJ /= mean_SJ.sum(1, keepdims=True)
        return tasks, in_own_units(mean_SJ, mean_SJ @ gram_JJ), fine_J
