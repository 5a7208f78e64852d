"""Unpack: an archive of a stranger's back to a published version, refused where it is not one.

Nothing of an archive is believed: its members must be the listed files, one after the other, to the
byte. So it can hold no link, no device, no path out of its folder, and no more than its own size.
What was unpacked is verified as any published folder is before it gets its name.
"""

import hashlib
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from gristmill.pipeline.export import versions
from gristmill.pipeline.export.archive import FORMAT, INDEX, NAME, STORE, VERSION
from gristmill.pipeline.export.verify import SUMS, verify
from gristmill.pipeline.records.disk import no_space, sync
from gristmill.pipeline.records.sealed import unseal
from gristmill.pipeline.records.store import (
    MANIFEST,
    STAMPS,
    Store,
    damage,
    locked,
    read_manifest,
    remove,
    sha256,
    walk,
)

_INDEX_BYTES = 64 << 20
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """What came of an archive.

    Attributes:
        version: the published folder.
        there: it was there already, with the same bytes.
        entries: how many entries of the store the archive holds ...
        taken: ... and how many of them were put into a store.
    """

    version: Path
    there: bool
    entries: int
    taken: int


def unpack(archive: Path, root: Path, store: Store | None = None) -> Unpacked:
    """Put an archived version beside the other versions of its dataset, verified.

    Its `latest` becomes the dataset's only if that has none. Whoever made an archive decides what
    its entries say, and a run that finds them believes them: so they are left out by default.

    Args:
        archive: the file.
        root: folder of datasets.
        store: where the entries of its lineage go; None: nowhere.

    Raises:
        ValueError: the archive is damaged, holds what it should not, or another version of this
            name is there.
    """
    root.mkdir(parents=True, exist_ok=True)
    work = root / ".unpack"
    with _opened(archive) as tar, locked(root / ".unpack-lock"):
        index = _index(tar, archive)
        remove(work)  # of one that was killed
        work.mkdir()
        try:
            _extract(tar, archive, index["files"], work)
            _accept(work / VERSION, index, archive)
            entries = _entries(work / STORE, archive)
            target, there = _put(work / VERSION, root / index["dataset"], index, archive)
            taken = sum(_take(e, work / STORE, store) for e in entries) if store else 0
        finally:
            remove(work)
    return Unpacked(version=target, there=there, entries=len(entries), taken=taken)


def _put(folder: Path, home: Path, index: Mapping[str, Any], archive: Path) -> tuple[Path, bool]:
    """Give a version its name in the folder of its dataset; whether it was there already."""
    versions.claim(home)
    target = home / index["version"]
    with locked(home / ".lock"):
        if target.exists():
            same = (target / SUMS).is_file() and sha256(target / SUMS) == sha256(folder / SUMS)
            if not same or verify(target):
                raise ValueError(
                    f"{target} is there already and is not the version of {archive.name}: unpack "
                    "into another folder (--into)."
                )
            return target, True
        folder.rename(target)
        sync(home)
        if index["latest"] and not (home / "latest").exists():
            versions.point(home, target)
    return target, False


def _opened(path: Path) -> tarfile.TarFile:
    if not path.is_file():
        raise ValueError(f"there is no archive {path}: `gristmill pack` writes one.")
    try:
        return tarfile.open(path, "r:")  # never packed: nothing in it unfolds
    except tarfile.TarError as error:
        raise ValueError(f"{path.name} is no archive of a version: {error}.") from None


def _refused(archive: Path, why: str) -> ValueError:
    return ValueError(
        f"{archive.name} is damaged or was not made by `gristmill pack` ({why}): nothing was "
        "unpacked; ask for it again."
    )


def _index(tar: tarfile.TarFile, archive: Path) -> dict[str, Any]:
    """The sealed list of what the archive holds, of the form that `pack` writes."""
    member = _next(tar, archive)
    if member is None or member.name != INDEX or member.size > _INDEX_BYTES:
        raise _refused(archive, f"it does not begin with {INDEX}")
    data = _data(tar, member, archive)
    index = unseal(b"".join(_blocks(data, member.size, archive)))
    if index is None:
        raise _refused(archive, f"{INDEX} does not match its checksum")
    if index.get("format") != FORMAT:
        raise ValueError(
            f"{archive.name} has the format {index.get('format')!r}, and this Gristmill reads "
            f"{FORMAT}: install the one that packed it."
        )
    if not _well_formed(index):
        raise _refused(archive, f"{INDEX} is not of the form that it should have")
    if sum(f["bytes"] for f in index["files"]) > archive.stat().st_size:
        raise _refused(archive, f"{INDEX} lists more bytes than the archive has")
    return index


