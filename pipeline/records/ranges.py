"""Ranges: the rows of a dataset in order of source and row, cut into as many as memory may hold.

A dataset lies in shards as its files came. What is made of all its rows, scores and ledgers, is one
table in order of source and row; each part of it is a range of that order, and reads the shards
that reach into the range and no others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

import polars as pl

from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import KEY, QUARANTINE, RECORDS

ROWS = 1 << 17  # of a range, about: ranges begin where shards do
ORDER = ("source", "row", "id")
_AT_ONCE = 256  # tables whose extents are read together
Place = tuple[str, int]  # source and row


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """A dataset, cut.

    Attributes:
        dataset: the rows, perhaps without some of them; where it is cut depends on all of them.
    """

    dataset: Dataset

    @cached_property
    def edges(self) -> list[Place]:
        """Where each range but the first begins."""
        edges: list[Place] = []
        begin: Place | None = None
        held = 0
        tables = _extents((*self.shards, *self.quarantines))
        for source, row, rows in tables.select("low_source", "low_row", "rows").iter_rows():
            if begin is not None and held + rows > ROWS and (source, row) > begin:
                edges.append((source, row))
                held, begin = 0, None
            begin = begin or (source, row)
            held += rows
        return edges

    @cached_property
    def shards(self) -> tuple[Path, ...]:
        """The record shards."""
        return tuple(self.dataset.shards())

    @cached_property
    def quarantines(self) -> tuple[Path, ...]:
        """The tables of rows that could not be read."""
        shards = self.dataset.entry.shards
        return tuple(p for p in shards if p.name.startswith("quarantine"))

    def __len__(self) -> int:
        return len(self.edges) + 1

    def __iter__(self) -> "Iterator[Range]":
        ends = [None, *self.edges, None]
        for number, (low, high) in enumerate(pairwise(ends)):
            yield Range(ranges=self, number=number, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Range:
    """The rows from one place to before another; None: there is no end.

    Attributes:
        ranges: of which it is one.
        number: which.
        low: where it begins.
        high: where the next one begins.
    """

    ranges: Ranges
    number: int
    low: Place | None
    high: Place | None

    @property
    def dataset(self) -> Dataset:
        return self.ranges.dataset

    @property
    def holds(self) -> pl.Expr:
        """Of a frame with source and row, the rows that lie in it."""
        here = pl.lit(True)
        if self.low is not None:
            here &= ~_before("source", "row", self.low)
        if self.high is not None:
            here &= _before("source", "row", self.high)
        return here

    def reaching(self, tables: Sequence[Path]) -> list[Path]:
        """Those of many Parquet files that have rows in it, in their order."""
        found = _extents(tuple(tables))
        if self.low is not None:
            found = found.filter(~_before("high_source", "high_row", self.low))
        if self.high is not None:
            found = found.filter(_before("low_source", "low_row", self.high))
        return [tables[i] for i in found["number"].sort()]

    def of(self, tables: Sequence[Path], columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of Parquet files of one schema that lie in it, as they come."""
        found = pl.scan_parquet(self.reaching(tables) or list(tables[:1])).filter(self.holds)
        return (found if columns is None else found.select(columns)).collect()

    @property
    def shards(self) -> list[Path]:
        """The record shards that reach into it."""
        return self.reaching(self.ranges.shards)

    def blocks(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Columns of the records that lie in it, with `KEY` before them, a frame a shard."""
        wanted = list(dict.fromkeys([*KEY, *columns]))
        yield pl.DataFrame(schema={c: RECORDS[self.dataset.kind][c] for c in wanted})
        for shard in self.shards:
            yield self.dataset.block(shard, wanted).filter(self.holds)

    def records(self, columns: Sequence[str]) -> pl.DataFrame:
        """Columns of the records that lie in it, in order: for columns that are no texts."""
        return pl.concat(self.blocks(columns)).sort(*ORDER).select(columns)

    def quarantine(self) -> pl.DataFrame:
        """The rows of it that could not be read."""
        paths = self.reaching(self.ranges.quarantines)
        found = [pl.read_parquet(p).filter(self.holds) for p in paths]
        return pl.concat([pl.DataFrame(schema=QUARANTINE), *found])


def _before(source: str, row: str, place: Place) -> pl.Expr:
    """Whether a row comes before a place."""
    name, number = place
    return (pl.col(source) < name) | ((pl.col(source) == name) & (pl.col(row) < number))


@lru_cache(maxsize=16)  # a run asks for the same tables again and again
def _extents(tables: tuple[Path, ...]) -> pl.DataFrame:
    """A line a table, in order of its lowest place: between which places its rows lie, about."""
    schema = {"number": pl.Int64, "rows": pl.Int64, "low_source": pl.String, "low_row": pl.Int64}
    schema |= {"high_source": pl.String, "high_row": pl.Int64}
    found = [pl.DataFrame(schema=schema)]
    for begin in range(0, len(tables), _AT_ONCE):
        some = [
            pl.scan_parquet(path).select(
                number=pl.lit(number, pl.Int64),
                rows=pl.len().cast(pl.Int64),
                low_source=pl.col("source").min(),
                low_row=pl.col("row").min(),
                high_source=pl.col("source").max(),
                high_row=pl.col("row").max(),
            )
            for number, path in enumerate(tables[begin : begin + _AT_ONCE], begin)
        ]
        found += pl.collect_all(some)
    lines = pl.concat(found).filter(pl.col("rows") > 0)
    return lines.sort("low_source", "low_row", "number")
