"""Who stays among the candidates of near duplicates, by the exact overlap of their n-grams.

The n-gram sets wait on disk and are read one at a time, so that memory does not grow with texts.
"""

# N = rows, W = n-grams, C = candidates, P = candidates in groups, G = groups

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from gristmill.pipeline.clean.banding import Groups
from gristmill.pipeline.clean.drops import Progress
from gristmill.pipeline.clean.text import Hashes
from gristmill.pipeline.numerics.spill import Lists

Sketched = pl.DataFrame | Path  # `MinHash.sketch` of some records, or the Parquet file of one
_TOLD = 1_000  # rows between two tellings of progress


def jaccard(a: Hashes, b: Hashes) -> float:
    """Jaccard index of two sets, given as sorted arrays without repeats."""
    if len(a) > len(b):
        a, b = b, a
    at = np.minimum(np.searchsorted(b, a), len(b) - 1)
    shared = int(np.count_nonzero(b[at] == a))
    return shared / (len(a) + len(b) - shared)


@dataclass(frozen=True, kw_only=True)
class Sets:
    """The n-gram sets of the candidates, on disk, as sorted arrays without repeats."""

    held: Lists
    begin_C: Sequence[int]
    end_C: Sequence[int]

    @staticmethod
    def of(tables: Sequence[Sketched], rows: pl.DataFrame, held: Lists) -> "Sets":
        places = rows.select("at", "table", candidate=pl.int_range(pl.len()))
        order = []
        for (number,), here in places.group_by("table", maintain_order=True):
            ngrams = read(tables[number], ["ngrams"])["ngrams"].gather(here["at"]).list.sort()
            length_N = ngrams.list.len().to_numpy().astype(np.int64)
            value_W = ngrams.explode().to_numpy()
            first_W = np.ones(len(value_W), bool)  # the first of equal ones in its row
            np.not_equal(value_W[1:], value_W[:-1], out=first_W[1:])
            begin_N = np.cumsum(length_N) - length_N
            first_W[begin_N] = True
            distinct_N = np.add.reduceat(first_W, begin_N, dtype=np.int64)
            held.append(value_W[first_W], distinct_N)
            order.append(here["candidate"].to_numpy())
        begins_C1 = held.begins()
        place_C = np.argsort(np.concatenate(order)) if order else np.zeros(0, np.int64)
        return Sets(
            held=held,
            begin_C=array("q", begins_C1[:-1][place_C].tobytes()),
            end_C=array("q", begins_C1[1:][place_C].tobytes()),
        )

    def size(self, candidate: int) -> int:
        return self.end_C[candidate] - self.begin_C[candidate]

    def __getitem__(self, candidate: int) -> Hashes:
        return self.held.read(self.begin_C[candidate], self.end_C[candidate])


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Candidates that are dropped, the ones that they resemble, and how much."""

    dropped: "array[int]" = field(default_factory=lambda: array("q"))
    stays: "array[int]" = field(default_factory=lambda: array("q"))
    overlaps: "array[float]" = field(default_factory=lambda: array("d"))


def settled(
    groups: Groups, sets: Sets, fixed: int, threshold: float, progress: Progress
) -> Settled:
    """Who stays and who is dropped; the first `fixed` candidates stay whatever they resemble."""
    found = Settled()
    # Python reads single numbers from these several times as fast as from numpy's arrays
    begin_G1 = array("q", groups.begin_G1.tobytes())
    end_G = begin_G1[:-1]
    kept_P = array("q", bytes(8 * len(groups.group_P)))  # of each group, those that stay, in order
    total = len(groups.row_C)
    for start in range(0, total, _TOLD):
        progress(start, total)
        bounds = groups.begin_C1[start : start + _TOLD + 1]
        own_P = groups.group_P[bounds[0] : bounds[-1]].tolist()
        bounds = (bounds - bounds[0]).tolist()
        for number, (begin, end) in enumerate(pairwise(bounds), start):
            own = own_P[begin:end]
            near = None
            if number >= fixed:
                rivals: set[int] = set()
                for group in own:
                    rivals.update(kept_P[begin_G1[group] : end_G[group]])
                near = _first_near(sets, number, sorted(rivals), threshold)
            if near is None:
                for group in own:
                    kept_P[end_G[group]] = number
                    end_G[group] += 1
            else:
                found.dropped.append(number)
                found.stays.append(near[0])
                found.overlaps.append(near[1])
    progress(total, total)
    return found


def _first_near(
    sets: Sets, candidate: int, rivals: Sequence[int], threshold: float
) -> tuple[int, float] | None:
    own: Hashes | None = None
    size = sets.size(candidate)
    for rival in rivals:
        few, many = sorted((size, sets.size(rival)))
        if few >= threshold * many:  # else the index cannot reach it
            own = sets[candidate] if own is None else own
            overlap = jaccard(own, sets[rival])
            if overlap >= threshold:
                return rival, overlap
    return None


def read(part: Sketched, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of a sketch."""
    return (
        part.select(columns)
        if isinstance(part, pl.DataFrame)
        else pl.read_parquet(part, columns=list(columns))
    )


def height(part: Sketched) -> int:
    """Rows of a sketch."""
    if isinstance(part, pl.DataFrame):
        return part.height
    return int(pl.scan_parquet(part).select(pl.len()).collect().item())
