"""Earlier: the rows that the versions of a dataset have published, each once, as records.

A version holds most of what the one before it held. So a version's entry in the store holds only
the rows that none before it published, and the versions together are read as often as there are
rows.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl

from gristmill.pipeline.export import verify
from gristmill.pipeline.export.changes import ledger_files, read_ledger
from gristmill.pipeline.export.versions import number, promoted, versions
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import RECORDS, Kind, digest
from gristmill.pipeline.records.store import MANIFEST, Part, Step, Store, sha256, write_table

_DATA = "data/"  # the shards of the default config


def earlier(store: Store, home: Path, *, latest: bool = False) -> tuple[Dataset, ...]:
    """The rows of all versions in the folder of a dataset: a dataset each, none of them empty.

    Args:
        store: where they are kept.
        home: the folder; it need not be there.
        latest: only those of the version that is promoted.

    Raises:
        ValueError: a version is not as it was published.
    """
    if not home.is_dir():
        return ()
    chosen = sorted(versions(home), key=number)
    if latest:
        chosen = [promoted(home)] if (home / "latest").is_dir() else []
    found: list[Dataset] = []
    for version in chosen:
        one = _new_in(store, version, found)
        if one.entry.note["rows"]:
            found.append(one)
    return tuple(found)


def _new_in(store: Store, version: Path, before: Sequence[Dataset]) -> Dataset:
    """The rows of a version that those before it have not published."""
    step = Step(
        name="published",
        version=1,
        inputs={
            "version": sha256(version / MANIFEST),
            "before": digest([d.entry.content for d in before]),
        },
    )
    kept = store.find(step)
    if kept is not None:
        return Dataset(entry=kept, kind=kept.note["kind"])
    told = json_text.loads((version / MANIFEST).read_text("utf-8"))
    kind: Kind = told["kind"]
    names = sorted(f["path"] for f in told["files"] if f["path"].startswith(_DATA))
    verify.demand(version, [MANIFEST, *names, *ledger_files(version)])
    called = (
        read_ledger(version, ["id", "user_id"])
        .drop_nulls()
        .sort("id", "user_id")
        .unique("id", keep="first")
    )
    with tempfile.TemporaryDirectory(dir=store.root, prefix=".work-published-") as scratch:
        sources = [Source(path=str(version / n), name=_called(version)) for n in names]
        whole = ingest(Store(root=Path(scratch)), sources, kind=kind, max_bad_share=1.0)
        parts = [
            Part(
                name=f"records-{i:05d}.parquet",
                write=partial(_write_new, whole, shard, before, called),
            )
            for i, shard in enumerate(whole.shards())
        ]
        entry = store.run(step, parts, note=partial(_note, kind))
    return Dataset(entry=entry, kind=kind)


def _called(version: Path) -> str:
    return f"{version.parent.name}/{version.name}"


def _write_new(
    whole: Dataset, shard: Path, before: Sequence[Dataset], called: pl.DataFrame, path: Path
) -> None:
    """Write the rows of a shard that no dataset before has, with the ids that users gave them."""
    names = whole.block(shard).columns
    rows = whole.block(shard).drop("user_id")
    rows = rows.join(called, on="id", how="left", maintain_order="left").select(names)
    for one in before:
        for known in one.blocks(["id"]):
            rows = rows.join(known, on="id", how="anti", maintain_order="left")
    write_table(rows.unique("id", keep="first", maintain_order=True), path)


def _note(kind: Kind, work: Path) -> dict[str, object]:
    empty = pl.DataFrame(schema={"id": RECORDS[kind]["id"]})
    ids = [pl.read_parquet(p, columns=["id"]) for p in sorted(work.glob("records-*.parquet"))]
    return {"kind": kind, "rows": pl.concat([empty, *ids]).height}
