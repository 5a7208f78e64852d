"""The scores that an order reads: a table that is named, or the ledger of a published dataset."""

from pathlib import Path

import polars as pl

from gristmill.pipeline.records.schema import METHOD


def scores_of(data: Path, table: Path | None) -> pl.DataFrame | None:
    """A table with `id` and scores; None: there is none.

    Args:
        data: what is reviewed.
        table: Parquet file, e.g. of `gristmill score`, whose column `score` goes by the name of
            its method too; None: the ledger of `data`, if it is a published version.

    Raises:
        ValueError: the table has no ids.
    """
    if table is not None:
        if not table.is_file():
            raise ValueError(f"--scores {table}: there is no such file.")
        try:
            found = pl.read_parquet(table)
        except (OSError, pl.exceptions.PolarsError):
            raise ValueError(
                f"--scores {table} is no Parquet file: give a table of scores."
            ) from None
        if "id" not in found.columns:
            raise ValueError(
                f"--scores {table} has no column 'id': give a table of `gristmill score`, or a "
                "ledger."
            )
        method = pl.read_parquet_metadata(table).get(METHOD)
        if method and "score" in found.columns:
            found = found.with_columns(pl.col("score").alias(f"score_{method}"))
        return found.with_columns(pl.col("id").cast(pl.String))
    ledger = sorted(data.glob("ledger/*.parquet")) if data.is_dir() else []
    return pl.concat([pl.read_parquet(p) for p in ledger]) if ledger else None
