"""Located: in which of many tables rows lie, by their ids alone."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

NO_IDS = pl.Series("id", [], dtype=pl.String)
_AT_ONCE = 256  # tables whose ids are looked through together


def located(tables: Sequence[Path], wanted: pl.DataFrame | None = None) -> pl.DataFrame:
    """The rows of `wanted` that a table holds, with the `path` of the first that does.

    Args:
        tables: Parquet files with a column `id`, of which that alone is read.
        wanted: any frame with unique `id`; None: the ids of all tables.
    """
    columns = NO_IDS.to_frame() if wanted is None else wanted.clear()
    found = [columns.with_columns(path=pl.lit("", pl.String))]
    for begin in range(0, len(tables), _AT_ONCE):
        paths = list(tables[begin : begin + _AT_ONCE])
        some = pl.scan_parquet(paths, include_file_paths="path")
        ids = some.select("id", "path")
        found.append((ids if wanted is None else wanted.lazy().join(ids, on="id")).collect())
    return pl.concat(found).sort("path", "id").unique("id", keep="first", maintain_order=True)
