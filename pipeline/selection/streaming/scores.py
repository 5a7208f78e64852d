"""Tables of scores on disk, read in units of equal size however many files there are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from gristmill.pipeline.records.schema import SCORES, check

UNIT_ROWS = 1 << 20


class NeedsMemoryError(Exception):
    """The table cannot be read in blocks; the text says why, as a part of a sentence."""


@dataclass(frozen=True)
class Scores:
    """One table of `schema.SCORES` in several Parquet files, one after the other."""

    files: tuple[Path, ...]

    @cached_property
    def columns(self) -> list[str]:
        """In the order of a table that was checked."""
        schema = pl.read_parquet_schema(self.files[0])
        return check(pl.DataFrame(schema=schema), SCORES, "scores").columns

    def texts(self, columns: Sequence[str]) -> list[str]:
        """Those of the columns that hold text."""
        schema = pl.read_parquet_schema(self.files[0])
        return [c for c in columns if schema[c] == pl.String]

    @cached_property
    def lengths(self) -> list[int]:
        return [pl.scan_parquet(f).select(pl.len()).collect().item() for f in self.files]

    @property
    def rows(self) -> int:
        return sum(self.lengths)

    @property
    def units(self) -> int:
        """At least one, so that an empty table has a ledger too."""
        return max(1, -(-self.rows // UNIT_ROWS))

    def rows_of(self, unit: int) -> int:
        return min(UNIT_ROWS, self.rows - unit * UNIT_ROWS)

    def read(self, unit: int, columns: Sequence[str]) -> pl.DataFrame:
        """Columns of a unit, with the types of `schema.SCORES`."""
        parts = list(self.slices(unit, columns))
        frame = pl.concat(parts) if parts else pl.scan_parquet(self.files[0]).head(0).collect()
        return frame.select(pl.col(c).cast(SCORES[c]) if c in SCORES else c for c in columns)

    def slices(self, unit: int, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """What each file has of a unit, as it is."""
        start, end = unit * UNIT_ROWS, unit * UNIT_ROWS + self.rows_of(unit)
        before = 0
        for path, rows in zip(self.files, self.lengths, strict=True):
            low, high = max(start, before), min(end, before + rows)
            if low < high:
                part = pl.scan_parquet(path).slice(low - before, high - low)
                yield (part if columns is None else part.select(columns)).collect()
            before += rows
