"""Filters, one file each: they look at one record and keep it or say why not.

A filter is a small frozen dataclass with one method: `reasons(records)` gives one string per
record, null for those that stay. The file's name is the filter's. `filtered` applies several; the
first that objects decides. Filters see one block of records at a time and keep nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl

from gristmill.pipeline.clean.drops import drops
from gristmill.pipeline.records.build import build
from gristmill.pipeline.records.registry import chosen, registry
from gristmill.pipeline.records.schema import KEY


@runtime_checkable
class Filter(Protocol):
    """One filter."""

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        """Why each record must go: a string, or null if it may stay."""


@cache
def filters() -> dict[str, type[Filter]]:
    """Name -> class, sorted by name."""
    return registry(Path(__file__).parent, __name__, Filter)


def filter_named(name: str, settings: Mapping[str, Any] | None = None) -> Filter:
    """The filter of that name; text, as on a command line, becomes what the setting needs.

    Args:
        name: e.g. "length", "template_leak".
        settings: field -> value; as text, a mapping is `a:1,b:0.5` and a list is `x,y`.

    Raises:
        ValueError: unknown filter or setting, one that is lacking, or a value that does not fit.
    """
    return build(chosen("filter", name, filters()), settings, f"filter {name}")


def filtered(blocks: Iterable[pl.DataFrame], filters: Sequence[Filter]) -> pl.DataFrame:
    """Drops frame of the records that any filter rejects, with the first one's reason."""
    found = [drops(pl.DataFrame(schema=dict.fromkeys(KEY, pl.String)))]
    for block in blocks:
        left = block.with_columns(pl.lit(None, pl.String).alias("__why"))
        for rule in filters:
            open_rows = left.filter(pl.col("__why").is_null()).drop("__why")
            why = rule.reasons(open_rows).rename("__why")
            decided = left.filter(pl.col("__why").is_not_null())
            left = pl.concat([decided, open_rows.with_columns(why)])
        gone = left.filter(pl.col("__why").is_not_null())
        found.append(drops(gone, reason=pl.col("__why")))
    return pl.concat(found).sort("source", "row", "id")
