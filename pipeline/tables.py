"""Parquet and Arrow files as streams of rows, with values that JSON can hold."""

import base64
import datetime
import decimal
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

_ROWS = 512  # read at once


def name(path: Path) -> str:
    """The format's name."""
    return "Parquet" if path.suffix == ".parquet" else "Arrow"


def items(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of the file, numbered from 1."""
    number = 0
    for batch in _batches(path):
        for start in range(0, batch.num_rows, _ROWS):
            for row in batch.slice(start, _ROWS).to_pylist():
                number += 1
                yield number, row


def count(path: Path) -> int:
    """How many rows the file has."""
    return sum(batch.num_rows for batch in _batches(path, values=False))


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row without its nulls, as JSON lines would have had it."""
    return {k: plain(v) for k, v in row.items() if v is not None}


def plain(value: object) -> Any:  # noqa: ANN401  (JSON)
    """The nearest JSON value: dates as ISO text, bytes as base64, NaN and infinities as null."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return plain(float(value))
    return str(value)


def _batches(path: Path, *, values: bool = True) -> Iterator[Any]:
    try:
        if path.suffix == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                yield from file.iter_batches(_ROWS, columns=None if values else [])
        else:
            with pa.memory_map(str(path)) as file:
                yield from _arrow(file)
    except (pa.ArrowException, EOFError) as error:
        raise ValueError(f"{path.name} is cut short or no {name(path)} file") from error


def _arrow(file: Any) -> Iterator[Any]:  # noqa: ANN401  (pyarrow ships no types)
    try:  # `datasets` writes streams, everybody else files
        reader = pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        yield from pa.ipc.open_stream(file)
    else:
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
