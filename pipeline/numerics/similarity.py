"""Scores over features: how alike is a pool row's feature to those of the target rows?

| similarity | aggregation over a task's rows | score of row x for task S |
|---|---|---|
| cosine | `mean_of_cosines` | `mean_j cos(x, y_j)` |
| cosine | `mean_gradient` | `cos(x, mean_j y_j)` |
| inner | either | `<x, mean_j y_j>` |

Each is one product with one vector a task, so the pool streams by in blocks of rows: memory does
not depend on its size. Arithmetic is in float64.
"""

# N = pool rows, J = target rows, S = tasks, D = features

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

Similarity = Literal["cosine", "inner"]
Aggregation = Literal["mean_of_cosines", "mean_gradient"]
Reduction = Literal["max", "mean"]
Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
F = TypeVar("F", bound=np.floating[Any])


def task_vectors(
    targets_JD: Floats,
    tasks_J: Sequence[str],
    *,
    similarity: Similarity = "cosine",
    aggregation: Aggregation = "mean_of_cosines",
) -> tuple[tuple[str, ...], Doubles]:
    """One vector per task, in name order, whose product with a row (or unit row) is its score.

    Args:
        targets_JD: features of the target rows, all finite.
        tasks_J: task of each; groups may have any sizes.
        similarity: "cosine" or "inner".
        aggregation: cosine only: the mean of the cosines, or the cosine with the mean.
    """
    if len(targets_JD) != len(tasks_J) or not len(tasks_J):
        raise ValueError(
            f"{len(targets_JD)} target features and {len(tasks_J)} task names were given; expected "
            "as many of each, and at least one."
        )
    y_JD = np.asarray(targets_JD, dtype=np.float64)
    if not np.isfinite(y_JD).all():
        bad = int((~np.isfinite(y_JD).all(1)).sum())
        raise ValueError(f"{bad} of {len(y_JD)} target rows have no finite feature: drop them.")
    if similarity == "cosine" and aggregation == "mean_of_cosines":
        y_JD = unit(y_JD, zero=np.nan)
    names = tuple(sorted(set(tasks_J)))
    of_J = np.asarray([names.index(t) for t in tasks_J])
    vector_SD = np.stack([y_JD[of_J == s].mean(0) for s in range(len(names))])
    if similarity == "cosine" and aggregation == "mean_gradient":
        vector_SD = unit(vector_SD, zero=np.nan)
    if not np.isfinite(vector_SD).all():
        raise ValueError(
            "a target gradient is zero, and zero has no direction: drop target rows whose answer "
            "the model already gives with certainty, or use the inner product."
        )
    return names, vector_SD


def unit(x_ND: npt.NDArray[F], *, zero: float = 0.0) -> npt.NDArray[F]:
    """Rows scaled to length 1, in the precision that they have.

    Args:
        x_ND: the rows.
        zero: what a row of zeros becomes, as it has no direction: zeros, or NaN.
    """
    norm_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    scaled: npt.NDArray[F] = (x_ND / np.where(norm_N1 > 0, norm_N1, 1)).astype(
        x_ND.dtype, copy=False
    )
    if zero != 0:
        scaled[~(norm_N1[:, 0] > 0)] = zero
    return scaled


def task_scores(
    blocks: Iterable[Floats],
    vector_SD: Doubles,
    *,
    similarity: Similarity = "cosine",
    rows: int = 16_384,
) -> Doubles:
    """Score of every pool row for every task, N x S; NaN for rows without a direction.

    Args:
        blocks: pool features, N x D in all, block by block (memory-mapped arrays are fine).
        vector_SD: from `task_vectors`.
        similarity: as there.
        rows: rows turned into float64 at a time.
    """
    scores = [np.zeros((0, len(vector_SD)))]
    for block in blocks:
        if block.shape[1] != vector_SD.shape[1]:
            raise ValueError(
                f"pool features have {block.shape[1]} numbers and target features "
                f"{vector_SD.shape[1]}: both must come from the same layers and projection."
            )
        for first in range(0, len(block), rows):
            x_ND = np.asarray(block[first : first + rows], dtype=np.float64)
            score_NS = x_ND @ vector_SD.T
            if similarity == "cosine":
                norm_N = np.sqrt(np.einsum("nd,nd->n", x_ND, x_ND))
                score_NS /= np.where(norm_N > 0, norm_N, np.nan)[:, None]
            scores.append(score_NS)
    return np.concatenate(scores)


