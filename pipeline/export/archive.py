"""Archive: a published version as one file, with the entries of the store that it was made from.

    archive.json                      sealed; the files below in their order, with size and sha256
    version/<file>                    the published folder
    store/<step>/[<shelf>/]<key>/...  its lineage: records, and the models trained on it

The file is an uncompressed tar without times, owners and links, so equal versions give equal bytes.
`unpack.py` reads it.
"""

import io
import re
import tarfile
from pathlib import Path

from gristmill.pipeline.export import versions
from gristmill.pipeline.export.retention import lineage
from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.records.disk import sync
from gristmill.pipeline.records.sealed import seal
from gristmill.pipeline.records.store import (
    STAMPS,
    File,
    Store,
    damage,
    listing,
    remove,
)

INDEX = "archive.json"
FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
VERSION, STORE = "version", "store"


def pack(version: Path, out: Path, store: Store | None = None) -> int:
    """Write a published version to one file; returns how many entries of the store are in it.

    Args:
        version: the published folder.
        out: the file; it must not be there.
        store: whose entries are packed as lineage; None: the version alone.

    Raises:
        ValueError: the version or an entry is not as it was written, or `out` is there.
    """
    version = version.resolve()
    if problems := verify(version):
        raise ValueError(f"{version} is not whole and was not packed: {problems[0]}.")
    if out.exists():
        raise ValueError(f"{out} is there already: give another name, or remove it.")
    where = {VERSION: version}
    if store is not None:
        for entry in lineage(store, version):
            if (problem := damage(entry, verify=True)) is not None:
                raise ValueError(
                    f"{entry} is damaged ({problem}): remove it, and run the step that made it."
                )
            where[f"{STORE}/{entry.relative_to(store.root).as_posix()}"] = entry
    files = [
        {**file, "path": f"{place}/{file['path']}", "from": folder / file["path"]}
        for place, folder in where.items()
        for file in _plain(folder)
    ]
    name, number = versions.named(version)
    index = {
        "format": FORMAT,
        "dataset": name,
        "version": number,
        "latest": (version.parent / "latest").resolve() == version,
        "files": [{k: v for k, v in file.items() if k != "from"} for file in files],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".tmp-{out.name}")
    try:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
            raw = seal(index).encode()
            archive.addfile(_member(INDEX, len(raw)), io.BytesIO(raw))
            for file in files:
                with file["from"].open("rb") as data:
                    archive.addfile(_member(file["path"], file["bytes"]), data)
        sync(temporary)
        temporary.rename(out)
    finally:
        remove(temporary)
    sync(out.parent)
    return len(where) - 1


def _plain(folder: Path) -> list[File]:
    """The files of a folder that are packed; the times that a store notes are of its own disk."""
    links = sorted(p for p in folder.rglob("*") if p.is_symlink())
    if links:
        raise ValueError(f"{links[0]} is a link: put the file that it names in its place.")
    return [file for file in listing(folder) if file["path"] != STAMPS]


def _member(name: str, size: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.mode = size, 0o644
    return made
