"""Ingest: raw files to records of one kind, with a quarantine for the rows that cannot be read.

Each file is cut into shards of its own, and small files share shards by what they hold, so another
file in the pool leaves the rest as they were, byte for byte. The key of the result is made of what
the files hold, never of where they lie. No row is lost in silence: it is a record, or it is in
the quarantine with file, line and reason.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pydantic

from gristmill.pipeline.engine.engine import Engine, Local
from gristmill.pipeline.ingest.bounds import ROW, readable
from gristmill.pipeline.ingest.columns import fields, some
from gristmill.pipeline.ingest.cutting import Cutting, Rising
from gristmill.pipeline.ingest.meanings import understood
from gristmill.pipeline.ingest.readers import format_of
from gristmill.pipeline.ingest.sharding import Cut, File, groups, stamp
from gristmill.pipeline.ingest.sources import HUB, find
from gristmill.pipeline.ingest.threads import UNANSWERED
from gristmill.pipeline.ingest.verdicts import UNDESIRABLE
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.records.store import Part, Step, Store, sha256

LOG = logging.getLogger(__name__)
VERSION = 3
LOCAL = Local()
SET_ASIDE = (UNDESIRABLE, UNANSWERED)  # reasons of rows that can be read and are no examples


class Source(pydantic.BaseModel, extra="forbid"):
    """One origin of records: a file, a folder, or a data set."""

    path: str = pydantic.Field(
        description="A file, a folder, a pattern (incoming/*.jsonl), a folder that `datasets` "
        "loads, or hf://org/name@revision."
    )
    name: str | None = pydantic.Field(
        None,
        description="Name of its rows; default: a row's own `source`, or else the file's name.",
    )
    license: str | None = pydantic.Field(None, description="SPDX id; a row's own prevails.")
    revision: str | None = pydantic.Field(None, description="Version or commit of the source.")
    split: str | None = pydantic.Field(
        None, description="Of a data set or a folder with splits; default: train, or the only one."
    )
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
    engine: Engine = LOCAL,
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
        engine: who cuts the shards of a large pool; the driver finds out what the files hold.
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
        cutting = Cutting(work=work, groups=list(groups(cuts, shard_rows, shard_bytes)))
        cutting.cut_ahead(engine, told)
        return cutting.parts

    told = Rising(progress=progress)
    entry = store.run(step, parts, note=lambda work: _note(work, cuts), progress=told)
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
    hashes: dict[Path, str] = {}
    for source in sources:
        fields(source.columns)  # before anything is read
        if source.path.startswith(HUB) and not allow_network:
            raise ValueError(
                f"{source.path} lies on the network: allow_network is off; allow it, or give a "
                "folder that holds the data"
            )
        found = find(
            source.path,
            revision=source.revision,
            split=source.split,
            cache=cache,
            say=lambda sentence: LOG.warning("%s", sentence),
        )
        renamed = {f.source: _unused(f.source, names) for f in found}
        names |= {source.name} if source.name else set(renamed.values())
        for data in found:
            by_line = source.columns.get("text") == "line"
            with readable(data.name):
                format = format_of(data.path, member=data.member, by_line=by_line, most=most)
                before = stamp(data.path)
                if data.path not in hashes:  # an archive is hashed once, whatever it holds
                    hashes[data.path] = sha256(data.path)
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
                    sha256=hashes[data.path],
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
    meant = understood(files)
    files, shapes = [f for f, _ in meant], [s for _, s in meant]
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
        names = some([f.settings["name"] for f in files])
        rows = sum(starts[-1] for starts, _ in measured)
        found = f"none of the {rows} rows can be read" if rows else "there are no rows"
        reasons = sorted({reason for f in files for reason in f.faults()})
        why = f" ({some(reasons)})" if reasons else ""
        raise ValueError(f"{found} in {names}{why}: give JSON objects, one a line, or a table")
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
    """Refuse a dataset of which too much cannot be read; say what its own labels leave out."""
    bad = sum(s["quarantined"] for s in dataset.sources)
    rows = bad + sum(s["rows"] for s in dataset.sources)
    reasons = dataset.quarantine_reasons() if bad else {}
    aside = {r: n for r, n in reasons.items() if r.startswith(SET_ASIDE)}
    if aside:
        LOG.warning(
            "%s of %s rows are set aside by their own labels and are no examples (%s)",
            sum(aside.values()),
            rows,
            ", ".join(f"{r}: {n}" for r, n in list(aside.items())[:3]),
        )
    if aside and bad == rows:
        raise ValueError(
            f"all {rows} rows are set aside, most of them by their own labels "
            f"({next(iter(aside))}): nothing is left to train on"
        )
    bad -= sum(aside.values())
    if bad <= max_bad_share * rows:
        return
    unread = ", ".join([f"{r} ({n})" for r, n in reasons.items() if r not in aside][:3])
    raise ValueError(
        f"{bad} of {rows} rows ({bad / rows:.1%}) cannot be read and at most {max_bad_share:.1%} "
        f"may, the commonest reasons being {unread}; the quarantine tables in {dataset.entry.path} "
        "name each line: mend them, map the columns, or raise max_bad_share"
    )
