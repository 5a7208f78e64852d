"""Spectral clustering of unit vectors over the graph of their nearest neighbours.

`A_ij = exp(-d_ij^2 / 2 s^2)` between neighbours, s the median distance; the leading eigenvectors of
`D^-1/2 A D^-1/2`, rescaled by `D^-1/2`, are the diffusion coordinates of the rows; k-means cuts
them. Memory O(N (neighbours + clusters)), time O(N^2 D) for the neighbours.
"""

# N = rows, D = dimensions, K = clusters, J = neighbours

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.numerics.kmeans import kmeans

Matrix = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DENSE = 1_000  # rows up to which all eigenvectors are computed
SAMPLE = 1_000  # rows whose distances give the kernel's width
BLOCK = 1_024  # rows compared with all others at once
STARTS, ROUNDS = 10, 100  # of k-means


def spectral_clusters(
    unit_ND: Matrix, clusters: int, *, neighbours: int = 10, seed: int = 0
) -> Ints:
    """Cluster of every row, numbered by the first row of each.

    Args:
        unit_ND: rows of length 1 in an order that the data decides (by id).
        clusters: how many; never more than rows.
        neighbours: of a row, at least; a pair counts if either row is near the other.
        seed: of k-means.
    """
    if clusters < 1 or neighbours < 1:
        raise ValueError(
            f"clusters and neighbours are at least 1; found {clusters} and {neighbours}."
        )
    rows = len(unit_ND)
    clusters = min(clusters, rows)
    if clusters < 2:
        return np.zeros(rows, dtype=np.int64)
    _, cluster_N = kmeans(
        _coordinates(unit_ND, clusters, neighbours),
        clusters,
        seed=seed,
        iterations=ROUNDS,
        restarts=STARTS,
        init="k-means++",
    )
    return by_first_row(cluster_N)


def _coordinates(unit_ND: Matrix, clusters: int, neighbours: int) -> Doubles:
    """Diffusion coordinates: the leading eigenvectors of the random walk, N x K."""
    from scipy.sparse import csr_array, diags_array
    from scipy.sparse.linalg import eigsh

    rows = len(unit_ND)
    near_NJ, square_NJ = _neighbours(unit_ND, min(neighbours, rows - 1))
    width = _median_square(unit_ND)
    weight_NJ = np.exp(-square_NJ / (2 * width)) if width else np.ones(near_NJ.shape)
    at = np.repeat(np.arange(rows), near_NJ.shape[1])
    graph = csr_array((weight_NJ.ravel(), (at, near_NJ.ravel())), shape=(rows, rows))
    graph = graph.maximum(graph.T)
    scale_N = 1 / np.sqrt(np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1e-300))
    walk = diags_array(scale_N) @ graph @ diags_array(scale_N)
    if rows <= max(DENSE, clusters + 1):
        vectors_NK = np.linalg.eigh(walk.toarray())[1][:, -clusters:]
    else:
        start_N = np.cos(np.arange(rows))  # any fixed vector with a part along all eigenvectors
        vectors_NK = eigsh(walk, k=clusters, which="LA", v0=start_N)[1]
    coordinates_NK: Doubles = vectors_NK * scale_N[:, None]
    return coordinates_NK


def _neighbours(unit_ND: Matrix, count: int) -> tuple[Ints, Doubles]:
    """The nearest other rows of each row, and their squared distances."""
    near, square = [], []
    for first in range(0, len(unit_ND), BLOCK):
        cosine_BN = (unit_ND[first : first + BLOCK] @ unit_ND.T).astype(np.float64)
        own = np.arange(len(cosine_BN))
        cosine_BN[own, first + own] = -np.inf
        at_BJ = np.argpartition(-cosine_BN, count - 1, axis=1)[:, :count]
        near.append(at_BJ)
        square.append(np.maximum(2 - 2 * np.take_along_axis(cosine_BN, at_BJ, axis=1), 0))
    return np.concatenate(near), np.concatenate(square)


def _median_square(unit_ND: Matrix) -> float:
    """Square of the median distance between sampled rows: an even sample in the given order."""
    some_ND = unit_ND[:: math.ceil(len(unit_ND) / SAMPLE)].astype(np.float64)
    upper = np.triu_indices(len(some_ND), 1)
    distance = np.sqrt(np.maximum(2 - 2 * (some_ND @ some_ND.T)[upper], 0))
    return float(np.median(distance)) ** 2


def by_first_row(cluster_N: Ints) -> Ints:
    """The same clusters, numbered by the first row of each."""
    _, first, at_N = np.unique(cluster_N, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[at_N]