def over_checkpoints(scores: Sequence[Doubles], rates: Sequence[float]) -> Doubles:
    """Sum over checkpoints, weighted by their mean learning rates scaled to sum 1."""
    if len(scores) != len(rates) or not scores or min(rates) < 0 or sum(rates) <= 0:
        raise ValueError(
            f"{len(scores)} checkpoints and the learning rates {list(rates)} were given; expected "
            "one rate above 0 for each."
        )
    total: Doubles = sum(
        (s * (r / sum(rates)) for s, r in zip(scores, rates, strict=True)),
        start=np.zeros_like(scores[0]),
    )
    return total


def over_tasks(score_NS: Doubles, reduction: Reduction = "max") -> Doubles:
    """One score per row: its best task, or the mean of all."""
    reduced: Doubles = score_NS.max(1) if reduction == "max" else score_NS.mean(1)
    return reduced


def round_robin(
    score_NS: Doubles, ids: Sequence[str], picks: int | None = None
) -> npt.NDArray[np.int64]:
    """Rows in the order in which tasks, one after the other, take their best unused row.

    Args:
        score_NS: tasks in name order; rows with NaN are never taken.
        ids: of the rows; ties go to the smaller id.
        picks: how many rows to take; all by default.
    """
    by_id = np.argsort(np.asarray(ids), kind="stable")
    by_id = by_id[np.isfinite(score_NS[by_id]).all(1)]
    most = len(by_id) if picks is None else min(picks, len(by_id))
    # no task can need more than `most` candidates: each one it loses was a pick of another
    queues = [by_id[np.argsort(-column[by_id], kind="stable")[:most]] for column in score_NS.T]
    at = [0] * len(queues)
    used = np.zeros(len(score_NS), dtype=bool)
    order: list[int] = []
    while len(order) < most:
        for s, queue in enumerate(queues):
            if len(order) == most:
                break
            while used[queue[at[s]]]:
                at[s] += 1
            used[queue[at[s]]] = True
            order.append(int(queue[at[s]]))
    return np.asarray(order, dtype=np.int64)


def to_half(x_ND: Floats) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float32]]:
    """Features for storage: rows of root-mean-square 1 in float16, and their norms in float32.

    Raw gradients would vanish: float16 ends at 6e-8. A row of zeros stays one, with norm 0; a row
    that is not finite becomes NaN.
    """
    wide_ND = np.asarray(x_ND, dtype=np.float64)
    norm_N = np.sqrt(np.einsum("nd,nd->n", wide_ND, wide_ND))
    scale_N = np.where(norm_N > 0, np.sqrt(wide_ND.shape[1]) / np.where(norm_N > 0, norm_N, 1), 1)
    fine_N = np.isfinite(norm_N)
    half = np.where(fine_N[:, None], wide_ND * np.where(fine_N, scale_N, 1)[:, None], np.nan)
    return half.astype(np.float16), norm_N.astype(np.float32)


def from_half(half_ND: npt.NDArray[np.float16], norm_N: Floats) -> npt.NDArray[np.float32]:
    """The features that `to_half` was given, to float16's precision."""
    scale_N = np.asarray(norm_N, dtype=np.float64) / np.sqrt(half_ND.shape[1])
    features: npt.NDArray[np.float32] = half_ND.astype(np.float32)
    features *= scale_N.astype(np.float32)[:, None]
    return features
