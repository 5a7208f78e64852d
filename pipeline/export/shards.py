"""Published Parquet: rows in a stated order, files of a stated size, never a whole pool in memory.

Rows are first dealt into buckets by their final position (Arrow streams on disk), then each bucket
is sorted and appended. What is written depends on the rows and their order alone, not on how the
input was sharded.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.pipeline.report.facts import Split

SHARD_BYTES = 500_000_000
ROW_GROUP_BYTES = 100_000_000
BUCKET_ROWS = 8_192
MAX_BUCKETS = 256  # open files
SLICE_ROWS = 1_024


def deal(blocks: Iterable[pl.DataFrame], rows: int, work: Path) -> None:
    """Deal records into buckets by their `position`, from which `read` takes them in order.

    Args:
        blocks: records with `position`: 0-based, each once.
        rows: how many there are to be.
        work: folder for the buckets; the caller removes it.
    """
    size = BUCKET_ROWS * max(1, math.ceil(rows / (BUCKET_ROWS * MAX_BUCKETS)))
    seen = 0
    with contextlib.ExitStack() as stack:
        writers: dict[int, pa.RecordBatchStreamWriter] = {}
        for block in blocks:
            seen += block.height
            parts = block.with_columns(_bucket=pl.col("position") // size).partition_by(
                "_bucket", as_dict=True, include_key=False
            )
            for (bucket,), part in sorted(parts.items()):
                arrow = part.to_arrow(compat_level=pl.CompatLevel.oldest())
                if bucket not in writers:
                    path = work / f"bucket-{bucket:05d}.arrow"
                    writers[bucket] = stack.enter_context(pa.ipc.new_stream(path, arrow.schema))
                writers[bucket].write_table(arrow)
    if seen != rows:
        raise ValueError(
            f"the ledger keeps {rows:,} rows and the dataset holds {seen:,} of them: they "
            "are not of the same ingest; run select again on this dataset."
        )


def read(work: Path) -> Iterator[pl.DataFrame]:
    """The rows that `deal` left in a folder, in order, in small slices."""
    for path in sorted(work.glob("bucket-*.arrow")):
        with pa.ipc.open_stream(path) as stream:
            frame = pl.from_arrow(stream.read_all())
        assert isinstance(frame, pl.DataFrame)
        # Arrow strings and lists count bytes in 32 bits, so tables must stay small
        yield from frame.sort("position").iter_slices(SLICE_ROWS)


def write(
    tables: Iterable[pa.Table],
    root: Path,
    folder: str,
    split: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    row_group_bytes: int = ROW_GROUP_BYTES,
) -> Split | None:
    """Write tables of one schema as `<folder>/<split>-00000-of-0000N.parquet`; None if no rows."""
    target = root / folder
    rows: list[int] = []
    writer: pq.ParquetWriter | None = None
    total = size = 0
    for group in _groups(tables, row_group_bytes):
        if writer is None:
            target.mkdir(parents=True, exist_ok=True)
            writer = pq.ParquetWriter(
                target / f".{split}-{len(rows):05d}",
                group.schema,
                compression="zstd",
                compression_level=3,
                write_page_index=True,
                use_content_defined_chunking=True,
            )
            rows.append(0)
            size = 0
        writer.write_table(group, row_group_size=group.num_rows)
        rows[-1] += group.num_rows
        size += group.nbytes
        total += group.nbytes
        if size >= shard_bytes:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    names = [f"{split}-{i:05d}-of-{len(rows):05d}.parquet" for i in range(len(rows))]
    for number, name in enumerate(names):
        (target / f".{split}-{number:05d}").rename(target / name)
    paths = tuple(f"{folder}/{name}" for name in names)
    return Split(name=split, paths=paths, rows=tuple(rows), bytes=total) if rows else None


def _groups(tables: Iterable[pa.Table], row_group_bytes: int) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    size = 0
    for table in tables:
        if table.num_rows == 0:
            continue
        waiting.append(table)
        size += table.nbytes
        if size >= row_group_bytes:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def arrow(frame: pl.DataFrame, schema: Mapping[str, Any]) -> pa.Table:
    """A frame as an Arrow table of exactly these types (small offsets, no views)."""
    table = frame.select(list(schema)).to_arrow(compat_level=pl.CompatLevel.oldest())
    return table.cast(pa.schema(list(schema.items()))).combine_chunks()


def flat_schema(types: Mapping[str, pl.DataType], columns: Sequence[str]) -> dict[str, Any]:
    """Arrow types of scalar columns."""
    kinds = {pl.String: pa.string(), pl.Int64: pa.int64(), pl.Float64: pa.float64()}
    schema = {}
    for column in columns:
        dtype = types[column]
        kind = kinds.get(dtype.base_type()) or (
            pa.bool_() if dtype == pl.Boolean else pa.int64() if dtype.is_integer() else None
        )
        kind = kind or (pa.float64() if dtype.is_float() else pa.string())
        schema[column] = kind
    return schema
