"""Cutting data files into shards of records, each with the quarantine of its bad rows.

A shard holds a run of raw rows of one file, so it depends on that file alone, or several small
files whole. Which small files go together is decided by what they hold: a file opens a new group
where its hash says so, so another file among them changes its own group and no other. A run that
was cut off goes on at the first shard that is not there.
"""

import contextlib
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.ingest.bounds import Passed
from gristmill.pipeline.ingest.raw_rows import BadRow
from gristmill.pipeline.ingest.readers import Format
from gristmill.pipeline.ingest.shapes import Shape
from gristmill.pipeline.records.schema import QUARANTINE, RECORDS, Kind
from gristmill.pipeline.records.store import write_table

_SAMPLE = 64  # readable rows that decide what a file's columns mean
_EXCERPT = 200


@dataclass(frozen=True, kw_only=True)
class File:
    """A data file, how it is read, and what its rows are called."""

    path: Path
    sha256: str
    stamp: tuple[int, int]
    format: Format
    settings: Mapping[str, Any]  # what `ingest` says of it: name, source, columns ...

    def sample(self) -> list[dict[str, Any]]:
        """The first rows that can be read."""
        rows: list[dict[str, Any]] = []
        for _, raw in self.format.items(self.path):
            with contextlib.suppress(BadRow, RecursionError):
                rows.append(self.format.parse(raw))
            if len(rows) == _SAMPLE:
                break
        return rows

    def faults(self) -> set[str]:
        """Why the first rows that cannot be read cannot."""
        found: set[str] = set()
        for _, raw in itertools.islice(self.format.items(self.path), _SAMPLE):
            try:
                self.format.parse(raw)
            except BadRow as error:
                found.add(str(error))
            except RecursionError:
                found.add("too_deep")
        return found

    def starts(self, rows: int, size: int) -> tuple[list[int], int]:
        """The first row of each shard of the file and the number of its rows; and its bytes.

        Args:
            rows: most rows of a shard.
            size: bytes of raw rows with which a shard is full.
        """
        starts, at, held, total = [0], 0, 0, 0
        first = itertools.islice(self.format.sizes(self.path), self.settings.get("limit"))
        for at, row in enumerate(first, 1):
            held, total = held + row, total + row
            if at - starts[-1] == rows or held >= size:
                starts.append(at)
                held = 0
        return (starts if starts[-1] == at else [*starts, at]), total


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of change: equal while nobody writes to the file."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A file with its shape, ready to be cut; `shape` is None if no row of it can be read.

    Attributes:
        index: place of the file among those of the run.
        file: what is cut.
        shape: what its columns mean.
        kind: what its rows become.
        starts: the first row of each shard, and last the number of rows.
        bytes: about how much the rows hold.
    """

    index: int
    file: File
    shape: Shape | None
    kind: Kind
    starts: Sequence[int]
    bytes: int
    streams: dict[int, Iterator[tuple[int, Any]]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows the file has."""
        return self.starts[-1]

    @property
    def chunks(self) -> int:
        """How many shards the file makes."""
        return len(self.starts) - 1

    def part(self, chunk: int) -> str:
        """Name of a shard's folder."""
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.file.settings["source"])[:60]
        return f"{self.index:05d}-{slug}-{chunk:05d}"

    def shard(self, chunk: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The records of a shard and its bad rows."""
        records: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        settings, parse = self.file.settings, self.file.format.parse
        own = {name: settings[name] for name in ("source", "license", "revision", "named")}
        for row, (line, raw) in enumerate(self._take(chunk), self.starts[chunk]):
            try:
                value = parse(raw)
                assert self.shape is not None, "a file without a shape has no readable row"
                records.append({"row": row, **self.shape.record(value, **own)})
            except (BadRow, RecursionError) as error:
                reason = str(error) if isinstance(error, BadRow) else "too_deep"
                bad.append(self._bad(row, line, raw, reason))
        return records, bad

    def _take(self, chunk: int) -> Iterator[tuple[int, Any]]:
        reached = max((at for at in self.streams if at <= chunk), default=0)
        stream = self.streams.pop(reached, None)
        if stream is None:  # the first shard, or the first after a run that was cut off
            stream = self.file.format.items(self.file.path)
        for _ in itertools.islice(stream, self.starts[chunk] - self.starts[reached]):
            pass  # shards that others cut
        yield from itertools.islice(stream, self.starts[chunk + 1] - self.starts[chunk])
        if chunk + 1 < self.chunks:
            self.streams[chunk + 1] = stream

    def _bad(self, row: int, line: int, raw: object, reason: str) -> dict[str, Any]:
        text = self.file.format.text(raw).rstrip("\r\n")
        if isinstance(raw, Passed):
            total = raw.sum
        else:
            total = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16)
        return {
            "id": total.hexdigest(),
            "source": self.file.settings["source"],
            "row": row,
            "file": self.file.settings["name"],
            "line": line,
            "reason": reason,
            "excerpt": text[:_EXCERPT].encode("utf-8", "replace").decode("utf-8"),
        }


Group = Sequence[tuple[Cut, int]]  # the shards of files, by number, that make one part


def groups(cuts: Iterable[Cut], rows: int, size: int) -> Iterator[Group]:
    """What makes one part: a shard of a file, or several small files.

    Args:
        cuts: the files, in order.
        rows: most rows of a shard.
        size: most bytes of the small files in one.
    """
    group: list[tuple[Cut, int]] = []
    held_rows = held_bytes = 0
    for cut in cuts:
        # The larger a file, the likelier it opens a group, so that groups are half full on average.
        share = max(2 * cut.rows / rows, 2 * cut.bytes / size)
        full = held_rows + cut.rows > rows or held_bytes + cut.bytes > size
        if group and (share > 1 or full or _draw(cut.file) < share):
            yield group
            group, held_rows, held_bytes = [], 0, 0
        if share > 1:
            yield from ([(cut, chunk)] for chunk in range(cut.chunks))
        elif cut.rows:
            group.append((cut, 0))
            held_rows, held_bytes = held_rows + cut.rows, held_bytes + cut.bytes
    if group:
        yield group


def _draw(file: File) -> float:
    """A number in 0..1 that depends on what the file holds and what it is called."""
    name = f"{file.sha256}\0{file.settings['name']}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest()) / 2.0**48


def name(group: Group) -> str:
    """The part's name: that of its first shard."""
    cut, chunk = group[0]
    return cut.part(chunk)


def rows_of(group: Group) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records of a part and its bad rows.

    Raises:
        ValueError: a file is not what it was.
    """
    records: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    for one, chunk in group:
        some = one.shard(chunk)
        if stamp(one.file.path) != one.file.stamp:
            what = one.file.settings["name"]
            raise ValueError(f"{what} changed while it was read: run again")
        records += some[0]
        bad += some[1]
    return records, bad


def write_part(
    group: Group, records: list[dict[str, Any]], bad: list[dict[str, Any]], path: Path
) -> None:
    """Write a part, a folder."""
    path.mkdir()
    kind = group[0][0].kind
    if records:
        write_table(_frame(records, RECORDS[kind]), path / "records.parquet")
    if bad:
        write_table(_frame(bad, QUARANTINE), path / "quarantine.parquet")


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
