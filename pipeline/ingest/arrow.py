"""Parquet and Arrow files as streams of rows, with values that JSON can hold."""

import base64
import datetime
import decimal
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from gristmill.pipeline.ingest import bounds
from gristmill.pipeline.ingest.bounds import Passed, readable

_ROWS = 512  # read at once
_CAREFUL = 1 << 20  # bytes of that many rows, from which on each is looked at by itself
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
_OFFSET = 8  # bytes by which a list says where it begins
_SHOWN = 100  # bytes of each text of a row that is passed over
_HELD = 256 << 20  # bytes that the rows read at once may reach, if all repeat the largest value


def name(path: Path) -> str:
    """The format's name."""
    return "Parquet" if path.suffix == ".parquet" else "Arrow"


def items(path: Path, most: int = bounds.ROW) -> Iterator[tuple[int, dict[str, Any] | Passed]]:
    """The rows of the file, numbered from 1; of one with more than `most` bytes only its begin."""
    number = 0
    for rows, sizes in _slices(path, most):
        if sizes is None:
            for row in rows.to_pylist():
                number += 1
                yield number, row
            continue
        for at, size in enumerate(sizes):
            number += 1
            row = rows.slice(at, 1)
            yield number, _passed(row) if size > most else row.to_pylist()[0]


def sizes(path: Path, most: int = bounds.ROW) -> Iterator[int]:
    """About how many bytes each row has; one that is passed over holds next to nothing."""
    for rows, sizes in _slices(path, most):
        if sizes is None:
            yield from [_bytes(rows) // len(rows)] * len(rows)
        else:
            yield from (size if size <= most else 0 for size in sizes)


def text(row: dict[str, Any]) -> str:
    """The row as JSON, for people."""
    return json.dumps(plain(row), ensure_ascii=False)


def _slices(path: Path, most: int) -> Iterator[tuple[Any, Sequence[int] | None]]:
    """Rows as record batches, and the bytes of each where some may be large.

    A value that repeats is stored once and written out in every row, so the size of a file says
    nothing of its rows.
    """
    left = max(bounds.UNPACKED, bounds.RATIO * path.stat().st_size)
    for batch in _batches(path):
        for start in range(0, batch.num_rows, _ROWS):
            rows = batch.slice(start, _ROWS)
            size, sizes = _bytes(rows), None
            if size > min(_CAREFUL, most):
                sizes = [_bytes(rows.slice(i, 1)) for i in range(len(rows))]
            left -= size
            if left < 0:
                raise ValueError(bounds.too_packed(path.name))
            yield rows, sizes


def _bytes(rows: Any) -> int:  # noqa: ANN401  (pyarrow ships no types)
    """Bytes of the rows, with the values that their dictionaries represent."""
    return sum(map(_cell_bytes, rows.columns))


def _cell_bytes(column: Any) -> int:  # noqa: ANN401
    kind = column.type
    if pa.types.is_dictionary(kind):
        values = column.dictionary
        if not pa.types.is_string(kind.value_type) and not pa.types.is_large_string(
            kind.value_type
        ):
            return int(values.nbytes) * len(column)
        length = pyarrow.compute.binary_length(values).take(column.indices)
        return pyarrow.compute.sum(length, min_count=0).as_py() or 0
    if pa.types.is_struct(kind):
        return sum(map(_cell_bytes, column.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return len(column) * _OFFSET + _cell_bytes(column.flatten())
    return int(column.nbytes)


def _decoded(column: Any) -> Any:  # noqa: ANN401
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _passed(row: Any) -> Passed:  # noqa: ANN401
    """A row that is too long: how its texts begin, and the hash of its cells as Arrow has them."""
    cells = [_decoded(column) for column in row.columns]
    passed = Passed("too_long")
    for column, cell in zip(row.schema.names, cells, strict=True):
        if hasattr(cell[0], "as_buffer") and cell[0].is_valid:
            passed.head += f"{column}: ".encode() + bytes(cell[0].as_buffer()[:_SHOWN]) + b" "
    whole = pa.RecordBatch.from_arrays(cells, names=row.schema.names)
    passed.sum.update(memoryview(whole.serialize()))
    return passed


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


def _batches(path: Path) -> Iterator[Any]:
    with readable(path.name):
        try:
            if path.suffix == ".parquet":
                with pyarrow.parquet.ParquetFile(path) as file:
                    yield from file.iter_batches(_at_once(file.metadata))
            else:
                with pa.memory_map(str(path)) as file:
                    yield from _arrow(file)
        except (pa.ArrowException, EOFError) as error:
            raise ValueError(f"{path.name} is cut short or no {name(path)} file") from error


def _at_once(metadata: Any) -> int:  # noqa: ANN401
    """How many rows to read at once: fewer where one value of a dictionary might fill a lot."""
    largest = 1
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        for column in (group.column(i) for i in range(group.num_columns)):
            if column.has_dictionary_page:
                largest = max(largest, column.total_uncompressed_size)
    return max(1, min(_ROWS, _HELD // largest))


def _arrow(file: Any) -> Iterator[Any]:  # noqa: ANN401  (pyarrow ships no types)
    try:  # `datasets` writes streams, everybody else files
        reader = pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        yield from pa.ipc.open_stream(file)
    else:
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
