"""A dataset: records of one kind on disk, read shard by shard."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.schema import QUARANTINE, RECORDS, Kind, uniform
from gristmill.pipeline.store import Entry, Step, Store, open_entry, table


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The records of a finished step.

    Attributes:
        entry: the step's entry; its tables named `records*` hold the records, `quarantine*` the
            rows that could not be read.
        kind: what the records are.
    """

    entry: Entry
    kind: Kind

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """The dataset in the folder of a finished ingest step."""
        entry = open_entry(folder)
        return cls(entry=entry, kind=entry.note["kind"])

    @property
    def sources(self) -> list[Mapping[str, Any]]:
        """One dict a source: name, description, license, revision, rows, quarantined, sha256."""
        return list(self.entry.note.get("sources", []))

    def shards(self) -> list[Path]:
        """The record shards, in order."""
        return [p for p in self.entry.shards if p.name.startswith("records")]

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """One frame a shard: memory never holds more."""
        for path in self.shards():
            yield pl.read_parquet(path, columns=None if columns is None else list(columns))

    def frame(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All records at once: for reference sets, scalar columns and small pools."""
        empty = pl.DataFrame(schema=RECORDS[self.kind])
        names = list(empty.columns if columns is None else columns)
        return pl.concat([empty.select(names), *self.blocks(names)])

    def quarantine(self) -> pl.DataFrame:
        """The rows that could not be read: file, line, reason, excerpt."""
        paths = [p for p in self.entry.shards if p.name.startswith("quarantine")]
        return pl.concat([pl.DataFrame(schema=QUARANTINE), *map(pl.read_parquet, paths)])


def sampled(store: Store, dataset: Dataset, rows: int, *, seed: int = 0) -> Dataset:
    """At most `rows` unique records, drawn by hash(seed, id): a dataset of its own."""
    step = Step(
        name="sample",
        version=1,
        settings={"rows": rows, "seed": seed},
        inputs={"records": dataset.entry.content},
    )

    def drawn() -> pl.DataFrame:
        ids = dataset.frame(["id"])["id"].unique().to_list()
        taken = heapq.nsmallest(rows, ids, key=lambda i: (uniform(seed, "sample", i), i))
        wanted = pl.DataFrame({"id": taken}, schema={"id": pl.String})
        parts = [b.join(wanted, on="id", how="semi") for b in dataset.blocks()]
        empty = pl.DataFrame(schema=RECORDS[dataset.kind])
        return pl.concat([empty, *parts]).unique("id", keep="first", maintain_order=True)

    note = {"kind": dataset.kind, "sources": dataset.sources}
    entry = store.run(step, [table("records", drawn)], note=lambda _: note)
    return Dataset(entry=entry, kind=dataset.kind)
