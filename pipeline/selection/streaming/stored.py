"""Rows in an order as they lie on disk: what a rule sees of a pool in blocks, and the way back."""

# N = rows of a block

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.numerics.blocks import Block, Resorted, measure
from gristmill.pipeline.numerics.keys import ordered, values
from gristmill.pipeline.numerics.ordering import Floats, Ints
from gristmill.pipeline.records.store import Part, Step, Store
from gristmill.pipeline.selection.streaming.runs import (
    Column,
    Runs,
    column,
    mapped,
    places,
    write_run,
)

_VALUE, _PLACE = "value", "place"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Rows in an order, which is that of runs; a block is a range of them. See `blocks.Blocks`.

    Attributes:
        store: of the stages.
        name: of its steps.
        runs: the rows.
        kept: columns of the runs that blocks have.
        groups: the names of the groups of each column.
        score: the column with a key that falls as the score rises; "": there is no score.
        counts: whether a row costs what the column `cost` says; else 1.
        parent: the order before, whose blocks the runs are; None: they are the units.
        orders: numbers the orders that come of one another, as the rule asks for them.
    """

    store: Store
    name: str
    runs: Runs
    kept: tuple[str, ...]
    groups: Mapping[str, Sequence[str | None]]
    score: str
    counts: bool
    parent: "Stored | None"
    orders: "count[int]"

    @property
    def rows(self) -> int:
        return int(self.runs.starts[-1])

    @cached_property
    def ranks(self) -> list[Path]:
        """For each range a file with the 1-based places of its rows, as `Runs.read` gives them."""

        def parts(_: Path) -> list[Part]:
            return [part("ranks", r, self._rank) for r in range(self.runs.ranges)]

        entry = self.store.run(Step(name=f"{self.name}-ranks", version=1), parts)
        return sorted(entry.path.glob("ranks-*"))

    def __iter__(self) -> Iterator[Block]:
        for r in range(self.runs.ranges):
            first, end = (int(n) for n in self.runs.starts[r : r + 2])
            yield Block(first=first, rows=end - first, columns=_Columns(self, r))

    def unordered(self, columns: Sequence[str]) -> Iterator[Mapping[str, NDArray[Any]]]:
        for path, rows in zip(self.runs.paths, self.runs.lengths, strict=True):
            read = partial(column, path)
            yield {name: np.array(self.made(name, rows, read)) for name in columns}

    def names(self, column: str) -> Sequence[str | None]:
        return self.groups[column]

    def resorted(self, blocks: Iterable[Resorted]) -> "Stored":
        """The same rows, or some of them, in another order: each block becomes a run."""
        feed, name = _Feed(blocks), self._next()
        parts = [part("run", r, partial(self._write, feed)) for r in range(self.runs.ranges)]
        entry = self.store.run(Step(name=name, version=1), parts)
        paths = tuple(sorted(entry.path.glob("run-*")))
        found = {p.stem for p in paths[0].glob("*.npy")} - {"turn"}
        keys = tuple(sorted(name for name in found if name.startswith("key-")))
        return Stored(
            store=self.store,
            name=name,
            runs=Runs(paths=paths, keys=keys),
            kept=tuple(sorted(found - set(keys))),
            groups=self.groups,
            score="",
            counts=self.counts,
            parent=self,
            orders=self.orders,
        )

    def measured(self, column: str) -> "Distribution":
        blocks = ({_VALUE: b.columns[measure(column)], _PLACE: ordered(b.place_N)} for b in self)
        feed, name = _Feed(blocks), self._next()

        def write(r: int, path: Path) -> None:
            write_run(path, feed.next_of(r), (_VALUE, _PLACE))

        parts = [part("run", r, write) for r in range(self.runs.ranges)]
        entry = self.store.run(Step(name=name, version=1), parts)
        runs = Runs(paths=tuple(sorted(entry.path.glob("run-*"))), keys=(_VALUE, _PLACE))
        return Distribution(rows=self, runs=runs, name=name)

    def back(self, files: Sequence[Path], what: str) -> list[Path]:
        """What was filed for each block, for each range of the first order's runs.

        Args:
            files: a `.npy` file for each block, in its order.
            what: it is.

        Returns:
            Files of the candidates' ranges, as `Runs.read` gives their rows.
        """

        def write(r: int, path: Path) -> None:
            place_N = mapped(self.ranks[r]).astype(np.int64) - 1 - self.runs.starts[r]
            save(path, mapped(files[r])[place_N])

        entry = self.store.run(
            Step(name=f"{self.name}-back-{what}", version=1),
            [part("range", r, write) for r in range(self.runs.ranges)],
        )
        ranges = sorted(entry.path.glob("range-*"))
        return ranges if self.parent is None else self.parent.back(self._undone(ranges, what), what)

    def _undone(self, ranges: Sequence[Path], what: str) -> list[Path]:
        """What was filed for each range, for each block of the order before."""
        assert self.parent is not None, "the first order's runs are units"
        before = self.parent.runs

        def write(r: int, path: Path) -> None:
            rows = int(before.starts[r + 1] - before.starts[r])
            save(path, self.runs.back(r, rows, ranges))

        step = Step(name=f"{self.name}-undone-{what}", version=1)
        entry = self.store.run(step, [part("block", r, write) for r in range(before.ranges)])
        return sorted(entry.path.glob("block-*"))

    def _write(self, feed: "_Feed[Resorted]", r: int, path: Path) -> None:
        given = feed.next_of(r)
        columns = {f"key-{i}": key_N for i, key_N in enumerate(given.keys)} | dict(given.columns)
        if self.counts:
            columns["cost"] = self.runs.read(r, ["cost"])["cost"][self.turn(r)]
        at = None if given.taken_N is None else np.flatnonzero(given.taken_N)
        if at is not None:
            columns = {name: values_N[at] for name, values_N in columns.items()}
        write_run(path, columns, [f"key-{i}" for i in range(len(given.keys))], at)

    def _rank(self, r: int, path: Path) -> None:
        save(path, places(self.runs, r))

    def turn(self, r: int) -> Ints:
        """The rows of a range, as `Runs.read` gives them, in order."""
        place_N = mapped(self.ranks[r]).astype(np.int64) - 1 - self.runs.starts[r]
        turn = np.empty(len(place_N), np.int64)
        turn[place_N] = np.arange(len(place_N))
        return turn

    def made(self, name: str, rows: int, read: Callable[[str], Column]) -> Column:
        """A column that a rule asks for.

        Args:
            name: of the column.
            rows: how many it has.
            read: gives a column of the runs.
        """
        if name == "score":
            return -values(read(self.score))
        if name == "cost" and not self.counts:
            return np.ones(rows, np.int64)
        return read(name)

    def _next(self) -> str:
        return f"order-{next(self.orders):02d}"


class _Columns(Mapping[str, Column]):
    """The columns of a block, each read when it is asked for."""

    def __init__(self, rows: Stored, r: int) -> None:
        self.rows, self.r = rows, r
        self.known: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        if name not in self.known:
            start, end = self.rows.runs.starts[self.r : self.r + 2]
            self.known[name] = self.rows.made(name, end - start, self._read)
        return self.known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(
            dict.fromkeys([*self.rows.kept, "cost", *(["score"] if self.rows.score else [])])
        )

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _read(self, name: str) -> Column:
        return self.rows.runs.read(self.r, [name])[name][self.turn]

    @cached_property
    def turn(self) -> Ints:
        return self.rows.turn(self.r)


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The distribution of a column. See `blocks.Measured`.

    Attributes:
        rows: whose column it is.
        runs: the values of each block, ascending.
        name: of the step.
    """

    rows: Stored
    runs: Runs
    name: str

    @cached_property
    def known(self) -> int:
        return self._below(np.inf, inclusive=True) - self._nulls

    @cached_property
    def finite(self) -> int:
        return self._below(np.inf) - self._first

    def at(self, k: int) -> float:
        place = self._first + k
        r = int(np.searchsorted(self.runs.starts, place, side="right")) - 1
        key = mapped(self._sorted[r])[place - self.runs.starts[r]]
        return float(values(np.array([key]))[0])

    def ranks(self) -> Iterator[Floats]:
        for r in range(self.rows.runs.ranges):
            rows = int(self.rows.runs.starts[r + 1] - self.rows.runs.starts[r])
            yield self.runs.back(r, rows, self._means) - self._nulls

    @cached_property
    def _sorted(self) -> list[Path]:
        """The values of each range, ascending."""

        def write(r: int, path: Path) -> None:
            save(path, np.sort(self.runs.read(r, [_VALUE])[_VALUE]))

        return self._each("sorted", write)

    @cached_property
    def _means(self) -> list[Path]:
        """For each range the mean place, from 1, of the rows with each row's value; NaN: none."""

        def write(r: int, path: Path) -> None:
            key_N, own = self.runs.read(r, [_VALUE])[_VALUE], mapped(self._sorted[r])
            start = self.runs.starts[r]
            first_N = np.searchsorted(own, key_N, side="left") + start
            last_N = np.searchsorted(own, key_N, side="right") + start
            if len(own):  # a value at an end of the range may be in others too
                for end in (own[0], own[-1]):
                    here = key_N == end
                    first_N[here], last_N[here] = self._extent(end)
            mean_N = (first_N + 1 + last_N) / 2
            mean_N[np.isnan(values(key_N))] = np.nan
            save(path, mean_N)

        return self._each("means", write)

    def _extent(self, key: np.uint64) -> tuple[int, int]:
        """How many values are below one, and how many are not above it."""
        low = high = 0
        for path in self._sorted:
            own = mapped(path)
            low += int(np.searchsorted(own, key, side="left"))
            high += int(np.searchsorted(own, key, side="right"))
        return low, high

    @cached_property
    def _nulls(self) -> int:
        return self._extent(np.uint64(0))[1]

    @cached_property
    def _first(self) -> int:
        """Where the finite values begin."""
        return self._extent(ordered(np.array([-np.inf]))[0])[1]

    def _below(self, value: float, *, inclusive: bool = False) -> int:
        return self._extent(ordered(np.array([value]))[0])[inclusive]

    def _each(self, name: str, write: Callable[[int, Path], None]) -> list[Path]:
        parts = [part("range", r, write) for r in range(self.runs.ranges)]
        entry = self.rows.store.run(Step(name=f"{self.name}-{name}", version=1), parts)
        return sorted(entry.path.glob("range-*"))


class _Feed(Generic[T]):
    """The items of a generator by number, in order; those of parts that stand are passed over."""

    def __init__(self, items: Iterable[T]) -> None:
        self.items = enumerate(items)

    def next_of(self, number: int) -> T:
        return next(item for i, item in self.items if i == number)


def part(name: str, number: int, write: Callable[[int, Path], None]) -> Part:
    """A part that holds one array, or one run."""
    suffix = "" if name == "run" else ".npy"
    return Part(name=f"{name}-{number:05d}{suffix}", write=partial(write, number))


def save(path: Path, array: Column) -> None:
    """Write an array for `mapped`."""
    with path.open("wb") as file:  # numpy would add a suffix to the name
        np.save(file, array)
