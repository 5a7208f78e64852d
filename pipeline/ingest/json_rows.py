"""JSON lines, arrays of objects, and one object with a list of rows, as raw rows.

JSON lines end at a newline byte alone (U+2028 occurs inside real strings). A raw row of an array or
an object is its text and its value.
"""

import io
import itertools
import json
import re
from typing import Any

from gristmill.pipeline.ingest import bounds
from gristmill.pipeline.ingest.bounds import JsonEnd, Passed, readable
from gristmill.pipeline.ingest.json_objects import as_row, rows_in
from gristmill.pipeline.ingest.packing import Content
from gristmill.pipeline.ingest.raw_rows import (
    BOM,
    CHUNK,
    BadRow,
    Items,
    check_depth,
    check_unicode,
    decoded,
    lines,
)
from gristmill.pipeline.records.json_text import Reader, ambiguous

_GAP = re.compile(r"[\s,]*")


def line(raw: bytes) -> dict[str, Any]:
    """The row of a JSON line."""
    text, reader = decoded(raw).strip(), Reader()
    try:
        value = reader.decode(text)
    except ValueError as error:
        raise BadRow("invalid_json") from error
    except RecursionError as error:  # deep, or opened again and again and never closed?
        end = JsonEnd()
        closed = end.feed(text) is None and end.depth == 0 and not end.quoted
        raise BadRow("too_deep" if closed else "invalid_json") from error
    if reader.ambiguous is not None:
        raise BadRow(_twice(reader.ambiguous))
    return row((text, value))


def row(raw: tuple[str, Any]) -> dict[str, Any]:
    """The row of an element."""
    text, value = raw[0], as_row(raw[1])
    if not isinstance(value, dict):
        raise BadRow("not_an_object")
    check_depth(value, text)
    check_unicode(text, "not_utf8")
    if "\\ud" in text or "\\uD" in text:  # perhaps half a character, written as an escape
        check_unicode(json.dumps(value, ensure_ascii=False), "half_a_character")
    return value


def first(raw: tuple[str, Any]) -> str:
    """The text of an element."""
    return raw[0]


def layout(content: Content, most: int) -> str:
    """What a `.json` holds: an "array" of rows, "lines", or one "object" with a list of rows."""
    with readable(content.name), content.open() as file:
        start = file.read(CHUNK).removeprefix(BOM).lstrip()
        if start.startswith(b"["):
            return "array"
        two = [raw for _, raw in itertools.islice(lines(content, most), 2)]
    return "lines" if len(two) == 2 and _may_be_lines(*two) else "object"


def opens_with_an_object(content: Content, most: int) -> bool:
    """Whether the first line of a file is a JSON object: so do JSON lines without a suffix."""
    with readable(content.name):
        return any(_is_object(raw) for _, raw in itertools.islice(lines(content, most), 1))


def _may_be_lines(one: bytes | Passed, two: bytes | Passed) -> bool:
    if isinstance(one, Passed):  # too long to try: a next line that opens an object tells
        return not isinstance(two, Passed) and two.lstrip().startswith(b"{")
    return _is_object(one)


def _is_object(raw: bytes | Passed) -> bool:
    if isinstance(raw, Passed):
        return False
    try:
        return isinstance(json.loads(raw), dict)
    except (ValueError, RecursionError):  # an object spread over several lines
        return False


def array(content: Content, most: int) -> Items:
    """The elements of a JSON array, holding little more than the longest of them."""
    reader = Reader()
    with io.TextIOWrapper(content.open(), "utf-8-sig", errors="surrogateescape") as file:
        text, size, number, ended = file.read(CHUNK), CHUNK, 0, False
        at = text.index("[") + 1
        while True:
            at = _GAP.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing too
            if text[at : at + 1] == "]":
                return
            reason = "too_long" if len(text) - at > most else None
            value, end = None, len(text)
            try:
                value, end = reader.decode_at(text, at)
            except RecursionError:
                reason = "too_deep"
            except ValueError as error:
                if ended:
                    raise _broken(content, number + 1) from error
            if end < len(text):
                number, size = number + 1, CHUNK
                element = text[at:end]
                if bounds.size(element) > most:
                    yield number, Passed("too_long").add(element)
                elif reader.ambiguous is not None:
                    yield number, Passed(_twice(reader.ambiguous)).add(element)
                else:
                    yield number, (element, value)
                at = end
            elif reason is not None:
                number, size = number + 1, CHUNK
                passed, text = _past(file, Passed(reason), text[at:])
                if not text:
                    raise _broken(content, number)
                yield number, passed
                at = 0
            else:  # the element may go on beyond what has been read
                more = file.read(size)
                text, at, size, ended = text[at:] + more, 0, 2 * size, not more


def _past(file: io.TextIOWrapper, passed: Passed, text: str) -> tuple[Passed, str]:
    """Go past an element that is not held; returns what has been read of the text after it."""
    end = JsonEnd()
    while text:
        at = end.feed(text)
        passed.add(text[:at])
        if at is not None:
            return passed, text[at:]
        text = file.read(CHUNK)
    return passed, ""


def _broken(content: Content, number: int) -> ValueError:
    return ValueError(
        f"{content.name} is not valid JSON from element {number} on, and the rows after it cannot "
        "be told apart; repair it, or write JSON lines, where a bad row costs only itself"
    )


def objects(content: Content, most: int) -> Items:
    """The rows of one object: those of its only list of objects, or the object itself."""
    name, reader = content.name, Reader()
    with content.open() as file:
        text = file.read(bounds.WHOLE + 1)
    if len(text) > bounds.WHOLE:
        raise ValueError(
            f"{name} is one JSON object of more than {bounds.WHOLE >> 20} MiB, which must be held "
            "whole: write its rows as JSON lines"
        )
    try:
        value = reader.decode(text.removeprefix(BOM).decode("utf-8")) if text.strip() else {}
    except RecursionError as error:
        raise ValueError(
            f"{name} nests more than {bounds.DEPTH} levels deep: flatten it, or write its rows as "
            "JSON lines"
        ) from error
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} holds neither an object nor an array of objects")
    for number, found in enumerate(rows_in(value), 1):
        yield number, _held(found, most, doubtful=reader.ambiguous is not None)


def _held(found: dict[str, Any], most: int, *, doubtful: bool) -> Passed | tuple[str, Any]:
    """A row of an object as a raw row; `doubtful` if a key stands twice somewhere in the file."""
    if bounds.too_deep(found):
        return Passed("too_deep")
    shown = json.dumps(found, ensure_ascii=False)
    if bounds.size(shown) > most:
        return Passed("too_long").add(shown)
    key = ambiguous(found) if doubtful else None
    return (shown, found) if key is None else Passed(_twice(key)).add(shown)


def _twice(key: str) -> str:
    return f"duplicate_key: {key[:40]}"
