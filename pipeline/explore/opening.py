"""Opening: the ledger that a path names, and what is known of the run that made it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.export import ledgers
from gristmill.pipeline.export.versions import newest, published
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.schema import LEDGER
from gristmill.pipeline.records.store import MANIFEST, open_entry

_NEEDED = ("id", "source", "row", "verdict", "reason")
_OWN = "ledger"  # how tables of the step that selects begin; the folder within a publication


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A ledger in memory: its columns are small, its rows' text is not among them.

    Attributes:
        where: the path as the user gave it.
        name: of the dataset, or of the file.
        version: of the dataset, or "".
        folder: of the published version; None: the ledger is not published.
        paths: the ledger's files.
        ledger: all rows, numbered by `at`.
        manifest: of the publication, or of the step that selected; may be empty.
        stamps: the files as they were when they were read.
    """

    where: Path
    name: str
    version: str
    folder: Path | None
    paths: tuple[Path, ...]
    ledger: pl.DataFrame = field(repr=False, compare=False)
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    stamps: tuple[tuple[int, int] | None, ...] = ()

    @property
    def pool(self) -> str | None:
        """Content hash of the records that were selected from, where it is known."""
        inputs = self.manifest.get("inputs") or {}
        return inputs.get("dataset") or inputs.get("pool")

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()

    def changed(self) -> str | None:
        """A sentence if the path names something newer by now, or the files were changed."""
        if tuple(map(_stamp, self.paths)) != self.stamps:
            return f"{self.title} was changed or removed since it was opened here."
        if self.folder is not None and self.where.resolve() != self.folder.resolve():
            try:
                now = published(self.where)
            except ValueError:
                return f"{self.where} names no published dataset any more."
            if now.resolve() != self.folder.resolve():
                return f"A newer version was published: {now.resolve().name}."
        return None


def opened(where: Path) -> Opened:
    """The ledger of a version, of a dataset's newest version, of a step that selected, or a file.

    Raises:
        ValueError: there is none, or its table is not that of a ledger.
    """
    where = where.expanduser()
    if where.name == _OWN and any(where.glob("*.parquet")):
        where = where.parent  # the ledger's folder within a publication
    if where.is_file():
        return _opened(where, name=where.name, paths=(where,))
    if (where / MANIFEST).is_file() and any(where.glob(f"{_OWN}-*.parquet")):
        entry = open_entry(where).intact()
        told = json_text.loads((where / MANIFEST).read_text("utf-8"))
        return _opened(where, name=f"run {entry.key[:8]}", paths=tuple(entry.shards), manifest=told)
    folder = published(where).resolve()
    told = json_text.loads((folder / "manifest.json").read_text("utf-8"))
    return _opened(
        where,
        name=folder.parent.name,
        version=folder.name,
        folder=folder,
        paths=tuple(ledgers.ledgers(folder)),
        manifest=told,
    )


def versions_beside(opened: Opened) -> list[str]:
    """The other versions of the same dataset, the newest first."""
    if opened.folder is None or newest(opened.folder.parent) is None:
        return []
    found = [p.name for p in opened.folder.parent.glob("v*-*") if p.is_dir() and p != opened.folder]
    return sorted(found, key=lambda name: (len(name), name), reverse=True)


def _opened(where: Path, *, name: str, paths: tuple[Path, ...], **facts: Any) -> Opened:  # noqa: ANN401
    stamps = tuple(map(_stamp, paths))
    table = pl.concat([_table(path) for path in paths], how="diagonal_relaxed")
    lacking = [pl.lit(None, dtype).alias(c) for c, dtype in LEDGER.items() if c not in table]
    ledger = table.with_columns(lacking).with_row_index("at")
    return Opened(where=where, name=name, paths=paths, ledger=ledger, stamps=stamps,
                  **{"version": "", "folder": None, **facts})  # fmt: skip


def _table(path: Path) -> pl.DataFrame:
    try:
        found = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        said = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{path} is no whole Parquet file ({said}): give a published dataset, or a ledger."
        ) from None
    lacking = [c for c in _NEEDED if c not in found.columns]
    if lacking:
        raise ValueError(
            f"{path} is no ledger (it has no column {lacking[0]}): give a published dataset, or "
            "what `gristmill select` wrote."
        )
    if found.is_empty():
        raise ValueError(f"{path} holds no row: there is nothing to look at.")
    flat = [c for c, dtype in found.schema.items() if not dtype.is_nested()]
    floats = [c for c in flat if found.schema[c].is_float()]
    finite = [pl.when(pl.col(c).is_finite()).then(pl.col(c)).alias(c) for c in floats]
    return found.select(flat).with_columns(finite)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
