"""Facility location over a graph of nearest neighbours: lazy greedy where all pairs are too many.

The objective is that of `coverage.facility_location`, f(S) = sum_i max(0, max_{j in S} cos(i, j)).
A candidate's gain is counted over the rows that have it among their nearest neighbours; what each
row has been given so far, its cover, is counted over all picks, brought up to date in batches. A
gain that lies outside the graph is never seen, so the picks can differ from the exact ones; where
every row neighbours every other they are the same.
"""

# N = rows, D = dimensions, P = picks

import heapq

import numpy as np
from scipy.sparse import csr_array

from gristmill.pipeline.numerics.coverage import BLOCK, Ints, Picks
from gristmill.pipeline.numerics.neighbours import Neighbours, Vectors

BATCH = 256  # picks after which the cover of all rows is brought up to date


def cover_graph(unit_ND: Vectors, graph: Neighbours, picks: int) -> Picks:
    """Add the candidate that raises the cover within the graph most, again and again.

    A gain never rises, so an old one bounds what a candidate has now (Minoux 1978): the highest
    bound is brought up to date until the highest is a fresh one. Ties go to the lowest index.

    Returns:
        The picks; worth is the gain in cover that the graph shows.
    """
    rows, count = graph.index_NL.shape
    of_row = csr_array(
        (graph.cosine_NL.ravel(), graph.index_NL.ravel(), np.arange(rows + 1) * count),
        shape=(rows, rows),
    )
    by_candidate = of_row.tocsc()
    begin_N1, at, cosine = by_candidate.indptr, by_candidate.indices, by_candidate.data
    gain_N = np.zeros(rows)
    for start in range(0, rows, max(1, BLOCK // count)):
        some = slice(start, start + max(1, BLOCK // count))
        np.add.at(gain_N, graph.index_NL[some], np.maximum(graph.cosine_NL[some], 0))
    heap = [(-gain, candidate) for candidate, gain in enumerate(gain_N.tolist())]
    heapq.heapify(heap)
    fresh_N = np.zeros(rows, np.int64)  # picks that a candidate's gain knows of
    cover_N = np.zeros(rows, np.float32)
    chosen: list[int] = []
    worth: list[float] = []
    told = 0  # picks that the cover of all rows knows of
    while len(chosen) < min(picks, rows):
        bound, candidate = heap[0]
        near = slice(begin_N1[candidate], begin_N1[candidate + 1])
        if fresh_N[candidate] < len(chosen):
            above = np.maximum(cosine[near] - cover_N[at[near]], 0)
            fresh_N[candidate] = len(chosen)
            heapq.heapreplace(heap, (-float(above.sum(dtype=np.float64)), candidate))
            continue
        heapq.heappop(heap)
        chosen.append(candidate)
        worth.append(-bound)
        cover_N[at[near]] = np.maximum(cover_N[at[near]], cosine[near])
        if len(chosen) - told >= min(BATCH, told + 1):  # early picks serve everybody
            np.maximum(cover_N, covers(unit_ND, np.array(chosen[told:])), out=cover_N)
            told = len(chosen)
    return Picks(rows=np.array(chosen, np.int64), worth=np.array(worth))


def covers(unit_ND: Vectors, picked: Ints) -> Vectors:
    """What each row has of its most similar pick: its term of the objective."""
    cover_N = np.empty(len(unit_ND), np.float32)
    picked_PD = unit_ND[picked]
    step = max(1, BLOCK // len(picked))
    for start in range(0, len(unit_ND), step):
        some = slice(start, start + step)
        cover_N[some] = np.maximum((unit_ND[some] @ picked_PD.T).max(axis=1), 0)
    return cover_N
