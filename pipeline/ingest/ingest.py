"""Ingest: raw files to records of one kind, with a quarantine for the rows that cannot be read.

Each file is cut into shards of its own, and small files share shards by what they hold, so another
file in the pool leaves the rest as they were, byte for byte. The key of the result is made of what
the files hold, never of where they lie. No row is lost in silence: it is a record, or it is in
the quarantine with file, line and reason.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pydantic

from gristmill.pipeline.ingest.bounds import ROW, readable
from gristmill.pipeline.ingest.readers import format_of
from gristmill.pipeline.ingest.shapes import ALIASES, shape_of
from gristmill.pipeline.ingest.sharding import Cut, Cutting, File, groups, stamp
from gristmill.pipeline.ingest.sources import HUB, find
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.records.store import Part, Step, Store, sha256

VERSION = 2
_NAMES = 20  # of files or columns that a sentence names


class Source(pydantic.BaseModel, extra="forbid"):
    """One origin of records: a file, a folder, or a data set."""

    path: str = pydantic.Field(
        description="A file, a folder, a folder that `datasets` loads, or hf://org/name@revision."
    )
    name: str | None = pydantic.Field(
        None,
        description="Name of its rows; default: a row's own `source`, or else the file's name.",
    )
    license: str | None = pydantic.Field(None, description="SPDX id; a row's own prevails.")
    revision: str | None = pydantic.Field(None, description="Version or commit of the source.")
    split: str | None = pydantic.Field(None, description="Of a data set; default: train.")
    limit: int | None = pydantic.Field(
        None, ge=1, description="A try: only so many rows of each file."
    )
    kind: Kind | None = pydantic.Field(None, description="Default: found from the columns.")
    columns: dict[str, str] = pydantic.Field(
        default_factory=dict, description="Field -> column, where the usual names do not fit."
    )


def ingest(
    store: Store,
    sources: Sequence[Source],
    *,
    kind: Kind | None = None,
    max_bad_share: float = 0.05,
    shard_rows: int = 512,
    shard_bytes: int = 64 << 20,
    max_row_bytes: int = ROW,
    allow_network: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read the sources into one dataset.

    Args:
        store: where the dataset is kept; the same files are never read twice.
        sources: what to read, in order.
        kind: what the rows are, where the columns do not say; a source's own `kind` prevails.
        max_bad_share: the run fails if a greater share of the rows cannot be read.
        shard_rows: most rows in one shard.
        shard_bytes: bytes of raw rows with which a shard is full, whatever the number of its rows.
        max_row_bytes: bytes of the longest row that is read; a longer one is a bad row, `too_long`.
        allow_network: let `hf://` sources load from the Hub.
        progress: called with (shards done, shards in all).
    """
    if not 0 <= max_bad_share <= 1 or min(shard_rows, shard_bytes, max_row_bytes) < 1:
        raise ValueError(
            "max_bad_share must lie in 0..1, and shard_rows, shard_bytes and max_row_bytes be at "
            f"least 1; found {max_bad_share}, {shard_rows}, {shard_bytes} and {max_row_bytes}"
        )
    files = _files(sources, kind, store.root / "datasets", allow_network, max_row_bytes)
    step = Step(
        name="ingest",
        version=VERSION,
        settings={
            "shard_rows": shard_rows,
            "shard_bytes": shard_bytes,
            "max_row_bytes": max_row_bytes,
            "files": [dict(f.settings) for f in files],
        },
        inputs={f"file-{index:05d}": f.sha256 for index, f in enumerate(files)},
    )
    cuts: list[Cut] = []

    def parts(work: Path) -> list[Part]:
        cuts.extend(_cuts(files, shard_rows, shard_bytes))
        return Cutting(work=work, groups=list(groups(cuts, shard_rows, shard_bytes))).parts

    entry = store.run(step, parts, note=lambda work: _note(work, cuts), progress=progress)
    dataset = Dataset(entry=entry, kind=entry.note["kind"])
    _check_share(dataset, max_bad_share)
    return dataset


def _files(
    sources: Sequence[Source], kind: Kind | None, cache: Path, allow_network: bool, most: int
) -> list[File]:
    if not sources:
        raise ValueError("there is no source: give at least one file or folder to ingest")
    files: list[File] = []
    names: set[str] = set()
    for source in sources:
        if source.path.startswith(HUB) and not allow_network:
            raise ValueError(
                f"{source.path} lies on the network: allow_network is off; allow it, or give a "
                "folder that holds the data"
            )
        found = find(source.path, revision=source.revision, split=source.split, cache=cache)
        renamed = {f.source: _unused(f.source, names) for f in found}
        names |= {source.name} if source.name else set(renamed.values())
        for data in found:
            by_line = source.columns.get("text") == "line"
            with readable(data.name):
                format = format_of(data.path, by_line=by_line, most=most)
                before = stamp(data.path)
                content = sha256(data.path)
            assert format is not None, f"{data.name} was found but has no format"
            settings = {
                "name": data.name,
                "source": source.name or renamed[data.source],
                "named": source.name is not None,
                "license": source.license or data.license,
                "revision": data.revision or source.revision,
                "kind": source.kind or kind,
                "columns": source.columns,
                **({} if source.limit is None else {"limit": source.limit}),
            }
            files.append(
                File(
                    path=data.path,
                    sha256=content,
                    stamp=before,
                    format=format,
                    settings=settings,
                )
            )
    return files