def _well_formed(index: Mapping[str, Any]) -> bool:
    """Whether all that is used of an index is of its kind, and each path stays in its folder."""
    files = index.get("files")
    if not isinstance(files, list) or not isinstance(index.get("latest"), bool):
        return False
    if not all(
        isinstance(f, dict)
        and isinstance(f.get("path"), str)
        and type(f.get("bytes")) is int
        and f["bytes"] >= 0
        and isinstance(f.get("sha256"), str)
        for f in files
    ):
        return False
    paths = [f["path"] for f in files]
    if len({p.casefold() for p in paths}) < len(paths) or not all(map(_inside, paths)):
        return False
    name, version = index.get("dataset"), index.get("version")
    return (
        isinstance(name, str)
        and NAME.fullmatch(name) is not None
        and isinstance(version, str)
        and versions.is_name(version)
    )


def _inside(path: str) -> bool:
    """Whether a path names a file below the folders of an archive, on any system."""
    parts = PurePosixPath(path).parts
    return (
        len(parts) >= 2
        and parts[0] in (VERSION, STORE)
        and "/".join(parts) == path
        and path.isprintable()
        and not any(set('\\:*?"<>|') & set(part) for part in parts)
        and not any(part.startswith(".") for part in parts)
    )


def _next(tar: tarfile.TarFile, archive: Path) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (tarfile.TarError, ValueError, OSError, RecursionError) as error:
        raise _refused(archive, " ".join(str(error).split()) or "it is cut short") from None


def _data(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> IO[bytes]:
    """The bytes of a member that is a plain file."""
    if not member.isreg() or member.issparse():
        raise _refused(archive, f"{member.name} is not a plain file")
    found = tar.extractfile(member)
    assert found is not None, "it is a plain file"
    return found


def _extract(
    tar: tarfile.TarFile, archive: Path, files: Sequence[Mapping[str, Any]], work: Path
) -> None:
    """Write the members that the index lists, in its order, and none else."""
    if sum(f["bytes"] for f in files) > shutil.disk_usage(work).free:
        raise no_space(work)
    for file in files:
        member = _next(tar, archive)
        if member is None or (member.name, member.size) != (file["path"], file["bytes"]):
            raise _refused(archive, f"{file['path']} is missing or out of place")
        target = work / file["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        found = hashlib.sha256()
        with target.open("xb") as written:
            for block in _blocks(_data(tar, member, archive), member.size, archive):
                found.update(block)
                written.write(block)
        if found.hexdigest() != file["sha256"]:
            raise _refused(archive, f"{file['path']} does not match its sha256")
        sync(target)
    if _next(tar, archive) is not None:
        raise _refused(archive, f"it holds more than {INDEX} lists")


def _blocks(data: IO[bytes], size: int, archive: Path) -> Iterator[bytes]:
    while size:
        try:
            block = data.read(min(size, _BLOCK))
        except (tarfile.TarError, OSError) as error:
            raise _refused(archive, " ".join(str(error).split())) from None
        if not block:
            raise _refused(archive, "it is cut short")
        size -= len(block)
        yield block


def _accept(folder: Path, index: Mapping[str, Any], archive: Path) -> None:
    """Refuse a version that is not whole, or is not the one that the archive names."""
    problems = verify(folder)
    if not problems and versions.named(folder) != (index["dataset"], index["version"]):
        problems = [f"its {MANIFEST} is of another version"]
    if problems:
        raise _refused(archive, problems[0])


def _entries(store: Path, archive: Path) -> list[Path]:
    """The entries below a folder, each whole, and nothing beside them."""
    left = set(walk(store)) if store.is_dir() else set()
    found = []
    for path in sorted(store.rglob(MANIFEST)):
        if path not in left:
            continue  # a file of that name in an entry
        entry = path.parent
        told = read_manifest(entry)
        own = (
            set() if isinstance(told, str) else {path, *(entry / f["path"] for f in told["files"])}
        )
        problem = damage(entry, verify=True)
        if problem is None and own != set(walk(entry)) - {entry / STAMPS}:
            problem = "it holds other files than it lists"
        if problem is not None:
            raise _refused(archive, f"{entry.relative_to(store).as_posix()}: {problem}")
        left -= own
        found.append(entry)
    if left:
        raise _refused(archive, f"{min(left).relative_to(store).as_posix()} is of no entry")
    return found


def _take(entry: Path, packed: Path, store: Store) -> bool:
    """Move an entry into a store that has none of its key; whether it did."""
    target = store.root / entry.relative_to(packed)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f".lock-{target.name}"):
        if target.exists():
            return False
        shutil.move(entry, target)  # the store may be on another disk
        sync(target.parent)
    return True
