"""Tables of a user's own: Parquet files named on a command line, read and written whole."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from gristmill.pipeline.records.schema import METHOD
from gristmill.pipeline.records.store import Entry, write_table

Table = pl.DataFrame | pl.LazyFrame
SHORT = "gristmill.shortfalls"  # in the file's own metadata


def read_table(path: Path, what: str) -> pl.DataFrame:
    """A Parquet table that the user names.

    Args:
        path: the file, or the folder of its files.
        what: it should hold, for the error: "scores".
    """
    files = files_of(path, what)
    try:
        return pl.concat(map(pl.read_parquet, files))
    except pl.exceptions.PolarsError:
        raise ValueError(f"{path} is no Parquet file: expected a table of {what}.") from None


def files_of(path: Path, what: str) -> list[Path]:
    """The files of a table that the user names: one, or those of a folder in the order of names."""
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.parquet")) if path.is_dir() else []
    if not found:
        if path.is_dir():
            raise ValueError(f"the folder {path} holds no *.parquet: expected a table of {what}.")
        raise ValueError(f"there is no {what} file {path}.")
    return found


def rows_of(files: Sequence[Path], what: str) -> int:
    """How many rows a table has, without reading it."""
    try:
        return int(pl.scan_parquet(list(files)).select(pl.len()).collect().item())
    except pl.exceptions.PolarsError:
        raise ValueError(f"{files[0]} is no Parquet file: expected a table of {what}.") from None


def shortfalls_in(path: Path) -> list[str]:
    """What the selection behind a ledger could not keep of what was asked (see `save`)."""
    (first, *_) = files_of(path, "ledger")
    found: list[str] = json.loads(pl.read_parquet_metadata(first).get(SHORT, "[]"))
    return found


def scanned(entry: Entry) -> pl.LazyFrame:
    """The table of an entry, yet to be read."""
    return pl.scan_parquet(entry.shards)


def save(
    frame: Table, path: Path, shortfalls: Sequence[str] = (), method: str | None = None
) -> None:
    """Write a result whole, by renaming.

    Args:
        frame: the table; one that is yet to be read never lies in memory.
        path: the file.
        shortfalls: of a ledger: what could not be kept of what was asked, written beside the table.
        method: of scores: who gave them, written beside the table.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder: name a file.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        told = {SHORT: json.dumps(list(shortfalls))} if shortfalls else {}
        told |= {METHOD: method} if method else {}
        if isinstance(frame, pl.LazyFrame):
            frame.sink_parquet(
                temporary, compression="zstd", compression_level=3, metadata=told or None
            )
        else:
            write_table(frame, temporary, told)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
