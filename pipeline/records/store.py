"""The store: the only code that writes tables. Never twice, never half, never stale.

An **entry** is an immutable folder `<root>/<step>/[<shelf>/]<key>/` of files and one
`manifest.json`, made by a **step** from **parts** (usually one shard each). The key is a hash of
the step's name, its code version, its settings and the *content* hashes of its inputs; paths and
times never enter.

Work happens in a sibling folder `.work-<key>`: each part is written to a temporary name, synced,
renamed, and only then marked complete (in `.done-<key>`) with its sha256; the manifest comes last
and the folder is renamed into place. A process killed at any instant loses at most the part in
flight, and the rerun ends with the same bytes. An entry that a run finds is marked as used, so that
what nobody uses can be told (`export/retention.py`).

Nothing that lies on the disk is believed unseen. Marks, manifests and remembered hashes are sealed
(`sealed.py`); a part that a rerun finds is hashed against its mark; a finished entry is compared by
name, size and times with every `find`, and hashed where one of them moved, or with `verify`. A
damaged part is made again; a damaged entry is moved to `<root>/damaged/` and made again.

A store may have a **remote** (`mirror.py`): what is not in its folder is fetched from there, and
what is made is put there, part by part.
"""

import contextlib
import fcntl
import functools
import hashlib
import io
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import polars as pl

from gristmill.pipeline.records.disk import full_disk, no_space, sync
from gristmill.pipeline.records.schema import canonical_json, digest
from gristmill.pipeline.records.sealed import read_sealed, seal, unseal

SCHEMA_VERSION = "3.0.0"  # of the manifest; keys hold its first number
MANIFEST = "manifest.json"
STAMPS = ".stamps.json"
_PATIENCE = 10.0  # seconds that a process waits for another without a word

_LOG = logging.getLogger(__name__)
File = Mapping[str, Any]  # path, sha256, bytes


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a piece of work depends on; its `key` names the result.

    Attributes:
        name: folder of the store, e.g. "observe".
        version: raise it whenever the code changes the bytes it writes.
        settings: JSON-able; every setting that can change the result, and no other.
        inputs: name -> content hash (an entry's `content`, a model's fingerprint, ...).
        shelf: folder of entries that are looked through together (see `Store.shelf`); shelves whose
            names begin alike, up to a dash, are of one rack (see `Store.rack`). It is no part of
            the key, so it must follow from what is.
    """

    name: str
    version: int
    shelf: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property  # each part asks for it, and a step may have 10,000 inputs
    def key(self) -> str:
        return digest(
            {
                "step": self.name,
                "version": self.version,
                "schema": SCHEMA_VERSION.split(".")[0],
                "settings": dict(self.settings),
                "inputs": dict(self.inputs),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Part:
    """One unit of progress: `write(path)` makes one file, or one folder, at `path`."""

    name: str
    write: Callable[[Path], None]


def passes(work: Path) -> "Store":
    """A store inside the working folder of an entry, for what it alone is made from.

    What a run that was killed has made there is found again; it is gone when the entry is there.
    """
    inside = Store(root=work / ".passes")
    inside.root.mkdir(exist_ok=True)
    return inside


def table(name: str, make: Callable[[], pl.DataFrame]) -> Part:
    """A part that holds one Parquet table."""
    return Part(name=f"{name}.parquet", write=lambda path: write_table(make(), path))


def write_table(frame: pl.DataFrame, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write Parquet with fixed options, so that equal frames give equal bytes."""
    told = dict(metadata) if metadata else None
    frame.write_parquet(
        path, compression="zstd", compression_level=3, statistics=True, metadata=told
    )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A finished step: `path` is its folder, `content` the hash of all its files."""

    path: Path
    key: str
    content: str
    files: tuple[File, ...]
    note: Mapping[str, Any]  # small facts the step recorded about its result

    @property
    def shards(self) -> list[Path]:
        """The Parquet files of the entry, in name order."""
        return [self.path / f["path"] for f in self.files if f["path"].endswith(".parquet")]

    def frame(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All shards as one frame, hashed while they are read: for small tables."""
        assert self.shards, f"{self.path} holds no table"
        chosen = list(columns) if columns else None
        return pl.concat(
            [
                pl.read_parquet(io.BytesIO(self.read(f["path"])), columns=chosen)
                for f in self.files
                if f["path"].endswith(".parquet")
            ]
        )

    def scan(self) -> pl.LazyFrame:
        """All shards, hashed, as one frame of which only what is asked for is read."""
        assert self.shards, f"{self.path} holds no table"
        self.intact()
        return pl.scan_parquet(self.shards)

    def read(self, name: str) -> bytes:
        """A file of the entry, if it still is what the manifest says: for small files."""
        (file,) = (f for f in self.files if f["path"] == name)
        path = self.path / name
        raw = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(raw).hexdigest() != file["sha256"]:
            raise ValueError(self._refused(name))
        return raw

    def intact(self) -> "Entry":
        """The entry itself, once all its files were hashed: before something is built on them."""
        if (name := differing(self.path, self.files)) is not None:
            raise ValueError(self._refused(name))
        return self

    def _refused(self, name: str) -> str:
        return (
            f"{self.path / name} is missing or does not match its sha256 in {MANIFEST}: remove "
            f"the folder {self.path} and run the same command again, which makes it again."
        )


