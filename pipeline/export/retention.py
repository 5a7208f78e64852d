"""Retention: what a store holds, which of it nothing published needs, and how that is removed.

Whatever a run finds in the store is marked as used (`store.STAMPS`). Kept are, whatever their age:

- the records that published versions were made from, which say what a row says that is not in
  them (scores and verdicts are in their ledgers), and the models that were trained on them;
- the cache of completions, which were paid for, and all files that are not entries of the store.

The rest can be made again by the runs that made it, and may go once nothing has used it for a time.
Only folders that carry the store's own sealed manifest, and nothing beside its files, are ever
removed, and what killed runs and damage left behind.
"""

import contextlib
import fcntl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gristmill.pipeline.export.versions import homes_in, versions
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.store import (
    MANIFEST,
    STAMPS,
    Store,
    content_of,
    last_used,
    read_manifest,
    remove,
    sha256,
    walk,
)

DAY = 86_400.0
Kind = Literal["entry", "unfinished", "damaged", "other"]


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Something that a store holds.

    Attributes:
        path: its folder.
        step: what made it.
        kind: an entry, what a run that was killed left, a damaged entry that was set aside, or
            whatever else lies there: paid answers, remembered hashes, the runs in Prefect's UI.
        bytes: on disk.
        used: when a run last made, found or wrote it, in seconds since the epoch.
        needed: what needs it, in words; None: nothing that is published.
    """

    path: Path
    step: str
    kind: Kind
    bytes: int
    used: float
    needed: str | None = None


def holdings(store: Store, published: Sequence[Path] = ()) -> list[Holding]:
    """All that a store holds, by path.

    Args:
        store: whose folder is looked through.
        published: folders of datasets or of versions: what they were made from is needed.

    Raises:
        ValueError: there is no such store, or no published dataset in one of the folders.
    """
    if not store.root.is_dir():
        raise ValueError(f"there is no store {store.root}: name its folder (--store).")
    entries = dict(_entries(store.root))
    needed = _needed(entries, [v for folder in published for v in _versions(folder)])
    found = [
        Holding(
            path=path,
            step=told["step"],
            kind="entry",
            bytes=_size(path),
            used=last_used(path),
            needed=needed.get(path) or _foreign(path, told),
        )
        for path, told in entries.items()
    ]
    found += [
        Holding(path=path, step=step, kind=kind, bytes=_size(path), used=_touched(path))
        for path, step, kind in _leftovers(store.root)
    ]
    return sorted(found, key=lambda h: h.path)


def beside(store: Store, found: Sequence[Holding]) -> list[Holding]:
    """What else lies in a store, by the first part of its path; it is never removed."""
    held = {h.path for h in found}
    sizes: dict[str, int] = {}
    for path in walk(store.root):
        if held.isdisjoint(path.parents) and path not in held:
            first = path.relative_to(store.root).parts[0]
            sizes[first] = sizes.get(first, 0) + (0 if path.is_symlink() else path.stat().st_size)
    return [
        Holding(
            path=store.root / name,
            step=name,
            kind="other",
            bytes=size,
            used=(store.root / name).stat().st_mtime,
            needed="whoever put it there",
        )
        for name, size in sorted(sizes.items())
        if size  # the locks of entries are empty
    ]


def idle(found: Sequence[Holding], days: float, now: float | None = None) -> list[Holding]:
    """Those that nothing needs and nothing has used for so many days, until now.

    Raises:
        ValueError: less than one day, within which a run may be using them.
    """
    if not days >= 1:
        raise ValueError(
            f"what was used {days:g} days ago may be in use by a run that goes on: give 1 or more."
        )
    since = (time.time() if now is None else now) - days * DAY
    return [h for h in found if h.needed is None and h.used <= since]


def collect(found: Sequence[Holding]) -> list[Holding]:
    """Remove what `idle` chose; what a run is making, or has found since, stays. Returns what went.

    Killed in between, each is whole or gone: a folder is renamed before it is removed.
    """
    gone = []
    for one in found:
        with _unlocked(one) as free:
            if not free or not one.path.exists() or _now_used(one) > one.used:
                continue
            going = one.path.with_name(f".gone-{one.path.name.lstrip('.')}")
            remove(going)
            one.path.rename(going)
            remove(going)
            gone.append(one)
    return gone


def by_step(found: Sequence[Holding]) -> list[dict[str, Any]]:
    """Number and bytes of all that a store holds, by step, the largest first."""
    steps: dict[str, list[Holding]] = {}
    for one in found:
        name = one.step if one.kind in ("entry", "other") else f"{one.step} ({one.kind})"
        steps.setdefault(name, []).append(one)
    lines = [
        {
            "step": name,
            "entries": len(some),
            "bytes": sum(h.bytes for h in some),
            "needed": sum(h.bytes for h in some if h.needed),
        }
        for name, some in steps.items()
    ]
    return sorted(lines, key=lambda line: (-int(line["bytes"]), str(line["step"])))


def _entries(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every folder that carries a manifest of the store, with what it says."""
    for path in sorted(root.rglob(MANIFEST)):
        inside = path.parent.relative_to(root).parts
        if any(part.startswith(".") for part in inside) or "damaged" in inside[:1]:
            continue
        told = read_manifest(path.parent)
        if not isinstance(told, str):
            yield path.parent, told


