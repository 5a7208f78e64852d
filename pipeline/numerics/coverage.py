"""Greedy coverage, exact: k-center and facility location over any similarity.

Both pick rows one by one, so their answer for k picks is the beginning of the answer for more. Ties
go to the lowest index; callers sort their rows by id first.

A similarity is a function `pairs(j, i)` that gives the block of similarities of the candidates `j`
to the rows `i`. It is asked for blocks, never for all pairs: what is held beside the data is a few
blocks and, in facility location, at most `HELD` bytes.
"""

# N = candidates, M = rows to cover, C = candidates looked at together

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Matrix = NDArray[np.floating[Any]]
Index = Ints | slice
Pairs = Callable[[Index, Index], Matrix]

BLOCK = 1 << 23  # similarities computed at once
HELD = 1 << 30  # bytes of similarities that facility location keeps
ENTRY = 8  # bytes of a kept similarity and its row
MOST_PAIRS = 2_500_000_000  # 50,000 rows among themselves
CENTERS = 1024  # candidates that k-center looks at together
SAMPLE = 32  # candidates that tell how many similarities still count
ALL = slice(None)


@dataclass(frozen=True, kw_only=True)
class Picks:
    """Rows in pick order, and what each was worth when it was picked."""

    rows: Ints
    worth: Floats


def cosine(unit_ND: Matrix, other_MD: Matrix | None = None) -> Pairs:
    """Similarity of unit vectors to those of `other_MD`, or among themselves."""
    right_MD = unit_ND if other_MD is None else other_MD
    return lambda j, i: unit_ND[j] @ right_MD[i].T


def k_center(pairs: Pairs, *, candidates: int, picks: int, start: int) -> Picks:
    """From `start`, add the row that is least similar to its nearest pick, again and again.

    The largest distance of a row to its nearest pick is at most twice the best possible (Gonzalez
    1985), where distance falls with similarity and is a metric.

    A row's similarity to its nearest pick only rises, so an old value is a lower bound. Of the rows
    with the lowest bounds some are brought up to date together; while the lowest of them is below
    all bounds outside, it is the true minimum and can be picked without looking at the rest.

    Returns:
        The picks; worth is the similarity to the nearest earlier pick, -inf for the first.
    """
    picks = min(picks, candidates)
    near_N = np.full(candidates, -np.inf)
    seen_N = np.zeros(candidates, np.int64)  # picks that near_N knows of
    rows, worth = [start], [-np.inf]
    near_N[start] = np.inf
    while len(rows) < picks:
        pool_C, bar = _lowest(near_N, CENTERS)
        fresh = np.array(rows[int(seen_N[pool_C].min()) :], np.int64)
        if len(fresh):
            near_N[pool_C] = np.maximum(near_N[pool_C], _nearest(pairs, pool_C, fresh))
        seen_N[pool_C] = len(rows)
        pairs_CC = pairs(pool_C, pool_C)
        while len(rows) < picks:
            c = int(np.argmin(near_N[pool_C]))
            lowest = near_N[pool_C[c]]
            if (lowest, pool_C[c]) >= bar or np.isposinf(lowest):
                break
            rows.append(int(pool_C[c]))
            worth.append(float(lowest))
            near_N[pool_C] = np.maximum(near_N[pool_C], pairs_CC[:, c])
            near_N[pool_C[c]] = np.inf
            seen_N[pool_C] = len(rows)
    return Picks(rows=np.array(rows, np.int64), worth=np.array(worth))


def _lowest(value_N: Floats, count: int) -> tuple[Ints, tuple[float, int]]:
    """The rows with the lowest values, in order of rows, and the value and row that come next.

    Of equal values the first rows come first. A partition takes a tenth of a sort's time.
    """
    if count >= len(value_N):
        return np.arange(len(value_N)), (np.inf, len(value_N))
    bar = np.partition(value_N, count)[count]
    below_C, ties = np.flatnonzero(value_N < bar), np.flatnonzero(value_N == bar)
    more = count - len(below_C)
    return np.sort(np.concatenate((below_C, ties[:more]))), (float(bar), int(ties[more]))


