"""Mirror: the entries of a store in object storage, of which its folder here holds what was used.

    entries/<step>/[<shelf>/]<key>.json              the manifest of a finished entry
    files/<step>/[<shelf>/]<key>/<sha256>/<path>     what it lists
    parts/<step>/[<shelf>/]<key>/<part>.json         marks of finished parts of what is being made
    leases/<step>/[<shelf>/]<key>.json               who makes it (`lease`)

A file's name holds its sha256, so that nobody can put other bytes under it: whoever was too slow,
or made other bytes, spoils nothing. The manifest is put last, and only where there is none; whoever
comes second takes what stands. Marks are put as parts are finished, each after its files: another
machine goes on from there, and loses the parts in flight.

What is read from there is hashed before it is believed. A file that is not what its name says is
removed, and what lists it counts as missing, as does a manifest that is damaged; the run that needs
the entry makes it again, and puts what lacks.

Not there are journals (a log of this machine's work), remembered hashes, answers of endpoints,
reviews and approvals: they stay in the folder.
"""

import contextlib
import functools
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from gristmill.pipeline.records import s3
from gristmill.pipeline.records.disk import sync
from gristmill.pipeline.records.lease import SECONDS, leased
from gristmill.pipeline.records.objects import Objects
from gristmill.pipeline.records.place import Address
from gristmill.pipeline.records.sealed import read_sealed, unseal
from gristmill.pipeline.records.store import (
    MANIFEST,
    STAMPS,
    File,
    content_of,
    into_place,
    locked,
    manifest_in,
    remove,
    sha256,
    stamp,
    walk,
    write_text,
)

HOLDER = ".holder"  # in the folder: its name among all folders that share the prefix
LANES = 8  # files at once

