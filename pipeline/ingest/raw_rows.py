"""Raw rows: what every format is cut into before a row is parsed, and how a bad one is named."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from gristmill.pipeline.ingest import bounds
from gristmill.pipeline.ingest.bounds import Passed
from gristmill.pipeline.ingest.packing import Content

BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 20
Items = Iterator[tuple[int, Any]]  # 1-based line or element, raw row


class BadRow(ValueError):
    """A row that goes to quarantine; the text is the reason: a token and perhaps a detail."""


def lines(content: Content, most: int) -> Items:
    """The lines of a file that hold anything; they end at a newline byte alone."""
    with content.open() as file:
        number = 0
        while line := file.readline(most + 1):
            number += 1
            if len(line) > most and not (len(line) == most + 1 and line.endswith(b"\n")):
                yield number, _rest(file, Passed("too_long").add(line), line)
                continue
            if number == 1:
                line = line.removeprefix(BOM)
            if line and not line.isspace():
                yield number, line


def _rest(file: BinaryIO, passed: Passed, line: bytes) -> Passed:
    """Go on to the end of a line."""
    while line and not line.endswith(b"\n"):
        line = file.readline(CHUNK)
        passed.add(line)
    return passed


def whole(content: Content, most: int) -> Items:
    """A file as one row."""
    with content.open() as file:
        text = file.read(most + 1)
        if len(text) > most:
            passed = Passed("too_long").add(text)
            while text := file.read(CHUNK):
                passed.add(text)
            yield 1, passed
            return
    text = text.removeprefix(BOM)
    if text and not text.isspace():
        yield 1, text


def shown(raw: bytes) -> str:
    """Bytes for people."""
    return raw.decode("utf-8", "replace")


def decoded(raw: bytes) -> str:
    """Bytes as text, or `BadRow`."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow("not_utf8") from error


def check_unicode(text: str, reason: str) -> None:
    """Refuse a text that cannot be written as UTF-8."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRow(reason) from error


def check_depth(value: object, text: str | None = None) -> None:
    """Refuse a value whose lists and objects nest too deep.

    Args:
        value: a value of JSON.
        text: the JSON that it was read from.
    """
    if bounds.too_deep(value, text):
        raise BadRow("too_deep")
