"""Bounds on what one row and one file may cost, and how a row beyond them is passed over.

A row that is too long or too deep is never held: its beginning and its hash are kept, the reader
goes on at the end of it, and the row goes to quarantine like any other that cannot be read.
"""

import contextlib
import gzip
import hashlib
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

ROW = 16 << 20  # bytes of a row, unless a caller says otherwise: a library of text, in a record
DEPTH = 200  # levels of lists and objects in a row
WHOLE = 512 << 20  # bytes of a file that can only be parsed whole: one JSON object
UNPACKED = 4 << 30  # bytes that any packed file may unpack to ...
RATIO = 250  # ... and what a larger one may be over its packed size; text reaches about 10
_HEAD = 1_000  # bytes of a row that is passed over, for the quarantine's excerpt


@dataclass
class Passed:
    """A raw row that was passed over: why, how it begins, and the hash of all of it.

    Attributes:
        reason: the reason in the quarantine.
        head: its first bytes.
        sum: its hash, as of any bad row.
    """

    reason: str
    head: bytes = b""
    sum: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def add(self, piece: bytes | str) -> "Passed":
        """Take in the next piece of the row."""
        data = piece.encode("utf-8", "surrogateescape") if isinstance(piece, str) else piece
        self.head += data[: max(0, _HEAD - len(self.head))]
        self.sum.update(data)
        return self


def size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def too_deep(value: object, text: str | None = None) -> bool:
    """Whether lists and objects nest beyond `DEPTH`.

    Args:
        value: a value of JSON.
        text: the JSON that it was read from, which mostly tells at once that it does not.
    """
    if text is not None and text.count("[") + text.count("{") <= DEPTH:
        return False
    level: list[Any] = [value]
    for _ in range(DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list, tuple))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return any(isinstance(node, (dict, list, tuple)) for node in level)


def unpacked(packed: int) -> int:
    """The bytes that a packed file of a size may unpack to."""
    return max(UNPACKED, RATIO * packed)


def too_packed(name: str) -> str:
    """What is said of a file that holds far more than its size promises."""
    return (
        f"{name} unpacks to more than {UNPACKED >> 30} GiB and {RATIO} times its size: unpack it "
        "yourself if its content is what you expect"
    )


class Unpacked(io.RawIOBase):
    """A packed file as bytes, which stops where a small file turns out to hold far too much.

    Args:
        files: what is read, and what lies below it: all are closed with it.
        name: of the file, for people.
        packed: bytes of the packed file.
    """

    def __init__(self, files: Sequence[BinaryIO], name: str, packed: int) -> None:
        super().__init__()
        self.files = files
        self.name = name
        self.left = unpacked(packed)

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  (any writable buffer)
        """Fill the buffer."""
        data = self.files[0].read(len(buffer))
        buffer[: len(data)] = data
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(too_packed(self.name))
        return len(data)

    def close(self) -> None:
        """Close the packed file too."""
        for file in self.files:
            file.close()
        super().close()


class JsonEnd:
    """Where a JSON value ends, found in pieces of text without parsing any of it."""

    _OUTSIDE = re.compile(r'"|,|\[+|\{+|\]|\}')  # at depth 0 a comma or a closing bracket ends it
    _WITHIN = re.compile(r'"|[\[{]+|[\]}]+')
    _QUOTED = re.compile(r'["\\]')

    def __init__(self) -> None:
        self.depth = 0
        self.quoted = self.escaped = False

    def feed(self, text: str, at: int = 0) -> int | None:
        """Place of the comma or bracket after the value, or None if it goes on."""
        while at < len(text):
            if self.escaped:
                self.escaped, at = False, at + 1
                continue
            signs = self._QUOTED if self.quoted else self._WITHIN if self.depth else self._OUTSIDE
            found = signs.search(text, at)
            if found is None:
                return None
            at, sign = found.end(), found[0]
            if self.quoted:
                self.escaped, self.quoted = sign == "\\", sign != '"'
            elif sign == '"':
                self.quoted = True
            elif sign[0] in "[{":
                self.depth += len(sign)
            elif len(sign) <= self.depth:
                self.depth -= len(sign)
            else:
                return found.start() + self.depth
        return None


class CsvEnd:
    """Where a row of CSV ends, found in pieces of text as `csv.reader` would find it."""

    def __init__(self, delimiter: str) -> None:
        self._special = re.compile(rf"[{re.escape(delimiter)}\r\n]")
        self.delimiter = delimiter
        self.state = "start"  # of a field; then "plain", "quoted" or "quote" (seen in "quoted")

    def feed(self, line: str) -> bool:
        """Whether the row ends in this line, or part of one."""
        at = 0
        while at < len(line):
            if self.state == "quoted":
                at = line.find('"', at) + 1
                if at == 0:
                    return False
                self.state = "quote"
            elif line[at] == '"' and self.state in ("start", "quote"):
                self.state, at = "quoted", at + 1
            else:
                found = self._special.search(line, at)
                if found is None:
                    self.state = "plain"
                    return False
                if found[0] != self.delimiter:
                    return True
                self.state, at = "start", found.end()
        return False


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Say in one sentence why a file cannot be read.

    Raises:
        ValueError: in place of what the system or a decoder said.
    """
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise ValueError(f"{name} is cut short or damaged: {_in_short(error)}") from error
    except OSError as error:
        # bz2 says `Invalid data stream` by an OSError without a number
        if error.errno is None:
            raise ValueError(f"{name} is cut short or damaged: {_in_short(error)}") from error
        raise ValueError(
            f"{name} cannot be read ({error.strerror}): change its permissions, or leave it out"
        ) from error


def _in_short(error: Exception) -> str:
    """What a decoder says, on one line and without a full stop."""
    return " ".join(str(error).split())[:200].rstrip(".")
