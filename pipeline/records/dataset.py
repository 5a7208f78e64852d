"""A dataset: records of one kind on disk, read shard by shard, perhaps without some of its rows."""

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from gristmill.pipeline.records.schema import KEY, QUARANTINE, RECORDS, Kind, digest, uniform
from gristmill.pipeline.records.store import MANIFEST, Entry, Step, Store, open_entry, table


class Records(Protocol):
    """What is read of a dataset when it is published or shown: `Dataset` is one."""

    @property
    def kind(self) -> Kind: ...

    @property
    def entry(self) -> Entry: ...

    @property
    def content(self) -> str: ...

    @property
    def sources(self) -> list[Mapping[str, Any]]: ...

    def blocks(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]: ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The records of a finished step.

    Attributes:
        entry: the step's entry; its tables named `records*` hold the records, `quarantine*` the
            rows that could not be read.
        kind: what the records are.
        gone: keys of the rows that it is read without (see `without`); None: all rows are there.
    """

    entry: Entry
    kind: Kind
    gone: pl.DataFrame | None = field(default=None, compare=False, repr=False)

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """The dataset in the folder of a finished ingest step."""
        entry = open_entry(folder)
        return cls(entry=entry, kind=entry.note["kind"])

    @property
    def sources(self) -> list[Mapping[str, Any]]:
        """One dict a source: name, description, license, revision, rows, quarantined, sha256."""
        return list(self.entry.note.get("sources", []))

    @cached_property
    def content(self) -> str:
        """Hash of the records and of which of them are there: what a step's key takes of it."""
        if self.gone is None:
            return self.entry.content
        named = self.gone.select(pl.concat_str(KEY, separator="\0")).to_series()
        gone = hashlib.blake2b("\n".join(named).encode(), digest_size=16).hexdigest()
        return digest([self.entry.content, gone])

    def without(self, drops: Sequence[pl.DataFrame]) -> "Dataset":
        """The same records without the rows that `drops` names; nothing is copied.

        Args:
            drops: frames with `schema.KEY`; rows that are not there, or named twice, do no harm.
        """
        frames = [d.select(*KEY) for d in drops if d.height]
        if not frames:
            return self
        if self.gone is not None:
            frames.append(self.gone)
        keys = [f.cast({"row": pl.Int64}) for f in frames]
        gone = pl.concat(keys).unique().sort("source", "row", "id")
        return replace(self, gone=gone)

    def shards(self) -> list[Path]:
        """The record shards, in order; they hold all rows, also those that are gone."""
        return [p for p in self.entry.shards if p.name.startswith("records")]

    def block(self, shard: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of one shard that are there."""
        if self.gone is None:
            return pl.read_parquet(shard, columns=None if columns is None else list(columns))
        needed = None if columns is None else list(dict.fromkeys([*KEY, *columns]))
        rows = self.mask(pl.read_parquet(shard, columns=needed))
        return rows if columns is None else rows.select(columns)

    def mask(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Of a frame with `schema.KEY`, the rows that are there."""
        if self.gone is None:
            return rows
        return rows.join(self.gone, on=KEY, how="anti", maintain_order="left")

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """One frame a shard: memory never holds more."""
        for path in self.shards():
            yield self.block(path, columns)

    def frame(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All records at once: for reference sets, scalar columns and small pools."""
        empty = pl.DataFrame(schema=RECORDS[self.kind])
        names = list(empty.columns if columns is None else columns)
        return pl.concat([empty.select(names), *self.blocks(names)])

    def quarantine_reasons(self) -> dict[str, int]:
        """Why rows could not be read, with their number, most first."""
        counts = self.quarantine().group_by("reason").len()
        return dict(counts.sort("len", "reason", descending=[True, False]).iter_rows())

    def quarantine(self) -> pl.DataFrame:
        """The rows that could not be read: file, line, reason, excerpt."""
        paths = [p for p in self.entry.shards if p.name.startswith("quarantine")]
        return pl.concat([pl.DataFrame(schema=QUARANTINE), *map(pl.read_parquet, paths)])


def stored(root: Path) -> Iterator[Dataset]:
    """Every dataset in the store at `root`, whichever step made it; what was ingested comes first.

    One that was damaged is passed over: the next run sets it aside.
    """
    found = sorted(root.glob(f"*/[!.]*/{MANIFEST}"), key=lambda p: (p.parts[-3] != "ingest", p))
    for path in found:
        with suppress(ValueError, OSError):
            entry = open_entry(path.parent)
            dataset = Dataset(entry=entry, kind=entry.note.get("kind", "example"))
            if "kind" in entry.note and dataset.shards():
                yield dataset


def unique_ids(dataset: Dataset) -> pl.Series:
    """The ids of a dataset, each once, sorted."""
    ids = [block["id"].unique() for block in dataset.blocks(["id"])]
    return pl.concat([pl.Series("id", [], pl.String), *ids]).unique().sort()


def sampled(store: Store, dataset: Dataset, rows: int, *, seed: int = 0) -> Dataset:
    """At most `rows` unique records, drawn by hash(seed, id): a dataset of its own."""
    step = Step(
        name="sample",
        version=1,
        settings={"rows": rows, "seed": seed},
        inputs={"records": dataset.content},
    )

    def drawn() -> pl.DataFrame:
        taken = heapq.nsmallest(
            rows, unique_ids(dataset), key=lambda i: (uniform(seed, "sample", i), i)
        )
        wanted = pl.DataFrame({"id": taken}, schema={"id": pl.String})
        parts = [b.join(wanted, on="id", how="semi") for b in dataset.blocks()]
        empty = pl.DataFrame(schema=RECORDS[dataset.kind])
        return pl.concat([empty, *parts]).unique("id", keep="first", maintain_order=True)

    note = {"kind": dataset.kind, "sources": dataset.sources}
    entry = store.run(step, [table("records", drawn)], note=lambda _: note)
    return Dataset(entry=entry, kind=dataset.kind)
