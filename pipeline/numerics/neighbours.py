"""The nearest neighbours of every row among all rows, by cosine: a graph that greedy methods walk.

A small pool is searched whole. A large one is cut into cells by spherical k-means, and a row is
compared with the rows of its own cell and of the cells whose centroids are nearest to its own, as
many as hold `LOOKED` rows: time grows with the rows, not with their square, and a neighbour that
lies in none of those cells is missed.
"""

# N = rows, D = dimensions, L = neighbours of a row, K = cells

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.numerics.kmeans import kmeans

LOOKED = 10_000  # rows that a row is compared with, at least
CELL = 1_000  # rows of a cell, on average
SAMPLE = 64  # rows a cell from which k-means learns
ITERATIONS = 10
TOGETHER = 4_096  # rows that are compared at a time

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """For each row the rows nearest to it, nearest first, itself among them, and their cosines."""

    index_NL: NDArray[np.int32]
    cosine_NL: Vectors


def neighbours(unit_ND: Vectors, count: int) -> Neighbours:
    """The graph of unit vectors; it depends on their order: sort them by id first.

    Args:
        unit_ND: the rows.
        count: neighbours of a row; at most all rows.
    """
    import faiss

    count = min(count, len(unit_ND))
    index_NL = np.empty((len(unit_ND), count), np.int32)
    cosine_NL = np.empty((len(unit_ND), count), np.float32)
    for own, others in _searches(unit_ND, max(LOOKED, count)):
        other_D = np.ascontiguousarray(unit_ND[others])
        for start in range(0, len(own), TOGETHER):
            some = own[start : start + TOGETHER]
            found = faiss.knn(unit_ND[some], other_D, count, metric=faiss.METRIC_INNER_PRODUCT)
            cosine_NL[some], index_NL[some] = found[0], others[found[1]]
    return Neighbours(index_NL=index_NL, cosine_NL=cosine_NL)


def _searches(unit_ND: Vectors, looked: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Rows, and the rows that they are compared with."""
    everyone = np.arange(len(unit_ND))
    if len(unit_ND) <= 2 * looked:
        yield everyone, everyone
        return
    centroid_KD = _centroids(unit_ND)
    cell_N = np.empty(len(unit_ND), np.int32)
    for start in range(0, len(unit_ND), TOGETHER):
        some = slice(start, start + TOGETHER)
        cell_N[some] = (unit_ND[some] @ centroid_KD.T).argmax(axis=1)
    order_N = np.argsort(cell_N, kind="stable")
    # a crowd that fills a cell with more rows than are looked at is cut into pieces of its own
    edges = [0]
    for begin, end in pairwise([*_begins(cell_N[order_N]), len(order_N)]):
        pieces = -(-(end - begin) // looked)
        edges += np.linspace(begin, end, pieces + 1).astype(int)[1:].tolist()
    pieces_P = [order_N[a:b] for a, b in pairwise(edges)]
    size_P = np.diff(edges)
    own_PD = centroid_KD[cell_N[order_N[edges[:-1]]]]
    for piece, own in enumerate(pieces_P):
        near_P = own_PD @ own_PD[piece]
        near_P[piece] = np.inf
        by_nearness = np.argsort(-near_P, kind="stable")
        enough = int(np.searchsorted(np.cumsum(size_P[by_nearness]), looked)) + 1
        # in order of the rows, so that of equally near ones the first come first
        yield own, np.sort(np.concatenate([pieces_P[p] for p in by_nearness[:enough]]))


def _centroids(unit_ND: Vectors) -> Vectors:
    cells = -(-len(unit_ND) // CELL)
    stride = max(1, len(unit_ND) // (cells * SAMPLE))
    return kmeans(unit_ND[::stride], cells, seed=0, iterations=ITERATIONS, spherical=True)[0]


def _begins(sorted_N: NDArray[Any]) -> list[int]:
    return np.flatnonzero(np.diff(sorted_N, prepend=-1)).tolist()