class NotMadeError(Exception):
    """A store that only finds was asked for what is not there; its text names the step."""


class InFlight(Protocol):
    """An entry that is being made, as a remote keeps it."""

    def resume(self, work: Path, marks: Path) -> None:
        """Bring here the parts that were finished elsewhere: files to `work`, marks to `marks`."""

    def keep(self, work: Path, mark: Path) -> None:
        """Put a finished part."""

    def publish(self, work: Path, manifest: Mapping[str, Any], text: str) -> bool:
        """Put the whole entry; False: another one stands, and has been brought here."""


class Remote(Protocol):
    """Another place that keeps the entries of a store; `mirror.Mirror` is one."""

    def fetch(self, folder: Path) -> bool:
        """Bring a finished entry here; False: it is not there, or not whole."""

    def finished(self, start: str, slashes: int) -> list[Path]:
        """Folders of all finished entries below `start`, by the slashes of what follows it."""

    def making(self, folder: Path) -> contextlib.AbstractContextManager[InFlight]:
        """Keep all others, on all machines, from making an entry meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """A folder of entries. Safe for several processes at once.

    Attributes:
        root: the folder.
        verify: every hit is rehashed.
        makes: False: what is not there is not made, but raises `NotMadeError`: for a plan, which
            asks what a run would find.
        writer: whose journal is written, a file each: workers on several machines do not append to
            one; "": the run's own.
        remote: where its entries are kept, of which the folder has what was used; None: the folder
            is all there is.
    """

    root: Path
    verify: bool = False
    makes: bool = True
    writer: str = ""
    remote: Remote | None = None
    _JOURNAL: ClassVar[str] = "journal"

    def find(self, step: Step) -> Entry | None:
        """The finished entry, or None. A damaged one is set aside and counts as missing."""
        return self._entry(self._folder(step))

    def shelf(self, step: Step) -> list[Entry]:
        """All finished entries on the shelf of `step`, in order of their keys."""
        own = self._folder(step).parent
        return self._entries(own.glob("[!.]*"), f"{self._place(own)}/", 0)

    def rack(self, step: Step) -> list[Entry]:
        """All finished entries on all shelves of the rack of `step`, shelf by shelf."""
        own = self._folder(step).parent
        name, dash, _ = own.name.partition("-")
        assert dash, f"{step.name} has no rack"
        start = own.parent / f"{name}-"
        return self._entries(own.parent.glob(f"{name}-*/[!.]*"), self._place(start), 1)

    def path(self, reference: str) -> Path:
        """Where a part of an entry lies, by its path in the store, as another entry names it."""
        path = self.root / reference
        if self.remote is not None and not path.exists():
            above = [p for p in path.parents if self.root in p.parents]
            any(self.remote.fetch(p) for p in above if not p.exists())
        return path

    def _entries(self, here: Iterator[Path], start: str, slashes: int) -> list[Entry]:
        folders = {p for p in here if p.is_dir()}
        if self.remote is not None:
            folders |= set(self.remote.finished(start, slashes))
        found = (self._entry(folder) for folder in sorted(folders))
        return [entry for entry in found if entry is not None]

    def _entry(self, folder: Path) -> Entry | None:
        """The finished entry in a folder; the remote's, where there is none or a damaged one."""
        entry = self._whole(folder)
        if entry is None and self.remote is not None and self.remote.fetch(folder):
            entry = self._whole(folder)
        return entry

    def _whole(self, folder: Path) -> Entry | None:
        if not folder.is_dir():
            if os.path.lexists(folder):
                self._set_aside(folder, "it is no folder")
            return None
        problem = damage(folder, verify=self.verify)
        if problem is None:
            return _found(folder)
        self._set_aside(folder, problem)
        return None

    def run(
        self,
        step: Step,
        parts: Sequence[Part] | Callable[[Path], Sequence[Part]],
        *,
        note: Callable[[Path], Mapping[str, Any]] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Entry:
        """Return the entry of `step`, making the parts that are not there yet.

        Args:
            step: what is being made.
            parts: the parts, or a function of the work folder that lists them.
            note: called with the work folder once all parts stand; its JSON-able result is kept in
                the manifest. It must depend on the parts alone.
            progress: called with (parts done, parts in all).
        """
        found = self.find(step)
        if found is not None:
            return found
        if not self.makes:
            raise NotMadeError(step.name)
        folder = self._folder(step)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f".lock-{step.key}"), self._making(folder) as in_flight:
            found = self.find(step)  # another process may have finished it meanwhile
            if found is not None:
                return found
            work = folder.parent / f".work-{step.key}"
            marks = folder.parent / f".done-{step.key}"
            for ours in (work, marks):
                if not ours.is_dir():
                    remove(ours)
                ours.mkdir(exist_ok=True)
            if in_flight is not None:
                in_flight.resume(work, marks)
            todo = parts(work) if callable(parts) else parts
            files: list[File] = []
            for done, part in enumerate(todo):
                if progress is not None:
                    progress(done, len(todo))
                files += self._part(step, work, marks, part)
                if in_flight is not None and len(todo) > 1:  # else all of it is put in a moment
                    in_flight.keep(work, _mark(marks, part))
            if progress is not None:
                progress(len(todo), len(todo))
            names = [f["path"] for f in files]
            assert len(set(names)) == len(names), f"two parts of {step.name} share a name"
            manifest: dict[str, Any] = {
                "schema_version": SCHEMA_VERSION,
                "step": step.name,
                "shelf": step.shelf,
                "version": step.version,
                "key": step.key,
                "settings": dict(step.settings),
                "inputs": dict(step.inputs),
                "files": sorted(files, key=lambda f: f["path"]),
                "note": dict(note(work)) if note else {},
            }
            for torn in work.glob(".*"):  # temporaries of a run that was killed
                remove(torn)
            text = seal(manifest)
            assert _step_of(json.loads(text)).key == step.key, f"{step.name}: settings are no JSON"
            _keep(work / MANIFEST, text)
            stamp(work, files)
            if in_flight is None or in_flight.publish(work, manifest, text):
                into_place(work, folder)
            else:
                remove(work)
            remove(marks)  # only now: until the rename they are what a rerun resumes from
        return open_entry(folder)

    def put(self, step: Step, frame: pl.DataFrame) -> Entry:
        """Publish one table as the whole result of `step`."""
        return self.run(step, [table("part-00000", lambda: frame)])

    def file_hash(self, path: Path) -> str:
        """sha256 of a file outside the store, remembered by (path, size, modification time)."""
        stat = path.stat()
        name = digest([str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
        memo = self.root / "hashes" / name[:2] / name
        known = None if self.verify else read_sealed(memo)
        if known is not None and known["file"] == name:
            return str(known["sha256"])
        value = sha256(path)
        memo.parent.mkdir(parents=True, exist_ok=True)
        _keep(memo, seal({"file": name, "sha256": value}))
        return value

    def computed(self) -> list[dict[str, Any]]:
        """The journals: one line per part ever computed here (step, key, part), writer by writer.

        They are a log, from which nothing is decided; lines that cannot be read are left out.
        """
        lines = []
        paths = sorted(self.root.glob(f"{self._JOURNAL}*.jsonl"))
        for path in filter(Path.is_file, paths):
            for line in path.read_bytes().split(b"\n"):
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(line))
        return [line for line in lines if isinstance(line, dict)]

    def _folder(self, step: Step) -> Path:
        return self.root / step.name / step.shelf / step.key

    def _place(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _making(self, folder: Path) -> contextlib.AbstractContextManager[InFlight | None]:
        return contextlib.nullcontext() if self.remote is None else self.remote.making(folder)

    def _part(self, step: Step, work: Path, marks: Path, part: Part) -> list[File]:
        mark = _mark(marks, part)
        target = work / part.name
        facts = {"key": step.key, "part": part.name}
        done = read_sealed(mark)
        if done is not None and facts == {k: done[k] for k in facts} and target.exists():
            files: list[File] = done["files"]
            if {f["path"] for f in files} == _names(work, target):
                if (name := differing(work, files)) is None:
                    return files
                _LOG.warning("%s of %s was damaged and is made again.", name, step.name)
        remove(mark)
        temporary = work / f".tmp-{part.name.replace('/', '+')}"
        remove(temporary)
        remove(target)
        try:
            part.write(temporary)
            self._log({**facts, "step": step.name})
            assert temporary.exists(), f"part {part.name} of {step.name} wrote nothing"
            for path in walk(temporary):
                sync(path)
            files = [
                {**f, "path": f"{part.name}/{f['path']}" if f["path"] else part.name}
                for f in listing(temporary)
            ]
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(target)
            sync(target.parent)
            _keep(mark, seal({**facts, "files": files}))
        except Exception as error:
            full = full_disk(error, work)
            with contextlib.suppress(OSError):
                remove(temporary)
            if full:
                raise no_space(target) from error
            raise
        return files

    def _log(self, line: Mapping[str, Any]) -> None:
        name = f"{self._JOURNAL}-{self.writer}" if self.writer else self._JOURNAL
        path = self.root / f"{name}.jsonl"
        if os.path.lexists(path) and not path.is_file():
            self._set_aside(path, "it is no file")
        with path.open("a+b") as file:
            torn = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write(b"\n" * bool(torn) + canonical_json(dict(line)).encode() + b"\n")

    def _set_aside(self, path: Path, problem: str) -> None:
        where, place = self.root / "damaged", path.relative_to(self.root).parts
        where.mkdir(parents=True, exist_ok=True)
        for attempt in range(1_000):
            target = where / f"{'-'.join(place)}-{attempt}"
            if not os.path.lexists(target):
                with contextlib.suppress(FileNotFoundError):  # another process was first
                    shutil.move(path, target)  # the step's folder may be on another disk
                _LOG.warning("%s was damaged (%s): it is kept as %s.", path, problem, target)
                self._log({"damaged": path.name, "step": place[0], "why": problem})
                return
        raise ValueError(f"{where} holds 1,000 copies of {path.name}: check this disk")


def _mark(marks: Path, part: Part) -> Path:
    return marks / f"{part.name.replace('/', '+')}.json"


def last_used(folder: Path) -> float:
    """When a run last made or found an entry, in seconds since the epoch."""
    stamps = folder / STAMPS
    return (stamps if stamps.exists() else folder / MANIFEST).stat().st_mtime


def _found(folder: Path) -> Entry:
    """Open an entry and mark it as used, where the disk may be written."""
    with contextlib.suppress(OSError):
        os.utime(folder / STAMPS)
    return open_entry(folder)


def open_entry(folder: Path) -> Entry:
    """Open a finished entry by its folder."""
    manifest = read_manifest(folder)
    if isinstance(manifest, str):
        raise ValueError(
            f"{folder} cannot be read ({manifest}): run the step that made it again, which sets it "
            "aside and makes a new one."
        )
    files = tuple(manifest["files"])
    return Entry(
        path=folder,
        key=manifest["key"],
        content=content_of(files),
        files=files,
        note=manifest["note"],
    )


def content_of(files: Sequence[File]) -> str:
    """The content hash of an entry, from the files that its manifest lists."""
    return digest([[f["path"], f["sha256"]] for f in files])


def damage(folder: Path, *, verify: bool = False) -> str | None:
    """Say what is wrong with an entry, or None.

    Always compares the manifest with its checksum and key, and names, sizes and times of the files;
    a file whose times moved is rehashed, so an edited file is found even at equal size. `verify`
    rehashes all.
    """
    manifest = read_manifest(folder)
    if isinstance(manifest, str):
        return manifest
    files = manifest["files"]
    try:
        stamps = json.loads((folder / STAMPS).read_bytes())
    except (OSError, ValueError):
        stamps = None
    rehashed = False
    for file in files:
        path = folder / file["path"]
        if not path.is_file():
            return f"{file['path']} is missing"
        size = path.stat().st_size
        if size != file["bytes"]:
            return f"{file['path']} has {size} bytes, not {file['bytes']}"
        moved = not isinstance(stamps, dict) or stamps.get(file["path"]) != _times(path)
        if (verify or moved) and sha256(path) != file["sha256"]:
            return f"{file['path']} does not match its sha256"
        rehashed |= moved
    if rehashed:  # a store that was copied: its files are right, only their times are new
        with contextlib.suppress(OSError):  # a disk that is full or read-only: rehash next time
            stamp(folder, files)
    return None


def read_manifest(folder: Path) -> dict[str, Any] | str:
    """The manifest of an entry, or what is wrong with it."""
    return _manifest(read_sealed(folder / MANIFEST), folder)


def manifest_in(raw: bytes, folder: Path) -> dict[str, Any] | str:
    """The manifest that a text holds, if it is that of the entry in `folder`; or what is wrong."""
    return _manifest(unseal(raw), folder)


def _manifest(manifest: dict[str, Any] | None, folder: Path) -> dict[str, Any] | str:
    if manifest is None:
        return f"{MANIFEST} is missing or does not match its checksum"
    step = _step_of(manifest)
    place = Path(step.name, step.shelf, step.key)
    if manifest["key"] != step.key or folder.parts[-len(place.parts) :] != place.parts:
        return f"{MANIFEST} is of {place.as_posix()}"
    return manifest


def _step_of(manifest: Mapping[str, Any]) -> Step:
    return Step(
        name=manifest["step"],
        shelf=manifest["shelf"],
        version=manifest["version"],
        settings=manifest["settings"],
        inputs=manifest["inputs"],
    )


def listing(path: Path) -> list[File]:
    """Path below `path` ("" for itself), sha256 and size of every file, in the order of paths."""
    return [
        {
            "path": "" if p == path else p.relative_to(path).as_posix(),
            "sha256": sha256(p),
            "bytes": p.stat().st_size,
        }
        for p in sorted(walk(path))
    ]


def differing(folder: Path, files: Sequence[File]) -> str | None:
    """The first file below `folder` that is missing or is not what is listed; reads them all."""
    for file in files:
        path = folder / file["path"]
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            return str(file["path"])
        if sha256(path) != file["sha256"]:
            return str(file["path"])
    return None


def sha256(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk(path: Path) -> Iterator[Path]:
    """The file itself, or every file below a folder."""
    if path.is_file():
        yield path
    else:
        yield from (p for p in path.rglob("*") if p.is_file())


def write_text(path: Path, text: str) -> None:
    """Write a small file whole: temporary name, sync, rename."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8")
        sync(temporary)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def into_place(whole: Path, folder: Path) -> None:
    """Rename a whole entry to its folder, unless another process has fetched it there meanwhile."""
    try:
        whole.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        remove(whole)
    sync(folder.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _keep(path: Path, text: str) -> None:
    """`write_text` for the store's own files, whatever lies in their place."""
    if path.is_dir() and not path.is_symlink():
        remove(path)
    write_text(path, text)


def stamp(folder: Path, files: Sequence[File]) -> None:
    """Remember when the files of an entry were written, so that a change shows."""
    stamps = {f["path"]: _times(folder / f["path"]) for f in files}
    _keep(folder / STAMPS, canonical_json(stamps))


def _times(path: Path) -> list[int]:
    """When a file was last written; the second one no tool sets back."""
    stat = path.stat()
    return [stat.st_mtime_ns, stat.st_ctime_ns]


def _names(work: Path, target: Path) -> set[str]:
    return {p.relative_to(work).as_posix() for p in walk(target)}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock; the kernel frees it when the process dies, however it dies.

    Whoever waits long for it is told: the other process may have been stopped, not ended.
    """
    with path.open("w") as file:
        told = threading.Timer(
            _PATIENCE,
            _LOG.warning,
            (
                "another process holds %s: this one waits for it, and goes on when it is done; if "
                "that one was stopped, let it go on or end it.",
                path,
            ),
        )
        told.daemon = True
        told.start()
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # of a disk without locks, which names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            told.cancel()
        yield