def _leftovers(root: Path) -> Iterator[tuple[Path, str, Kind]]:
    """Unfinished and half-removed work, and damaged entries."""
    for pattern in (".work-*", ".done-*", ".fetch-*", ".gone-*"):
        for path in root.rglob(pattern):
            if path.is_dir():
                yield path, path.parent.relative_to(root).as_posix(), "unfinished"
    for path in root.glob("damaged/*"):
        yield path, path.name.partition("-")[0], "damaged"


def _versions(folder: Path) -> list[Path]:
    """The published versions in a folder: of one dataset, of several, or itself."""
    if (folder / MANIFEST).is_file():
        return [folder.resolve()]
    homes = homes_in(folder)
    if not homes:
        raise ValueError(
            f"there is no published dataset in {folder}: name the folder that holds them (--keep), "
            "so that nothing they were made from is removed."
        )
    return sorted(v for home in homes for v in versions(home))


def _needed(entries: dict[Path, dict[str, Any]], published: Sequence[Path]) -> dict[Path, str]:
    """What needs an entry: a version by name, for all that its manifests lead back to."""
    by_name: dict[str, list[Path]] = {}
    for path, told in entries.items():
        for name in (content_of(told["files"]), told["key"]):
            by_name.setdefault(name, []).append(path)
        if told["step"] == "finetuned":  # leads from a version to the model, not back
            by_name.setdefault(told["inputs"]["dataset"], []).append(path)
    needed: dict[Path, str] = {}
    for version in published:
        raw = (version / MANIFEST).read_text("utf-8")
        told = json_text.loads(raw)
        waiting = [*told.get("inputs", {}).values(), sha256(version / MANIFEST)]
        while waiting:
            for path in by_name.get(waiting.pop(), ()):
                if path not in needed:
                    needed[path] = f"{version.parent.name} {version.name}"
                    waiting += entries[path]["inputs"].values()
    return needed


def lineage(store: Store, version: Path) -> list[Path]:
    """The entries of a store that a published version needs, by path."""
    return sorted(_needed(dict(_entries(store.root)), [version]))


def _foreign(path: Path, told: dict[str, Any]) -> str | None:
    """The first file in an entry's folder that the store did not write, as what needs it."""
    ours = {MANIFEST, STAMPS, *(f["path"] for f in told["files"])}
    other = sorted({p.relative_to(path).as_posix() for p in walk(path)} - ours)
    return f"{other[0]}, which is not ours" if other else None


def _now_used(one: Holding) -> float:
    return last_used(one.path) if one.kind == "entry" else _touched(one.path)


def _touched(path: Path) -> float:
    """When anything below a path was last written."""
    return max(p.lstat().st_mtime for p in (path, *walk(path)))


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in walk(path) if not p.is_symlink())


@contextlib.contextmanager
def _unlocked(one: Holding) -> Iterator[bool]:
    """Hold the lock of an entry that is made, or was; False: a run holds it."""
    if one.kind == "damaged":
        yield True
        return
    key = one.path.name.rpartition("-")[2]
    with one.path.with_name(f".lock-{key}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
