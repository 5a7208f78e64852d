"""Clusters: documents that lie together are one arm of the bandit."""

# N = documents, K = clusters, D = features

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.numerics.kmeans import kmeans

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """Which documents lie together: the arms of the bandit, largest first."""

    ids: tuple[tuple[str, ...], ...]  # per cluster, in id order
    mean_KD: Array
    std_KD: Array  # sample deviation; NaN for a cluster of one


def cluster(
    ids: Sequence[str],
    embedding_ND: Array,
    *,
    clusters: int,
    seed: int = 0,
    rounds: int = 500,
    restarts: int = 5,
) -> Clusters:
    """Seeded k-means on all documents, nearest centroid by L2; row order does not matter.

    The best of `restarts` runs is kept: one alone often merges two clusters and halves a third.
    """
    n = len(ids)
    if not 1 <= clusters <= n:
        raise ValueError(f"clusters={clusters} of {n} documents is not possible: give 1 to {n}")
    assert embedding_ND.shape[0] == n, f"{embedding_ND.shape[0]} embeddings for {n} documents"
    order = np.argsort(np.array(ids))
    x_ND = np.ascontiguousarray(embedding_ND[order], dtype=np.float32)
    _, cluster_N = kmeans(x_ND, clusters, seed=seed, iterations=rounds, restarts=restarts)
    sorted_ids = [ids[i] for i in order]
    members = [np.flatnonzero(cluster_N == k) for k in range(clusters)]
    members = [m for m in members if len(m)]
    members.sort(key=lambda m: (-len(m), sorted_ids[m[0]]))
    spread = [
        x_ND[m].std(axis=0, ddof=1, dtype=np.float64)
        if len(m) > 1
        else np.full(x_ND.shape[1], np.nan)
        for m in members
    ]
    return Clusters(
        ids=tuple(tuple(sorted_ids[i] for i in m) for m in members),
        mean_KD=np.stack([x_ND[m].mean(axis=0, dtype=np.float64) for m in members]),
        std_KD=np.stack(spread),
    )
