"""Tables of a user's own: Parquet files named on a command line, read and written whole."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from gristmill.pipeline.records.store import write_table

SHORT = "gristmill.shortfalls"  # in the file's own metadata


def read_table(path: Path, what: str) -> pl.DataFrame:
    """A Parquet table that the user names.

    Args:
        path: the file.
        what: it should hold, for the error: "scores".
    """
    if not path.is_file():
        raise ValueError(f"there is no {what} file {path}.")
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError:
        raise ValueError(f"{path} is no Parquet file: expected a table of {what}.") from None


def shortfalls_in(path: Path) -> list[str]:
    """What the selection behind a ledger could not keep of what was asked (see `save`)."""
    found: list[str] = json.loads(pl.read_parquet_metadata(path).get(SHORT, "[]"))
    return found


def save(frame: pl.DataFrame, path: Path, shortfalls: Sequence[str] = ()) -> None:
    """Write a result whole, by renaming.

    Args:
        frame: the table.
        path: the file.
        shortfalls: of a ledger: what could not be kept of what was asked, written beside the table.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder: name a file.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        told = {SHORT: json.dumps(list(shortfalls))} if shortfalls else None
        write_table(frame, temporary, told)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
