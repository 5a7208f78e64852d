"""Sorted runs: an order over more rows than memory holds, there and back.

Every block of rows becomes a run, a folder with a `.npy` file for each column, sorted by the keys.
Each run is sampled at every `SAMPLE` rows; the samples of all runs in one order give edges, between
which lies about `RANGE_ROWS` rows of all runs together, whatever the values are: equal keys differ
by the keys after them. What is found out about a range, row by row, is filed in the order in which
`Runs.read` gives its rows; `Runs.back` returns it to a block in the block's own order.
"""

# N = rows of a block, run or range; R = ranges

from collections.abc import Mapping, Sequence
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


def write_run(
    path: Path, columns: Mapping[str, Column], keys: Sequence[str], at: Ints | None = None
) -> None:
    """Write rows of a block as a run.

    Args:
        path: the folder.
        columns: equally long; the keys are unsigned integers.
        keys: the columns that give the order, the foremost first.
        at: the rows' places in the block; None: they are all of it.
    """
    path.mkdir()
    turn = sorted_by(tuple(columns[k] for k in keys))
    for name, values in columns.items():
        np.save(path / f"{name}.npy", values[turn])
    np.save(path / f"{TURN}.npy", (turn if at is None else at[turn]).astype(np.uint32))


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
    def _samples(self) -> list[tuple[Keys, ...]]:
        return [tuple(np.array(column(p, k)[::SAMPLE]) for k in self.keys) for p in self.paths]

    @cached_property
    def edges(self) -> list[tuple[np.uint64, ...]]:
        """The keys of the first row of each range but the first."""
        together = tuple(np.concatenate(k) for k in zip(*self._samples, strict=True))
        turn = sorted_by(together)
        step = max(1, RANGE_ROWS // SAMPLE)
        return [tuple(k[turn[i]] for k in together) for i in range(step, len(turn), step)]

    @cached_property
    def cuts(self) -> Ints:
        """Where each run is cut: of every edge, the number of rows of each run before it."""
        cuts = np.zeros((len(self.edges) + 2, len(self.paths)), np.int64)
        cuts[-1] = self.lengths
        for u, (path, sample) in enumerate(zip(self.paths, self._samples, strict=True)):
            keys = [column(path, k) for k in self.keys]
            for e, edge in enumerate(self.edges):
                start = SAMPLE * max(0, _before(sample, edge) - 1)
                block = tuple(np.array(k[start : start + SAMPLE]) for k in keys)
                cuts[e + 1, u] = start + _before(block, edge)
        return cuts

    @property
    def ranges(self) -> int:
        return len(self.cuts) - 1

    def span(self, r: int) -> tuple[tuple[np.uint64, ...] | None, tuple[np.uint64, ...] | None]:
        """The keys from which on and below which a range reaches; None: without end."""
        return (self.edges[r - 1] if r else None), (self.edges[r] if r < len(self.edges) else None)

    @cached_property
    def starts(self) -> Ints:
        """How many rows of all runs lie before each range, and how many there are."""
        starts: Ints = self.cuts.sum(axis=1)
        return starts

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

    @cached_property
    def _before(self) -> Ints:
        """Where the rows of each run begin, and end, in each range."""
        lengths = np.diff(self.cuts, axis=0)
        return np.cumsum(np.pad(lengths, ((0, 0), (1, 0))), axis=1)

    def back(self, u: int, rows: int, files: Sequence[Path]) -> Column:
        """What was filed for each range, for the rows of one block in the block's order.

        Args:
            u: number of the block.
            rows: of the block; those that are not in the run have 0.
            files: a `.npy` file for each range, its rows as `read` gives them.
        """
        found = np.concatenate(
            [mapped(f)[b[u] : b[u + 1]] for f, b in zip(files, self._before, strict=True)]
        )
        placed = np.zeros(rows, found.dtype)
        placed[column(self.paths[u], TURN)] = found
        return placed


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The places of rows in an order, found range by range and filed for the blocks.

    Attributes:
        folder: of the runs, whose columns but `TURN` are the keys, in order of their names.
    """

    folder: Path

    @cached_property
    def _runs(self) -> Runs:
        paths = tuple(sorted(self.folder.glob("run-*")))
        keys = sorted(p.stem for p in paths[0].glob("*.npy") if p.stem != TURN)
        return Runs(paths=paths, keys=tuple(keys))

    @cached_property
    def _files(self) -> list[Path]:
        files = [self.folder / f"places-{r:05d}.npy" for r in range(self._runs.ranges)]
        for r, path in enumerate(files):
            np.save(path, places(self._runs, r))
        return files

    def of(self, u: int, rows: int) -> Ints:
        """The 1-based places of the rows of a block; 0: of a row that has none."""
        return self._runs.back(u, rows, self._files).astype(np.int64)


def places(runs: Runs, r: int) -> Column:
    """The 1-based places of the rows of a range, as `Runs.read` gives them."""
    keys = runs.read(r, runs.keys)
    turn = sorted_by(tuple(keys[k] for k in runs.keys))
    start, rows = int(runs.starts[r]), int(runs.starts[-1])
    place_N = np.empty(len(turn), np.uint32 if rows < 2**32 else np.uint64)
    place_N[turn] = np.arange(start + 1, start + len(turn) + 1)
    return place_N


def column(run: Path, name: str) -> Column:
    """A column of a run, mapped: what is not looked at is not read."""
    return mapped(run / f"{name}.npy")


def mapped(path: Path) -> Column:
    """An array on disk, of which only what is looked at is read."""
    found: Column = np.load(path, mmap_mode="r")
    return found


def _before(keys: Sequence[Keys], edge: Sequence[np.uint64]) -> int:
    """How many rows come before an edge."""
    less_N = np.zeros(len(keys[0]), bool)
    same_N = np.ones(len(keys[0]), bool)
    for key_N, value in zip(keys, edge, strict=True):
        less_N |= same_N & (key_N < value)
        same_N &= key_N == value
    return int(less_N.sum())
