"""Cutting a data file into shards of records, each with the quarantine of its bad rows.

Every shard holds the same number of raw rows of one file, so it depends on that file alone, and a
run that was cut off goes on at the first shard that is not there.
"""

import contextlib
import functools
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.readers import BadRow, Format
from gristmill.pipeline.schema import KEY, QUARANTINE, RECORDS, Kind
from gristmill.pipeline.shapes import Shape
from gristmill.pipeline.store import Part, write_table

_SAMPLE = 64  # readable rows that decide what a file's columns mean
_EXCERPT = 200


@dataclass(frozen=True, kw_only=True)
class File:
    """A data file, how it is read, and what its rows are called."""

    path: Path
    sha256: str
    stamp: tuple[int, int]
    format: Format
    settings: Mapping[str, Any]  # name, source, license, revision, kind, columns

    def sample(self) -> list[dict[str, Any]]:
        """The first rows that can be read."""
        rows: list[dict[str, Any]] = []
        for _, raw in self.format.items(self.path):
            with contextlib.suppress(BadRow):
                rows.append(self.format.parse(raw))
            if len(rows) == _SAMPLE:
                break
        return rows


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of change: equal while nobody writes to the file."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A file with its shape, ready to be cut; `shape` is None if no row of it can be read."""

    index: int
    file: File
    shape: Shape | None
    kind: Kind
    rows: int
    shard_rows: int
    streams: dict[int, Iterator[tuple[int, Any]]] = field(default_factory=dict)

    @property
    def chunks(self) -> int:
        """How many shards the file makes."""
        return -(-self.rows // self.shard_rows)

    def part(self, chunk: int) -> str:
        """Name of a shard's folder."""
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.file.settings["source"])[:60]
        return f"{self.index:05d}-{slug}-{chunk:05d}"

    def shard(self, chunk: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The records of a shard and its bad rows."""
        records: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        settings, parse = self.file.settings, self.file.format.parse
        own = {name: settings[name] for name in ("source", "license", "revision")}
        for row, (line, raw) in enumerate(self._take(chunk), chunk * self.shard_rows):
            try:
                value = parse(raw)
                assert self.shape is not None, "a file without a shape has no readable row"
                records.append({"row": row, **self.shape.record(value, **own)})
            except (BadRow, RecursionError) as error:
                reason = str(error) if isinstance(error, BadRow) else "too_deep"
                bad.append(self._bad(row, line, raw, reason))
        return _frame(records, RECORDS[self.kind]), _frame(bad, QUARANTINE)

    def _take(self, chunk: int) -> list[tuple[int, Any]]:
        stream = self.streams.pop(chunk, None)
        if stream is None:  # the first shard, or the first after a run that was cut off
            stream = self.file.format.items(self.file.path)
            for _ in itertools.islice(stream, chunk * self.shard_rows):
                pass
        taken = list(itertools.islice(stream, self.shard_rows))
        if chunk + 1 < self.chunks:
            self.streams[chunk + 1] = stream
        return taken

    def _bad(self, row: int, line: int, raw: object, reason: str) -> dict[str, Any]:
        text = self.file.format.text(raw).rstrip("\r\n")
        data = text.encode("utf-8", "surrogateescape")
        return {
            "id": hashlib.blake2b(data, digest_size=16).hexdigest(),
            "source": self.file.settings["source"],
            "row": row,
            "file": self.file.settings["name"],
            "line": line,
            "reason": reason,
            "excerpt": text[:_EXCERPT].encode("utf-8", "replace").decode("utf-8"),
        }


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """All cuts of one run, and the keys of what has been cut: no two rows may share one."""

    work: Path
    cuts: Sequence[Cut]
    keys: dict[str, tuple[frozenset[str], np.ndarray]] = field(default_factory=dict)

    @property
    def parts(self) -> list[Part]:
        """The shards, in order, as parts of a step."""
        return [
            Part(name=cut.part(chunk), write=functools.partial(self._write, cut, chunk))
            for cut in self.cuts
            for chunk in range(cut.chunks)
        ]

    def _write(self, cut: Cut, chunk: int, path: Path) -> None:
        records, bad = cut.shard(chunk)
        if stamp(cut.file.path) != cut.file.stamp:
            raise ValueError(f"{cut.file.settings['name']} changed while it was read: run again")
        if len(self.cuts) > 1:
            records = self._distinct(records, cut, chunk)
        path.mkdir()
        if records.height:
            write_table(records, path / "records.parquet")
        if bad.height:
            write_table(bad, path / "quarantine.parquet")

    def _distinct(self, records: pl.DataFrame, cut: Cut, chunk: int) -> pl.DataFrame:
        """Rename the source of rows whose (id, source, row) an earlier file has: s, s#2, s#3 ...

        Only the same shard of another file can hold the same `row`, so that is all to compare.
        """
        names = [c.part(chunk) for c in self.cuts[: cut.index] if chunk < c.chunks]
        given = records["source"]
        for number in itertools.count(2):
            labels, hashes = _keys(records)
            clash = np.zeros(records.height, dtype=bool)
            for earlier_labels, earlier_hashes in map(self._earlier, names):
                if labels & earlier_labels:
                    clash |= np.isin(hashes, earlier_hashes)
            if not clash.any():
                break
            renamed = pl.when(pl.Series(clash)).then(given + f"#{number}").otherwise("source")
            records = records.with_columns(source=renamed)
        self.keys[cut.part(chunk)] = labels, hashes
        return records

    def _earlier(self, part: str) -> tuple[frozenset[str], np.ndarray]:
        if part not in self.keys:  # cut by a run before this one, or without a good row
            path = self.work / part / "records.parquet"
            found = pl.read_parquet(path, columns=list(KEY)) if path.exists() else _NO_KEYS
            self.keys[part] = _keys(found)
        return self.keys[part]


_NO_KEYS = pl.DataFrame(schema={"id": pl.String, "source": pl.String, "row": pl.Int64})


def _keys(records: pl.DataFrame) -> tuple[frozenset[str], np.ndarray]:
    """The sources of the rows, and a 64-bit hash of each row's key."""
    hashes = records.select(pl.struct(KEY).hash()).to_series().to_numpy()
    return frozenset(records["source"].unique()), hashes


def _frame(rows: list[dict[str, Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    """A frame of the rows; Arrow builds nested columns several times faster than polars."""
    import pyarrow as pa

    empty = pl.DataFrame(schema=schema)
    if not rows:
        return empty
    frame = pl.from_arrow(pa.Table.from_pylist(rows, schema=empty.to_arrow().schema))
    assert isinstance(frame, pl.DataFrame), "a table makes a frame"
    assert frame.schema == empty.schema, f"{frame.schema} is not what was asked for"
    return frame
