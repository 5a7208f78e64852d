"""The store: the only code that writes tables. Never twice, never half, never stale.

An **entry** is an immutable folder `<root>/<step>/<key>/` of files and one `manifest.json`, made by
a **step** from **parts** (usually one shard each). The key is a hash of the step's name, its code
version, its settings and the *content* hashes of its inputs; paths and times never enter.

Work happens in a sibling folder `.work-<key>`: each part is written to a temporary name, synced,
renamed, and only then marked complete (in `.done-<key>`) with its sha256; the manifest comes last
and the folder is renamed into place. A process killed at any instant loses at most the part in
flight, and the rerun ends with the same bytes. A damaged entry is moved to `<root>/damaged/` and
made again.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from gristmill.pipeline.schema import canonical_json, digest

SCHEMA_VERSION = "1.0.0"
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a piece of work depends on; its `key` names the result.

    Attributes:
        name: folder of the store, e.g. "observe".
        version: raise it whenever the code changes the bytes it writes.
        settings: JSON-able; every setting that can change the result, and no other.
        inputs: name -> content hash (an entry's `content`, a model's fingerprint, ...).
    """

    name: str
    version: int
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


def table(name: str, make: Callable[[], pl.DataFrame]) -> Part:
    """A part that holds one Parquet table."""
    return Part(name=f"{name}.parquet", write=lambda path: write_table(make(), path))


def write_table(frame: pl.DataFrame, path: Path) -> None:
    """Write Parquet with fixed options, so that equal frames give equal bytes."""
    frame.write_parquet(path, compression="zstd", compression_level=3, statistics=True)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A finished step: `path` is its folder, `content` the hash of all its files."""

    path: Path
    key: str
    content: str
    files: tuple[Mapping[str, Any], ...]  # path, sha256, bytes
    note: Mapping[str, Any]  # small facts the step recorded about its result

    @property
    def shards(self) -> list[Path]:
        """The Parquet files of the entry, in name order."""
        return [self.path / f["path"] for f in self.files if f["path"].endswith(".parquet")]

    def frame(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All shards as one frame: for small tables."""
        assert self.shards, f"{self.path} holds no table"
        return pl.concat(
            [pl.read_parquet(p, columns=list(columns) if columns else None) for p in self.shards]
        )


