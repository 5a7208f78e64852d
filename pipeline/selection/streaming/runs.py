"""Sorted runs: an order over more rows than memory holds, there and back.

Every block of rows becomes a run, a folder with a `.npy` file for each column, sorted by the keys.
Each run is sampled at every `SAMPLE` rows; the samples of all runs in one order give edges, between
which lies about `RANGE_ROWS` rows of all runs together, whatever the values are: equal keys differ
by the keys after them. What is found out about a range, row by row, is filed in the order in which
`Runs.read` gives its rows; `Runs.back` returns it to a block in the block's own order.
"""

# N = rows of a block, run or range; R = ranges

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.numerics.keys import Keys, sorted_by
from gristmill.pipeline.numerics.ordering import Ints

SAMPLE = 1_024
RANGE_ROWS = 1 << 21
TURN = "turn"  # the column with a row's position in its block
Column = NDArray[Any]


def write_run(path: Path, columns: Mapping[str, Column], keys: Sequence[str]) -> None:
    """Write the rows of a block as a run.

    Args:
        path: the folder.
        columns: equally long; the keys are unsigned integers.
        keys: the columns that give the order, the foremost first.
    """
    path.mkdir()
    turn = sorted_by(tuple(columns[k] for k in keys))
    for name, column in columns.items():
        np.save(path / f"{name}.npy", column[turn])
    np.save(path / f"{TURN}.npy", turn.astype(np.uint32))


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs with the same columns, together in one order.

    Attributes:
        paths: their folders, in the order of the blocks.
        keys: the columns that give the order.
    """

    paths: tuple[Path, ...]
    keys: tuple[str, ...]

    @cached_property
    def lengths(self) -> Ints:
        return np.array([len(column(p, TURN)) for p in self.paths], np.int64)

    @cached_property
    def cuts(self) -> Ints:
        """Where each run is cut: of every edge, the number of rows of each run before it."""
        samples = [tuple(np.array(column(p, k)[::SAMPLE]) for k in self.keys) for p in self.paths]
        together = tuple(np.concatenate([s[i] for s in samples]) for i in range(len(self.keys)))
        turn = sorted_by(together)
        step = max(1, RANGE_ROWS // SAMPLE)
        edges = [tuple(k[turn[i]] for k in together) for i in range(step, len(turn), step)]
        cuts = np.zeros((len(edges) + 2, len(self.paths)), np.int64)
        cuts[-1] = self.lengths
        for u, (path, sample) in enumerate(zip(self.paths, samples, strict=True)):
            keys = [column(path, k) for k in self.keys]
            for e, edge in enumerate(edges):
                start = SAMPLE * max(0, _before(sample, edge) - 1)
                block = tuple(np.array(k[start : start + SAMPLE]) for k in keys)
                cuts[e + 1, u] = start + _before(block, edge)
        return cuts

    @property
    def ranges(self) -> int:
        return len(self.cuts) - 1

    @cached_property
    def starts(self) -> Ints:
        """How many rows of all runs lie before each range, and how many there are."""
        return self.cuts.sum(axis=1)

    def read(self, r: int, names: Sequence[str]) -> dict[str, Column]:
        """Columns of a range: the rows of the first run, then those of the second, and so on."""
        low, high = self.cuts[r], self.cuts[r + 1]
        return {
            name: np.concatenate(
                [column(p, name)[low[u] : high[u]] for u, p in enumerate(self.paths)]
            )
            for name in names
        }

    def run_of(self, r: int) -> Ints:
        """The number of the run of each row that `read` gives."""
        return np.repeat(np.arange(len(self.paths)), self.cuts[r + 1] - self.cuts[r])

    def back(self, u: int, files: Sequence[Path]) -> Column:
        """What was filed for each range, for the rows of one block in the block's order.

        Args:
            u: number of the block.
            files: a `.npy` file for each range, its rows as `read` gives them.
        """
        before = np.concatenate(
            [np.zeros((self.ranges, 1), np.int64), np.cumsum(np.diff(self.cuts, axis=0), axis=1)],
            axis=1,
        )
        found = np.concatenate(
            [np.load(f, mmap_mode="r")[b[u] : b[u + 1]] for f, b in zip(files, before, strict=True)]
        )
        placed = np.empty_like(found)
        placed[column(self.paths[u], TURN)] = found
        return placed

    def unordered(self, names: Sequence[str]) -> Iterator[dict[str, Column]]:
        """Columns of all rows, run by run."""
        for path in self.paths:
            yield {name: np.array(column(path, name)) for name in names}


def column(run: Path, name: str) -> Column:
    """A column of a run, mapped: what is not looked at is not read."""
    found: Column = np.load(run / f"{name}.npy", mmap_mode="r")
    return found


def _before(keys: Sequence[Keys], edge: Sequence[np.uint64]) -> int:
    """How many rows come before an edge."""
    less_N = np.zeros(len(keys[0]), bool)
    same_N = np.ones(len(keys[0]), bool)
    for key_N, value in zip(keys, edge, strict=True):
        less_N |= same_N & (key_N < value)
        same_N &= key_N == value
    return int(less_N.sum())