def _unused(name: str, names: set[str]) -> str:
    """The name, or name#2, name#3 ... if another source of the run has it."""
    candidates = (name if n == 1 else f"{name}#{n}" for n in range(1, len(names) + 2))
    return next(c for c in candidates if c not in names)


def _cuts(files: Sequence[File], shard_rows: int, shard_bytes: int) -> list[Cut]:
    """Find out what each file holds; all must hold the same kind."""
    shapes = []
    for file in files:
        sample = file.sample()
        shape = shape_of(sample, file.settings["columns"], file.settings["kind"])
        if shape is None and sample:
            raise ValueError(_no_shape(file, sample))
        shapes.append(shape)
    kinds = {
        s.kind: f"{f.settings['name']} holds {s.kind}s ({s.name})"
        for f, s in zip(files, shapes, strict=True)
        if s is not None
    }
    if len(kinds) > 1:
        raise ValueError(
            f"a dataset holds one kind of record, but {' and '.join(kinds.values())}: "
            "ingest them apart, or say by kind= what all of them are"
        )
    measured = [file.starts(shard_rows, shard_bytes) for file in files]
    if not kinds:
        names = _some([f.settings["name"] for f in files])
        rows = sum(starts[-1] for starts, _ in measured)
        found = f"none of the {rows} rows can be read" if rows else "there are no rows"
        raise ValueError(f"{found} in {names}: give JSON objects, one a line, or a table")
    return [
        Cut(
            index=index,
            file=file,
            shape=shape,
            kind=next(iter(kinds)),
            starts=starts,
            bytes=size,
        )
        for index, (file, shape, (starts, size)) in enumerate(
            zip(files, shapes, measured, strict=True)
        )
    ]


def _no_shape(file: File, sample: Sequence[Mapping[str, Any]]) -> str:
    name, columns = file.settings["name"], file.settings["columns"]
    found = sorted(set().union(*sample))
    for field, column in columns.items():
        if column not in found:
            return (
                f"columns maps {field!r} to {column!r}, which {name} does not have "
                f"(found: {_some(found)})"
            )
    kind = file.settings["kind"]
    what = f"a known shape of the kind {kind}" if kind else "a known shape"
    return (
        f"{name} has no columns of {what} (found: {_some(found)}); map them, for instance "
        'columns={"prompt": "...", "completion": "..."}, with the fields ' + ", ".join(ALIASES)
    )


def _some(names: Sequence[str]) -> str:
    """The names, or the first of them, short enough for a sentence."""
    shown = ", ".join(name[:80] for name in names[:_NAMES])
    return f"{shown} and {len(names) - _NAMES} more" if len(names) > _NAMES else shown


def _note(work: Path, cuts: Sequence[Cut]) -> dict[str, Any]:
    """What the dataset is made of, source by source."""
    paths = sorted(work.glob("[!.]*/quarantine.parquet"))  # not the temporaries of a killed run
    tables = [pl.read_parquet(path, columns=["source"]) for path in paths]
    bad = Counter(name for table in tables for name in table["source"])
    sources: dict[str, dict[str, Any]] = {}
    for cut in cuts:
        settings = cut.file.settings
        label = cut.shape.name if cut.shape else "nothing readable"
        name = settings["source"]
        source = sources.setdefault(
            name,
            {
                "name": name,
                "description": f"{cut.file.format.name} ({label})",
                "license": settings["license"],
                "revision": settings["revision"],
                "rows": -bad[name],
                "quarantined": bad[name],
                "sha256": {},
            },
        )
        source["rows"] += cut.rows
        source["sha256"][settings["name"]] = cut.file.sha256
    return {"kind": cuts[0].kind, "sources": list(sources.values())}


def _check_share(dataset: Dataset, max_bad_share: float) -> None:
    bad = sum(s["quarantined"] for s in dataset.sources)
    rows = bad + sum(s["rows"] for s in dataset.sources)
    if bad <= max_bad_share * rows:
        return
    reasons = Counter(dataset.quarantine()["reason"]).most_common()
    worst = ", ".join(f"{r} ({n})" for r, n in sorted(reasons, key=lambda r: (-r[1], r[0]))[:3])
    raise ValueError(
        f"{bad} of {rows} rows ({bad / rows:.1%}) cannot be read and at most {max_bad_share:.1%} "
        f"may, the commonest reasons being {worst}; the quarantine tables in {dataset.entry.path} "
        "name each line: mend them, map the columns, or raise max_bad_share"
    )