@dataclass(frozen=True, kw_only=True)
class Store:
    """A folder of entries. Safe for several processes at once; `verify` rehashes every hit."""

    root: Path
    verify: bool = False
    _JOURNAL: ClassVar[str] = "journal.jsonl"

    def find(self, step: Step) -> Entry | None:
        """The finished entry, or None. A damaged one is set aside and counts as missing."""
        folder = self._folder(step)
        if not folder.is_dir():
            return None
        problem = damage(folder, verify=self.verify)
        if problem is None:
            return open_entry(folder)
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
        folder = self._folder(step)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f".lock-{step.key}"):
            found = self.find(step)  # another process may have finished it meanwhile
            if found is not None:
                return found
            work = folder.parent / f".work-{step.key}"
            marks = folder.parent / f".done-{step.key}"
            work.mkdir(exist_ok=True)
            marks.mkdir(exist_ok=True)
            todo = parts(work) if callable(parts) else parts
            files: list[dict[str, Any]] = []
            for done, part in enumerate(todo):
                if progress is not None:
                    progress(done, len(todo))
                files += self._part(step, work, marks, part)
            if progress is not None:
                progress(len(todo), len(todo))
            names = [f["path"] for f in files]
            assert len(set(names)) == len(names), f"two parts of {step.name} share a name"
            manifest = {
                "schema_version": SCHEMA_VERSION,
                "step": step.name,
                "version": step.version,
                "key": step.key,
                "settings": dict(step.settings),
                "inputs": dict(step.inputs),
                "files": sorted(files, key=lambda f: f["path"]),
                "note": dict(note(work)) if note else {},
            }
            for torn in work.glob(".*"):  # temporaries of a run that was killed
                remove(torn)
            write_text(work / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
            _stamp(work, files)
            work.rename(folder)
            _sync(folder.parent)
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
        if memo.exists() and not self.verify:
            return memo.read_text("utf-8")
        value = sha256(path)
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_text(memo, value)
        return value

    def computed(self) -> list[dict[str, Any]]:
        """The journal: one line per part ever computed here (step, key, part)."""
        path = self.root / self._JOURNAL
        if not path.exists():
            return []
        lines = path.read_text("utf-8").split("\n")
        return [json.loads(line) for line in lines if line.endswith("}")]

    def _folder(self, step: Step) -> Path:
        return self.root / step.name / step.key

    def _part(self, step: Step, work: Path, marks: Path, part: Part) -> list[dict[str, Any]]:
        mark = marks / f"{part.name.replace('/', '+')}.json"
        target = work / part.name
        if mark.exists():
            done: list[dict[str, Any]] = json.loads(mark.read_text("utf-8"))
            if all(_size(work / f["path"]) == f["bytes"] for f in done):
                return done
            mark.unlink()
        temporary = work / f".tmp-{part.name.replace('/', '+')}"
        remove(temporary)
        remove(target)
        part.write(temporary)
        self._log({"step": step.name, "key": step.key, "part": part.name})
        assert temporary.exists(), f"part {part.name} of {step.name} wrote nothing"
        files = []
        for path in sorted(walk(temporary)):
            _sync(path)
            inner = path.relative_to(temporary).as_posix()
            name = part.name if path == temporary else f"{part.name}/{inner}"
            files.append({"path": name, "sha256": sha256(path), "bytes": path.stat().st_size})
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(target)
        _sync(target.parent)
        write_text(mark, canonical_json(files))
        return files

    def _log(self, line: Mapping[str, Any]) -> None:
        with (self.root / self._JOURNAL).open("ab") as file:
            file.write(canonical_json(dict(line)).encode() + b"\n")

    def _set_aside(self, folder: Path, problem: str) -> None:
        where = self.root / "damaged"
        where.mkdir(parents=True, exist_ok=True)
        for attempt in range(1_000):
            target = where / f"{folder.parent.name}-{folder.name}-{attempt}"
            if not target.exists():
                with contextlib.suppress(FileNotFoundError):  # another process was first
                    folder.rename(target)
                self._log({"damaged": folder.name, "step": folder.parent.name, "why": problem})
                return
        raise ValueError(f"{where} holds 1,000 copies of {folder.name}: check this disk")


def open_entry(folder: Path) -> Entry:
    """Open a finished entry by its folder."""
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    files = tuple(manifest["files"])
    content = digest([[f["path"], f["sha256"]] for f in files])
    return Entry(
        path=folder, key=manifest["key"], content=content, files=files, note=manifest["note"]
    )


def damage(folder: Path, *, verify: bool = False) -> str | None:
    """Say what is wrong with an entry, or None.

    Always compares names, sizes and modification stamps; a file whose stamp moved is rehashed, so
    an edited file is found even at equal size. `verify` rehashes all.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        files = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return "manifest.json is missing or unreadable"
    try:
        stamps = json.loads((folder / ".stamps.json").read_text("utf-8"))
    except (OSError, ValueError):
        stamps = {}
    rehashed = False
    for file in files:
        path = folder / file["path"]
        size = _size(path)
        if size is None:
            return f"{file['path']} is missing"
        if size != file["bytes"]:
            return f"{file['path']} has {size} bytes, not {file['bytes']}"
        moved = stamps.get(file["path"]) != path.stat().st_mtime_ns
        if (verify or moved) and sha256(path) != file["sha256"]:
            return f"{file['path']} does not match its sha256"
        rehashed |= moved
    if rehashed:  # a store that was copied: its files are right, only their times are new
        _stamp(folder, files)
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
    temporary.write_text(text, "utf-8")
    _sync(temporary)
    temporary.rename(path)
    _sync(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _stamp(folder: Path, files: Sequence[Mapping[str, Any]]) -> None:
    stamps = {f["path"]: (folder / f["path"]).stat().st_mtime_ns for f in files}
    write_text(folder / ".stamps.json", canonical_json(stamps))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock; the kernel frees it when the process dies, however it dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
