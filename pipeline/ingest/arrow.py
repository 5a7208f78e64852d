"""Parquet and Arrow files as streams of rows, with values that JSON can hold.

A cell that Python cannot hold (a date beyond its calendar, bytes that are not the UTF-8 they claim
to be) costs its row and no other.
"""

import datetime
import decimal
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from gristmill.pipeline.ingest import bounds
from gristmill.pipeline.ingest.bounds import Passed, readable
from gristmill.pipeline.ingest.packing import suffixes
from gristmill.pipeline.records.schema import canonical_json

_ROWS = 512  # read at once
# What pyarrow raises for a cell that has no value in Python, a map that names a key twice included.
_CELLS = (ValueError, OverflowError, KeyError)
_CAREFUL = 1 << 20  # bytes of that many rows, from which on each is looked at by itself
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
_OFFSET = 8  # bytes by which a list says where it begins
_SHOWN = 100  # bytes of each text of a row that is passed over
_HELD = 256 << 20  # bytes that the rows read at once may reach, if all repeat the largest value


def name(path: Path) -> str:
    """The format's name."""
    return "Parquet" if suffixes(path.name)[0] in (".parquet", ".pq") else "Arrow"


def items(path: Path, most: int = bounds.ROW) -> Iterator[tuple[int, dict[str, Any] | Passed]]:
    """The rows of the file, numbered from 1; of one with more than `most` bytes only its begin."""
    number = 0
    for rows, sizes in _slices(path, most):
        for row in _values(rows) if sizes is None else _one_by_one(rows, sizes, most):
            number += 1
            yield number, row


def _values(rows: Any) -> Iterator[dict[str, Any] | Passed]:  # noqa: ANN401
    """Rows that are small, as Python values."""
    try:
        values = rows.to_pylist(maps_as_pydicts="strict")
    except _CELLS:
        return _one_by_one(rows, [0] * len(rows), 0)
    return iter(values)


def _one_by_one(
    rows: Any,  # noqa: ANN401
    sizes: Sequence[int],
    most: int,
) -> Iterator[dict[str, Any] | Passed]:
    """Each row by itself: some are too long, or hold what Python cannot."""
    for at, size in enumerate(sizes):
        row = rows.slice(at, 1)
        if size > most:
            yield _passed(row, "too_long")
            continue
        reasons = (_unreadable(row.schema.names[i], row.column(i)) for i in range(row.num_columns))
        reason = next((r for r in reasons if r is not None), None)
        yield _passed(row, reason) if reason else row.to_pylist(maps_as_pydicts="strict")[0]


def _unreadable(column: str, cell: Any) -> str | None:  # noqa: ANN401
    """Why a cell has no value in Python, or None if it has one."""
    try:
        cell.to_pylist(maps_as_pydicts="strict")
    except UnicodeDecodeError:
        return f"not_utf8: {column[:40]}"
    except (KeyError, ValueError) as error:
        twice = isinstance(error, KeyError) or "duplicate" in str(error)
        return f"{'duplicate_key' if twice else 'out_of_range'}: {column[:40]}"
    except OverflowError:
        return f"out_of_range: {column[:40]}"
    return None


def sizes(path: Path, most: int = bounds.ROW) -> Iterator[int]:
    """About how many bytes each row has; one that is passed over holds next to nothing."""
    for rows, sizes in _slices(path, most):
        if sizes is None:
            yield from [_bytes(rows) // len(rows)] * len(rows)
        else:
            yield from (size if size <= most else 0 for size in sizes)


def text(row: dict[str, Any]) -> str:
    """The row as JSON, for people."""
    return canonical_json(plain(row))


def _slices(path: Path, most: int) -> Iterator[tuple[Any, Sequence[int] | None]]:
    """Rows as record batches, and the bytes of each where some may be large.

    A value that repeats is stored once and written out in every row, so the size of a file says
    nothing of its rows.
    """
    left = bounds.unpacked(path.stat().st_size)
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


def _passed(row: Any, reason: str) -> Passed:  # noqa: ANN401
    """A row that is not read: how its texts begin, and the hash of its cells as Arrow has them."""
    cells = [_decoded(column) for column in row.columns]
    passed = Passed(reason)
    for column, cell in zip(row.schema.names, cells, strict=True):
        if hasattr(cell[0], "as_buffer") and cell[0].is_valid:
            passed.head += f"{column}: ".encode() + bytes(cell[0].as_buffer()[:_SHOWN]) + b" "
    whole = pa.RecordBatch.from_arrays(cells, names=row.schema.names)
    passed.sum.update(memoryview(whole.serialize()))
    return passed


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row without its nulls, as JSON lines would have had it."""
    return {k: p for k, v in row.items() if (p := plain(v)) is not None}


def plain(value: object) -> Any:  # noqa: ANN401  (JSON)
    """The nearest JSON value: dates as ISO text, bytes as the text that they are.

    Bytes that are no text stay bytes, which no field of content takes and `meta` shows as base64.
    NaN and infinities are null.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return _number(value)
    return str(value)


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _number(value: decimal.Decimal) -> int | float | str | None:
    """The number that JSON can hold, or its text where a float would round it."""
    if not value.is_finite():
        return None
    if value == value.to_integral_value():
        return int(value)
    return float(value) if decimal.Decimal(repr(float(value))) == value else str(value)


def _batches(path: Path) -> Iterator[Any]:
    with readable(path.name):
        try:
            if name(path) == "Parquet":
                with pyarrow.parquet.ParquetFile(path) as file:
                    _check_names(path, file.schema_arrow)
                    yield from file.iter_batches(_at_once(file.metadata))
            else:
                with pa.memory_map(str(path)) as file:
                    yield from _arrow(path, file)
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


def _check_names(path: Path, schema: Any) -> None:  # noqa: ANN401
    twice = [column for column, n in Counter(schema.names).items() if n > 1]
    if twice:
        raise ValueError(
            f"{path.name} names a column twice: {twice[0][:80]}; give each column a name of its own"
        )


def _arrow(path: Path, file: Any) -> Iterator[Any]:  # noqa: ANN401  (pyarrow ships no types)
    try:  # `datasets` writes streams, everybody else files
        reader = pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        stream = pa.ipc.open_stream(file)
        _check_names(path, stream.schema)
        yield from stream
    else:
        _check_names(path, reader.schema)
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
