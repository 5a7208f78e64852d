"""The bytes of a data file: plain, compressed, or a member of a ZIP archive.

What a file holds is told by its name: `x.jsonl.zst` is JSON lines, compressed. A number at the end
counts the pieces of a file (`x.jsonl.1`, `x.jsonl-00000-of-00010`) and says nothing of its content.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from gristmill.pipeline.ingest import bounds

TEXTS = (".txt", ".md", ".markdown", ".rst")
LINES = (".jsonl", ".ndjson", ".jsonlines", ".jl", ".ldjson")
TABLES = (".parquet", ".pq", ".arrow", ".feather")
SUFFIXES = (*LINES, ".json", ".csv", ".tsv", *TABLES, *TEXTS)
ZIP = ".zip"
_PIECE = re.compile(r"(-\d{5}-of-\d{5}|\.\d+)$")
_MEMBERS = 1_000  # data files of an archive
_CHUNK = 1 << 20


def _arrow(codec: str) -> Callable[[BinaryIO], Any]:
    def opened(file: BinaryIO) -> Any:  # noqa: ANN401  (pyarrow ships no types)
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(file, "r"), codec)

    return opened


PACKED: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".lzma": lzma.open,
    ".zst": _arrow("zstd"),
    ".zstd": _arrow("zstd"),
    ".lz4": _arrow("lz4"),
}
# How each begins; `.lzma` has no mark of its own.
_MAGIC: dict[str, tuple[bytes, ...]] = {
    ".gz": (b"\x1f\x8b",),
    ".bz2": (b"BZh",),
    ".xz": (b"\xfd7zX",),
    ".lzma": (b"",),
    ".zst": (b"\x28\xb5\x2f\xfd",),
    ".zstd": (b"\x28\xb5\x2f\xfd",),
    ".lz4": (b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18"),
}
_SKIPPED = b"\x2a\x4d\x18"  # after a first byte: a frame that zstd and lz4 pass over


def suffixes(name: str) -> tuple[str, str]:
    """What a file's name says of it: the format's suffix and that of its packing, in lower case.

    >>> suffixes("a/B.JSONL.GZ"), suffixes("a.jsonl.1"), suffixes("part-00000")
    (('.jsonl', '.gz'), ('.jsonl', ''), ('', ''))
    """
    path = PurePosixPath(name.lower())
    packed = path.suffix if path.suffix in PACKED else ""
    path = path.with_suffix("") if packed else path
    unnumbered = PurePosixPath(_PIECE.sub("", path.name))
    return (unnumbered if unnumbered.suffix in SUFFIXES else path).suffix, packed


def stem(name: str) -> str:
    """A file's name without its suffixes; its folders, and the number of a piece, stay."""
    path = PurePosixPath(name)
    path = path.with_suffix("") if path.suffix.lower() in PACKED else path
    piece = _PIECE.search(path.name)
    if piece and PurePosixPath(path.name[: piece.start()]).suffix.lower() in SUFFIXES:
        return str(path.with_name(path.name[: piece.start()]).with_suffix("")) + piece[0]
    return str(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path)


@dataclass(frozen=True, kw_only=True)
class Content:
    """A file, or one member of an archive."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The name for people."""
        return self.path.name if self.member is None else f"{self.path.name}/{self.member}"

    def open(self) -> BinaryIO:
        """Open it for reading bytes, unpacked if its suffix says that it is packed."""
        files = self._opened()
        if len(files) == 1 and self.member is None:
            return files[0]
        stream = bounds.Unpacked(files, self.name, self.path.stat().st_size)
        return io.BufferedReader(stream, _CHUNK)

    def starts(self) -> bool:
        """Whether anything at all can be read of it; a file that is cut short does start."""
        with contextlib.suppress(ValueError), bounds.readable(self.name):
            files = self._opened()
            try:
                files[0].read(1)
            finally:
                for file in files:
                    file.close()
            return True
        return False

    def _opened(self) -> list[BinaryIO]:
        """What is read, and below it what that reads."""
        _, packed = suffixes(self.member or self.path.name)
        if self.member is None:
            file: BinaryIO = self.path.open("rb")
        else:
            with zipfile.ZipFile(self.path) as archive:
                file = cast(BinaryIO, archive.open(self.member))
        if not packed or not _is_packed(file, packed):
            return [file]
        return [cast(BinaryIO, PACKED[packed](file)), file]


def _is_packed(file: BinaryIO, packed: str) -> bool:
    """Whether a file begins as its suffix promises: some servers unpack what they send."""
    begin = cast(io.BufferedReader, file).peek(4)[:4]
    return not begin or begin.startswith(_MAGIC[packed]) or begin[1:] == _SKIPPED


def members(path: Path) -> list[str]:
    """The files of a ZIP archive, in order, if it can be read to its end within bounds."""
    name = path.name
    with bounds.readable(name), zipfile.ZipFile(path) as archive:
        held = [info for info in archive.infolist() if not info.is_dir()]
    if sum(info.file_size for info in held) > bounds.unpacked(path.stat().st_size):
        raise ValueError(bounds.too_packed(name))
    names = sorted(info.filename for info in held)
    if len(names) > _MEMBERS or len(set(names)) < len(names):
        what = "two files of one name" if len(names) <= _MEMBERS else f"{len(names)} files"
        raise ValueError(f"{name} holds {what}: unpack it yourself, and give the folder")
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    if any(info.flag_bits & 1 or info.compress_type not in known for info in held):
        raise ValueError(
            f"{name} is encrypted, or packed in a way that is not read here: unpack it yourself, "
            "and give the folder"
        )
    return names