def _nearest(pairs: Pairs, rows_C: Ints, picked: Ints) -> Floats:
    """Similarity of each row to the nearest of `picked`, blockwise."""
    best_C = np.full(len(rows_C), -np.inf)
    step = max(1, BLOCK // len(rows_C))
    for start in range(0, len(picked), step):
        best_C = np.maximum(best_C, pairs(rows_C, picked[start : start + step]).max(axis=1))
    return best_C


def facility_location(pairs: Pairs, *, covered: int, candidates: int, picks: int) -> Picks:
    """Add the candidate that raises the total cover most, again and again.

    The cover of S is f(S) = sum_i max(0, max_{j in S} pairs(j, i)) over the rows i. It is monotone
    and submodular, so the greedy answer is worth at least 1 - 1/e of the best one, and a gain never
    rises: the gain that a candidate had earlier bounds what it has now. Lazy greedy (Minoux 1978)
    brings the highest bounds up to date until a fresh one is on top, and picks it.

    Only similarities above a row's cover can still count. As soon as these fit into `HELD` bytes
    they are kept, and the rest of the work is sparse; a small pool fits from the start.

    Returns:
        The picks; worth is the gain in cover.
    """
    if covered * candidates > MOST_PAIRS:
        raise ValueError(
            f"facility location is exact and takes {covered:,} x {candidates:,} similarities here; "
            f"{MOST_PAIRS:,} is the most (50,000 rows among themselves): count gains over a graph "
            f"of nearest neighbours, select fewer candidates in a first stage, or give a reference "
            f"set to be covered."
        )
    picks = min(picks, candidates)
    cover_M = pairs(slice(0, 1), ALL)[0] * 0  # of the type of the pairs
    gain_N, held = _sweep(pairs, cover_M, candidates)
    fresh_N = np.zeros(candidates, np.int64)  # picks that gain_N knows of
    together, entries = max(1, BLOCK // covered), HELD
    stride = -(-candidates // min(SAMPLE, together))
    sample_CM = pairs(slice(0, candidates, stride), ALL)
    rows: list[int] = []
    worth: list[float] = []
    while len(rows) < picks:
        best = int(np.argmax(gain_N))
        if held:
            at, similar = held.index[best], held.value[best]
        if fresh_N[best] == len(rows):
            rows.append(best)
            worth.append(float(gain_N[best]))
            gain_N[best] = -np.inf
            if held:
                cover_M[at] = np.maximum(cover_M[at], similar)
            else:
                cover_M = np.maximum(cover_M, pairs(slice(best, best + 1), ALL)[0])
        elif held:
            gain_N[best] = np.maximum(similar - cover_M[at], 0).sum(dtype=np.float64)
            fresh_N[best] = len(rows)
        else:
            bound_N = np.where(fresh_N < len(rows), gain_N, -np.inf)
            stale_C = np.argsort(-bound_N, kind="stable")[:together]
            gain_N[stale_C] = _gain(pairs(stale_C, ALL), cover_M)
            fresh_N[stale_C] = len(rows)
            if (sample_CM > cover_M).mean() * covered * candidates * ENTRY < entries:
                gain_N, held = _sweep(pairs, cover_M, candidates)
                fresh_N[:] = len(rows)
                entries //= 2  # should it not have fitted after all, wait for half as much
            gain_N[rows] = -np.inf
    return Picks(rows=np.array(rows, np.int64), worth=np.array(worth))


@dataclass(frozen=True, kw_only=True)
class _Held:
    """For each candidate the rows, and its similarity to them, that lay above their cover."""

    index: list[NDArray[np.int32]]
    value: list[Matrix]


def _sweep(pairs: Pairs, cover_M: Matrix, candidates: int) -> tuple[Floats, _Held | None]:
    """Gain of every candidate, and the similarities behind the gains if they fit into `HELD`."""
    gain_N = np.empty(candidates)
    held: _Held | None = _Held(index=[], value=[])
    entries = 0
    step = max(1, BLOCK // len(cover_M))
    for start in range(0, candidates, step):
        part = slice(start, min(start + step, candidates))
        pairs_CM = pairs(part, ALL)
        gain_N[part] = _gain(pairs_CM, cover_M)
        if not held:
            continue
        at = np.flatnonzero(pairs_CM > cover_M)
        entries += len(at)
        if entries * ENTRY > HELD:
            held = None
            continue
        rows = (at % len(cover_M)).astype(np.int32)
        cuts = np.searchsorted(at, np.arange(1, len(pairs_CM)) * len(cover_M))
        held.index.extend(np.split(rows, cuts))
        held.value.extend(np.split(pairs_CM.ravel()[at], cuts))
    return gain_N, held


def _gain(pairs_CM: Matrix, cover_M: Matrix) -> Floats:
    """By how much each candidate would raise the total cover."""
    above_CM = pairs_CM - cover_M
    np.maximum(above_CM, 0, out=above_CM)
    gain_C: Floats = above_CM.sum(axis=1, dtype=np.float64)
    return gain_C