_CONDITION = "conditional-puts"  # an object for nothing but to ask whether there are such

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """What a store asks object storage (`store.Remote`).

    Attributes:
        root: folder of the store.
        objects: where its entries are.
        seconds: time of a lease.
    """

    root: Path
    objects: Objects
    seconds: float = SECONDS

    def fetch(self, folder: Path) -> bool:
        """Bring a finished entry here; False: it is not there, or not whole."""
        found = self.objects.get(f"entries/{self._place(folder)}.json")
        if found is None:
            return False
        manifest = manifest_in(found.raw, folder)
        if isinstance(manifest, str):
            _LOG.warning("%s of %s: what is there counts as missing.", manifest, self._at(folder))
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        name = f".fetch-{os.getpid()}.{secrets.token_hex(4)}-{folder.name}"
        incoming = folder.with_name(name)
        try:
            incoming.mkdir()
            if not self._download(folder, manifest["files"], incoming):
                return False
            for path in walk(incoming):
                sync(path)
            write_text(incoming / MANIFEST, found.raw.decode())
            stamp(incoming, manifest["files"])
            into_place(incoming, folder)
        finally:
            remove(incoming)
        return True

    def finished(self, start: str, slashes: int) -> list[Path]:
        """Folders of all finished entries below `start`, by the slashes of what follows it."""
        names = self.objects.sizes(f"entries/{start}")
        return [
            self.root / f"{start}{name.removesuffix('.json')}"
            for name in names
            if name.count("/") == slashes
        ]

    @contextlib.contextmanager
    def making(self, folder: Path) -> Iterator["Making"]:
        """Keep all others from making an entry, meanwhile, once nobody else makes it."""
        if not self._conditional:
            raise ValueError(
                "the server of the store puts objects whatever condition it is told (If-None-Match,"
                " If-Match), so that runs could not be kept apart: name another, or a folder."
            )
        lease = f"leases/{self._place(folder)}.json"
        with leased(self.objects, lease, self._holder, self.seconds):
            yield Making(mirror=self, folder=folder)

    def _place(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def _at(self, folder: Path) -> str:
        return f"{self._place(folder)} in object storage"

    @functools.cached_property
    def _conditional(self) -> bool:
        """Whether the server refuses a put whose condition does not hold."""
        create, replace = self.objects.create, self.objects.replace
        if create(_CONDITION, b"") is not None and create(_CONDITION, b"") is not None:
            return False
        return replace(_CONDITION, b"", '"0"') is None

    @functools.cached_property
    def _holder(self) -> str:
        """The name of the folder on this machine: the lock of an entry keeps apart who uses it."""
        path = self.root / HOLDER
        with locked(self.root / f".lock-{HOLDER}"):
            if not path.exists():
                write_text(path, secrets.token_hex(16))
        return f"{path.read_text('utf-8')}@{socket.gethostname()}"

    def _download(self, folder: Path, files: Sequence[File], into: Path) -> bool:
        """Write all files of an entry below a folder; False: one is missing or damaged."""

        def one(file: File) -> bool:
            path = into / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            blob = f"files/{self._place(folder)}/{_blob(file)}"
            if not self.objects.download(blob, path):
                _LOG.warning("%s of %s is missing.", file["path"], self._at(folder))
                return False
            if path.stat().st_size != file["bytes"] or sha256(path) != file["sha256"]:
                _LOG.warning("%s of %s was damaged: removed.", file["path"], self._at(folder))
                self.objects.remove(blob)
                return False
            return True

        return all(_inside(f["path"]) for f in files) and all(_at_once(one, files))


def mirror_of(address: Address, root: Path) -> Mirror:
    """What keeps the entries of the store at an address, of which `root` is the folder here.

    Raises:
        ValueError: it takes a package that is not installed.
    """
    s3.demand(address)
    return Mirror(root=root, objects=s3.S3(address=address))


@dataclass(kw_only=True)
class Making:
    """An entry that is being made here, and nowhere else (`store.InFlight`)."""

    mirror: Mirror
    folder: Path
    _blobs: dict[str, int] = field(default_factory=dict)
    _marks: set[str] = field(default_factory=set)

    def resume(self, work: Path, marks: Path) -> None:
        """Bring here the parts that others have finished: files to `work`, marks to `marks`."""
        self._marks = set(self.mirror.objects.sizes(self._parts))
        for name in sorted(self._marks):
            if read_sealed(marks / name) is None and not self._part(name, work, marks):
                self.mirror.objects.remove(self._parts + name)
                self._marks.remove(name)
        self._blobs = dict(self.mirror.objects.sizes(self._files))  # without what was damaged

    def keep(self, work: Path, mark: Path) -> None:
        """Put a finished part, and then its mark, unless they are there."""
        told = read_sealed(mark)
        assert told is not None, "a part that is finished has a mark"
        self._put(work, told["files"])
        if mark.name not in self._marks:
            self.mirror.objects.upload(self._parts + mark.name, mark)
            self._marks.add(mark.name)

    def publish(self, work: Path, manifest: Mapping[str, Any], text: str) -> bool:
        """Put what lacks of an entry, then its manifest; the marks go.

        Returns:
            Whether it stands. Else other content was put before, and has been brought here.
        """
        self._put(work, manifest["files"])
        stands = self._stands(work, manifest["files"], text.encode())
        _at_once(lambda name: self.mirror.objects.remove(self._parts + name), sorted(self._marks))
        return stands

    def _stands(self, work: Path, files: Sequence[File], raw: bytes) -> bool:
        objects, name = self.mirror.objects, f"entries/{self.mirror._place(self.folder)}.json"
        while objects.create(name, raw) is None:
            found = objects.get(name)
            if found is None:
                continue
            told = manifest_in(found.raw, self.folder)
            if not isinstance(told, str):
                if content_of(told["files"]) == content_of(files):
                    return True
                if self.mirror.fetch(self.folder):
                    _LOG.warning(
                        "%s was put meanwhile with other bytes, which stand.",
                        self.mirror._at(self.folder),
                    )
                    return False
                self._blobs = dict(objects.sizes(self._files))  # what was damaged is gone
                self._put(work, files)
            if objects.replace(name, raw, found.tag) is not None:  # nobody can read what was there
                return True
        return True

    def _part(self, name: str, work: Path, marks: Path) -> bool:
        """Bring a part and then its mark; False: it is not whole."""
        found = self.mirror.objects.get(self._parts + name)
        told = None if found is None else unseal(found.raw)
        if found is None or told is None or told["key"] != self.folder.name:
            return False
        if not _inside(told["part"]):
            return False
        remove(work / told["part"])
        if not self.mirror._download(self.folder, told["files"], work):
            remove(work / told["part"])
            return False
        for file in told["files"]:
            sync(work / file["path"])
        write_text(marks / name, found.raw.decode())
        return True

    def _put(self, work: Path, files: Sequence[File]) -> None:
        lacking = [f for f in files if self._blobs.get(_blob(f)) != f["bytes"]]

        def one(file: File) -> None:
            self.mirror.objects.upload(self._files + _blob(file), work / file["path"])

        _at_once(one, lacking)
        self._blobs |= {_blob(f): f["bytes"] for f in lacking}

    @property
    def _files(self) -> str:
        return f"files/{self.mirror._place(self.folder)}/"

    @property
    def _parts(self) -> str:
        return f"parts/{self.mirror._place(self.folder)}/"


def _blob(file: File) -> str:
    return f"{file['sha256']}/{file['path']}"


def _inside(path: str) -> bool:
    """Whether a path of a manifest stays below its folder, and is none of the store's own."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not {"/", ".."} & {*parts} and path not in (MANIFEST, STAMPS)


def _at_once(work: Callable[[T], R], some: Sequence[T]) -> list[R]:
    """Do several transfers at once; what came of each."""
    if len(some) < 2:
        return [work(one) for one in some]
    with ThreadPoolExecutor(LANES) as pool:
        return list(pool.map(work, some))
