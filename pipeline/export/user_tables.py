"""Tables of a user's own: Parquet files named on a command line, read and written whole."""

import os
from pathlib import Path

import polars as pl

from gristmill.pipeline.records.store import write_table


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


def save(frame: pl.DataFrame, path: Path) -> None:
    """Write a result whole, by renaming."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder: name a file.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_table(frame, temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
