"""DataInf: influence of an adapter's training rows in closed form."""

# N = rows, S = tasks, W = numbers of all layers side by side

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.models.gradients.fisher import Damping, datainf
from gristmill.pipeline.numerics.similarity import Reduction
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient
from gristmill.selectors.influence import (
    TASK_COLUMNS,
    in_own_units,
    inner_products,
    targets_of,
    task_means,
)
from gristmill.selectors.influence._ekfac import LayerWidths
from gristmill.selectors.influence._warm_up import AdapterWarmUp


@dataclass(frozen=True, kw_only=True)
class DataInf(Scorer):
    """Influence function of an adapter, with the mean of inverses for the inverse of the mean.

    score(z) = max_task <u, g(z)>, with v the task's mean target gradient and, layer by layer,
    u = 1/(n d) sum_i [v - (g_i . v) / (d + |g_i|^2) g_i] over n rows of the pool and
    d = damping * mean_i mean square of g_i, of the layer's weights as many as there are. Scores are
    in units of what the mean target gradients score on themselves.

    Also called: Sherman-Morrison influence. An approximation that is good for adapters of low rank
    and poor for whole models, where rows' gradients overlap.

    Reads: `ProjectedGradient` of the adapter in the role that `role` names ("target"), layers side
        by side; of the targets also their `LayerWidths`.
    Reference: required; tens to hundreds of rows, in neither pool nor test set; a column `task`
        divides them, else their source does.
    Higher means: the record lowers the target loss more (the paper's sign turned round). Keep it.
    Cost: a warm-up on 5 % of the pool, then 1 forward, 1 backward and 4 k^2 bytes a layer and row
        to observe; O((n + N) S W) to score.
    Paper: Kwon et al., "DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs and
        Diffusion Models", ICLR 2024, arXiv:2310.00902.
    Departures: projected gradients, with the damping of the layers before it, so that u . g is on
        average over seeds what it is without (to a few per cent: one u holds products of three
        projected gradients); the warm-up of `less` at rank 8 makes the adapter; curvature from at
        most 4,096 rows, drawn by a hash of their ids.
    Relations: `ekfac` knows which directions go together and needs a pass more over some rows;
        `tracin` is the limit of much damping.
    Example: `DataInf(probes=1000).score(pool, reference)`
    """

    version: ClassVar[int] = 2
    scope: ClassVar = "pool"
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2310.00902"
    cost: ClassVar[str] = "2 fe, warm-up 0.4 fe"
    role: Literal["target", "proxy"] = "target"
    damping: float = 0.1
    probes: int = 4_096
    reduce: Reduction = "max"
    k: int = 8  # numbers kept on each side of a layer
    warm_up: AdapterWarmUp = field(default_factory=lambda: AdapterWarmUp(rank=8, alpha=16.0))
    seed: int = 0

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (self._gradient,)

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return (self._gradient, self._widths)

    @property
    def record_columns(self) -> tuple[str, ...]:
        return TASK_COLUMNS

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (self.warm_up.recipe(self.role, self.seed, checkpoints="last"),)

    @property
    def _gradient(self) -> ProjectedGradient:
        of = Backward(layers="lora")
        return ProjectedGradient(role=self.role, of=of, k=self.k, size=None, seed=self.seed)

    @property
    def _widths(self) -> LayerWidths:
        return LayerWidths(role=self.role, of=Backward(layers="lora"), k=self.k)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        assert reference is not None
        if self.probes < 1:
            raise ValueError(f"probes is at least 1; found {self.probes}.")
        ((name, _),) = pool.columns(self._gradient)
        layers = reference.frame()[self._widths.column].drop_nulls()[0].to_list()
        kept, whole = ([layer[n] for layer in layers] for n in ("kept", "whole"))
        tasks, plain_SW = task_means(targets_of(reference, self._gradient))
        drawn = self._drawn(pool, name)

        def blocks() -> Iterator[npt.NDArray[np.float32]]:
            for block in pool.blocks():
                yield block.join(drawn, on="id", how="semi")[name].to_numpy()

        damping = Damping(value=self.damping)
        solved_SW = datainf(blocks, plain_SW, kept, damping, dimensions=whole)
        vector_SW = in_own_units(solved_SW, plain_SW)
        return inner_products(pool, self._gradient, tasks, [vector_SW], self.reduce)

    def _drawn(self, pool: Observations, column: str) -> pl.DataFrame:
        """Ids of the rows that the curvature is taken from."""
        ids = (i for b in pool.blocks() for i in b.drop_nulls(column)["id"])
        keyed = ((uniform(self.seed, "datainf", i), i) for i in ids)
        return pl.DataFrame(
            {"id": [i for _, i in heapq.nsmallest(self.probes, keyed)]}, schema={"id": pl.String}
        )
