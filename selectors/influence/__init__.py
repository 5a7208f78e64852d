"""Influence: what a training step on a record would do to a target loss, read from gradients.

With g(z) the gradient of a record's loss and v a task's target gradients, a score is <g(z), H v> or
its cosine: H = 1 for the plain methods, an optimizer's step or a curvature for the others. Shared
here: targets by task, scores summed over checkpoints.

The task of a target row is `task` in its `meta` (a column "task" of the user's file), else its
source; a row that stands in several tasks counts for each. `score_target_<task>` is kept for the
rule `round_robin`.
"""

# N = pool rows, J = target rows, S = tasks, D = features

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations, Signal
from gristmill.pipeline.numerics.similarity import (
    Aggregation,
    Doubles,
    Reduction,
    Similarity,
    over_checkpoints,
    over_tasks,
    task_scores,
    task_vectors,
)
from gristmill.pipeline.records.tasks import TASK_COLUMNS, tasks_of

__all__ = ["TASK_COLUMNS"]

LOG = logging.getLogger(__name__)
MAX_PARTS = 1_024  # per-task columns are kept for at most this many tasks


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The target rows that have a gradient, sorted by id and task.

    Attributes:
        tasks: task of each, J names; a row of several tasks stands there for each.
        features: one J x D array per model of the role.
        weights: of the models; they add up to 1.
    """

    tasks: tuple[str, ...]
    features: tuple[npt.NDArray[np.float32], ...]
    weights: tuple[float, ...]


def targets_of(reference: Observations, signal: Signal, *, one_task: bool = False) -> Targets:
    """Read the reference set's features and tasks.

    Args:
        reference: carries `signal` and TASK_COLUMNS.
        signal: the feature.
        one_task: all rows are of one task, whatever they say.

    Raises:
        ValueError: no row of it has a gradient.
    """
    columns = reference.columns(signal)
    names = [name for name, _ in columns]
    frame = reference.frame()
    seen = frame.drop_nulls(names).sort("id")
    if seen.is_empty():
        raise ValueError(
            f"none of the {frame.height} rows of the reference set has a gradient: give rows whose "
            "answers the model can read within its context."
        )
    if seen.height < frame.height:
        lost = frame.height - seen.height
        LOG.warning("%d of %d target rows have no gradient and are left out.", lost, frame.height)
    seen = seen.with_columns(task=pl.lit("all")) if one_task else by_tasks(seen, reference)
    return Targets(
        tasks=tuple(seen["task"].to_list()),
        features=tuple(seen[name].to_numpy() for name in names),
        weights=tuple(weight for _, weight in columns),
    )


def by_tasks(frame: pl.DataFrame, reference: Observations) -> pl.DataFrame:
    """The rows of `frame` with their `task`, once for each of its tasks, sorted by id and task."""
    tasks = tasks_of(reference.copies())
    if (count := tasks["task"].n_unique()) > MAX_PARTS:
        LOG.warning(
            "%s tasks: scores are not kept task by task beyond %s, and the rule round_robin needs "
            "them; join some in a column `task`.",
            f"{count:,}",
            f"{MAX_PARTS:,}",
        )
    return frame.join(tasks, on="id", how="left", maintain_order="left")


def similarity_to_tasks(
    pool: Observations,
    signal: Signal,
    target: Targets,
    *,
    similarity: Similarity,
    aggregation: Aggregation = "mean_of_cosines",
    reduce: Reduction = "max",
) -> pl.DataFrame:
    """Similarity of every pool row to each task, over checkpoints, and reduced over tasks.

    Returns `id`, `score`, `score_target_<task>` and `reason`. Memory: one block of the pool.
    """
    found = [
        task_vectors(y_JD, target.tasks, similarity=similarity, aggregation=aggregation)
        for y_JD in target.features
    ]
    vectors = [vector_SD for _, vector_SD in found]
    return inner_products(pool, signal, found[0][0], vectors, reduce, similarity)


def inner_products(
    pool: Observations,
    signal: Signal,
    tasks: Sequence[str],
    vectors: Sequence[Doubles],
    reduce: Reduction,
    similarity: Similarity = "inner",
) -> pl.DataFrame:
    """Products (or cosines) of the pool's features with one S x D matrix per checkpoint."""
    columns = pool.columns(signal)
    if len(columns) != len(vectors):
        raise ValueError(
            f"the pool was read with {len(columns)} models and the reference set with "
            f"{len(vectors)}: bind the same checkpoints for both."
        )
    names, weights = zip(*columns, strict=True)
    parts = []
    for block in pool.blocks():
        seen = block.drop_nulls(names)
        scores = [
            task_scores([seen[name].to_numpy()], vector_SD, similarity=similarity)
            for name, vector_SD in zip(names, vectors, strict=True)
        ]
        parts.append(by_task(block, seen["id"], tasks, over_checkpoints(scores, weights), reduce))
    return pl.concat(parts)


def task_means(target: Targets) -> tuple[tuple[str, ...], Doubles]:
    """Mean target gradient of each task, in name order, of the one model of the role."""
    (y_JD,) = target.features
    return task_vectors(y_JD, target.tasks, similarity="inner")


def in_own_units(solved_SD: Doubles, plain_SD: Doubles) -> Doubles:
    """Preconditioned target gradients, scaled so that they score 1 on themselves on average.

    The scale of an inverse curvature is arbitrary (damping is relative, labels are sampled): one
    positive factor for all tasks moves no rank, and makes scores comparable between runs.
    """
    own = float(np.einsum("sd,sd->s", solved_SD, plain_SD).mean())
    if not own > 0:
        raise ValueError(
            "the target gradients are zero under the curvature: give target rows that the model "
            "does not answer with certainty."
        )
    scaled_SD: Doubles = solved_SD / own
    return scaled_SD


def by_task(
    block: pl.DataFrame,
    ids: pl.Series,
    tasks: Sequence[str],
    score_NS: Doubles,
    reduce: Reduction,
) -> pl.DataFrame:
    """The scores table of one block: reduced, by task, null where there is no gradient."""
    columns = {"score": over_tasks(score_NS, reduce) if len(score_NS) else np.zeros(0)}
    if len(tasks) <= MAX_PARTS:
        columns |= {f"score_target_{t}": score_NS[:, s] for s, t in enumerate(tasks)}
    scored = pl.DataFrame(
        [ids, *(pl.Series(n, v, dtype=pl.Float64, nan_to_null=True) for n, v in columns.items())]
    )
    flat = pl.col("id").is_in(ids.implode()) & pl.col("score").is_null()
    return (
        block.select("id")
        .join(scored, on="id", how="left", maintain_order="left")
        .with_columns(reason=pl.when(flat).then(pl.lit("zero_gradient")))
    )
