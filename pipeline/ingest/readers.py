"""File formats as streams of raw rows, in which one bad row never hides the next.

A `Format` reads in two halves. `items` cuts a file into raw rows, each with its line, and fails
only if the file itself is damaged; `parse` turns one raw row into a dict or raises `BadRow`. The
cut knows nothing of the content: JSON lines end at a newline byte alone (U+2028 occurs inside real
strings), CSV rows at line ends outside quotes.
"""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from gristmill.pipeline.ingest import bounds
from gristmill.pipeline.ingest.bounds import CsvEnd, JsonEnd, Passed, readable

PACKED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
TEXTS = (".txt", ".md", ".markdown", ".rst")
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather", *TEXTS)
_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20
_GAP = re.compile(r"[\s,]*")
# NaN and Infinity are no JSON: a null in their place keeps `meta` readable everywhere.
_JSON = json.JSONDecoder(parse_constant=lambda _: None)

Items = Iterator[tuple[int, Any]]  # 1-based line or element, raw row


class BadRow(ValueError):
    """A row that goes to quarantine; the text is the reason: a token and perhaps a detail."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """How to cut a file into raw rows, how to parse or show one, and how large they are."""

    name: str
    items: Callable[[Path], Items]
    parse: Callable[[Any], dict[str, Any]]
    text: Callable[[Any], str]
    sizes: Callable[[Path], Iterator[int]]  # about how many bytes each row has


def format_of(path: Path, *, by_line: bool = False, most: int = bounds.ROW) -> Format | None:
    """The format that the file's suffix names (`x.jsonl.gz` is `.jsonl`), or None.

    Args:
        path: the file; a `.json` is looked into, for many of them hold JSON lines.
        by_line: read plain text as one row (`line`) a line, not one (`text`) a file.
        most: bytes of the longest row that is read; a longer one is a `BadRow`: `too_long`.
    """
    names = [s.lower() for s in path.suffixes]
    packed = bool(names) and names[-1] in PACKED
    match "".join(names[-2:-1] if packed else names[-1:]):
        case ".jsonl" | ".ndjson":
            return _format("JSON lines", partial(_lines, most=most), _json_line, _show)
        case ".json":
            return _json(path, most)
        case ".csv" | ".tsv" as suffix:
            delimiter = "," if suffix == ".csv" else "\t"
            cut = partial(_csv, delimiter=delimiter, most=most)
            return _format(suffix[1:].upper(), cut, _csv_row, lambda raw: ",".join(raw[1]))
        case ".parquet" | ".arrow" | ".feather" if not packed:
            from gristmill.pipeline.ingest import arrow as tables

            return Format(
                name=tables.name(path),
                items=partial(tables.items, most=most),
                parse=partial(_unless_passed, tables.plain_row),
                text=partial(_head_or, tables.text),
                sizes=partial(tables.sizes, most=most),
            )
        case suffix if suffix in TEXTS:
            if by_line:
                cut = partial(_lines, most=most)
                return _format("text lines", cut, partial(_text, column="line"), _show)
            return _format("text", partial(_whole, most=most), partial(_text, column="text"), _show)
    return None


def opened(path: Path) -> BinaryIO:
    """Open a file for reading bytes, unpacked if its suffix says that it is packed."""
    unpack = PACKED.get(path.suffix.lower())
    if unpack is None:
        return path.open("rb")
    return io.BufferedReader(bounds.Unpacked(cast(BinaryIO, unpack(path)), path), _CHUNK)


def check_depth(value: object, text: str | None = None) -> None:
    """Refuse a value whose lists and objects nest too deep.

    Args:
        value: a value of JSON.
        text: the JSON that it was read from.
    """
    if bounds.too_deep(value, text):
        raise BadRow("too_deep")


def _format(
    name: str,
    items: Callable[[Path], Items],
    parse: Callable[[Any], dict[str, Any]],
    text: Callable[[Any], str],
) -> Format:
    def sound(path: Path) -> Items:
        with readable(path.name):
            yield from items(path)

    def sizes(path: Path) -> Iterator[int]:
        return (_size(raw) for _, raw in sound(path))

    return Format(
        name=name,
        items=sound,
        parse=partial(_unless_passed, parse),
        text=partial(_head_or, text),
        sizes=sizes,
    )


def _unless_passed(parse: Callable[[Any], dict[str, Any]], raw: object) -> dict[str, Any]:
    if isinstance(raw, Passed):
        raise BadRow(raw.reason)
    return parse(raw)


def _head_or(text: Callable[[Any], str], raw: object) -> str:
    return _show(raw.head) if isinstance(raw, Passed) else text(raw)


def _size(raw: object) -> int:
    """About how many bytes a raw row holds in memory while it is parsed."""
    match raw:
        case bytes() | str():
            return len(raw)
        case (str() as text, _):  # of JSON: the text, and the value beside it
            return len(text)
        case (_, fields) if isinstance(fields, (list, tuple)):  # of CSV
            return sum(map(len, fields))
    return len(raw.head) if isinstance(raw, Passed) else 0


def _lines(path: Path, most: int) -> Items:
    with opened(path) as file:
        number = 0
        while line := file.readline(most + 1):
            number += 1
            if len(line) > most and not (len(line) == most + 1 and line.endswith(b"\n")):
                yield number, _rest(file, Passed("too_long").add(line), line)
                continue
            if number == 1:
                line = line.removeprefix(_BOM)
            if line and not line.isspace():
                yield number, line


def _rest(file: BinaryIO, passed: Passed, line: bytes) -> Passed:
    """Go on to the end of a line."""
    while line and not line.endswith(b"\n"):
        line = file.readline(_CHUNK)
        passed.add(line)
    return passed


def _whole(path: Path, most: int) -> Items:
    with opened(path) as file:
        text = file.read(most + 1)
        if len(text) > most:
            passed = Passed("too_long").add(text)
            while text := file.read(_CHUNK):
                passed.add(text)
            yield 1, passed
            return
    text = text.removeprefix(_BOM)
    if text and not text.isspace():
        yield 1, text


def _show(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _text(raw: bytes, column: str) -> dict[str, Any]:
    return {column: _decode(raw).rstrip("\r\n")}


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow("not_utf8") from error


def _json_line(raw: bytes) -> dict[str, Any]:
    text = _decode(raw).strip()
    try:
        value = _JSON.decode(text)
    except ValueError as error:
        raise BadRow("invalid_json") from error
    except RecursionError as error:  # deep, or opened again and again and never closed?
        end = JsonEnd()
        whole = end.feed(text) is None and end.depth == 0 and not end.quoted
        raise BadRow("too_deep" if whole else "invalid_json") from error
    return _json_row((text, value))


def _json_row(raw: tuple[str, Any]) -> dict[str, Any]:
    text, value = raw
    if not isinstance(value, dict):
        raise BadRow("not_an_object")
    check_depth(value, text)
    _check_unicode(text, "not_utf8")
    if "\\ud" in text or "\\uD" in text:  # perhaps half a character, written as an escape
        _check_unicode(json.dumps(value, ensure_ascii=False), "half_a_character")
    return value


def _check_unicode(text: str, reason: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRow(reason) from error


def _json(path: Path, most: int) -> Format:
    """What a `.json` holds: an array of rows, JSON lines, or one object with a list of rows."""
    with readable(path.name), opened(path) as file:
        start = file.read(_CHUNK).removeprefix(_BOM).lstrip()
        if start.startswith(b"["):
            return _format("JSON array", partial(_array, most=most), _json_row, _first)
        two = [raw for _, raw in itertools.islice(_lines(path, most), 2)]
    if len(two) == 2 and _may_be_lines(*two):
        return _format("JSON lines", partial(_lines, most=most), _json_line, _show)
    return _format("JSON object", partial(_object, most=most), _json_row, _first)


def _may_be_lines(first: bytes | Passed, second: bytes | Passed) -> bool:
    if isinstance(first, Passed):  # too long to try: a next line that opens an object tells
        return not isinstance(second, Passed) and second.lstrip().startswith(b"{")
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):  # an object spread over several lines
        return False


def _first(raw: tuple[str, Any]) -> str:
    return raw[0]


def _array(path: Path, most: int) -> Items:
    """The elements of a JSON array, holding little more than the longest of them."""
    with io.TextIOWrapper(opened(path), "utf-8-sig", errors="surrogateescape") as file:
        text, size, number, ended = file.read(_CHUNK), _CHUNK, 0, False
        at = text.index("[") + 1
        while True:
            at = _GAP.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing too
            if text[at : at + 1] == "]":
                return
            reason = "too_long" if len(text) - at > most else None
            value, end = None, len(text)
            try:
                value, end = _JSON.raw_decode(text, at)
            except RecursionError:
                reason = "too_deep"
            except ValueError as error:
                if ended:
                    raise _broken(path, number + 1) from error
            if end < len(text):
                number, size = number + 1, _CHUNK
                element = text[at:end]
                if bounds.size(element) > most:
                    yield number, Passed("too_long").add(element)
                else:
                    yield number, (element, value)
                at = end
            elif reason is not None:
                number, size = number + 1, _CHUNK
                passed, text = _past(file, Passed(reason), text[at:])
                if not text:
                    raise _broken(path, number)
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
        text = file.read(_CHUNK)
    return passed, ""


def _broken(path: Path, number: int) -> ValueError:
    return ValueError(
        f"{path.name} is not valid JSON from element {number} on, and the rows after it cannot be "
        "told apart; repair it, or write JSON lines, where a bad row costs only itself"
    )


def _object(path: Path, most: int) -> Items:
    with opened(path) as file:
        text = file.read(bounds.WHOLE + 1)
    if len(text) > bounds.WHOLE:
        raise ValueError(
            f"{path.name} is one JSON object of more than {bounds.WHOLE >> 20} MiB, which must be "
            "held whole: write its rows as JSON lines"
        )
    try:
        value = _JSON.decode(text.removeprefix(_BOM).decode("utf-8")) if text.strip() else {}
    except RecursionError as error:
        raise ValueError(
            f"{path.name} nests more than {bounds.DEPTH} levels deep: flatten it, or write its "
            "rows as JSON lines"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds neither an object nor an array of objects")
    lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
    for number, row in enumerate(lists[0] if len(lists) == 1 else [value] if value else [], 1):
        if bounds.too_deep(row):
            yield number, Passed("too_deep")
            continue
        shown = json.dumps(row, ensure_ascii=False)
        long = bounds.size(shown) > most
        yield number, Passed("too_long").add(shown) if long else (shown, row)


class _Row:
    """The lines of a CSV file, of which no more is read for one row than a row may have."""

    def __init__(self, file: io.TextIOWrapper, most: int) -> None:
        self.file = file
        self.most = most
        self.line = 0  # whole lines that have been read
        self.begin()

    def begin(self) -> None:
        """The next line opens a row."""
        self.held: list[str] = []
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.read(self.most + 1 - self.size)
        if not line:
            raise StopIteration
        self.held.append(line)
        self.size += bounds.size(line)
        if self.size > self.most:
            raise _TooLong
        return line

    def read(self, size: int) -> str:
        """A line, or its first `size` characters."""
        line = self.file.readline(size)
        self.line += line.endswith(("\n", "\r"))
        return line

    def pass_over(self, delimiter: str) -> Passed | None:
        """Go past a row that is too long; None if a quote in it never closes."""
        passed, end = Passed("too_long"), CsvEnd(delimiter)
        for piece in itertools.chain(self.held, iter(partial(self.read, _CHUNK), "")):
            passed.add(piece)
            if end.feed(piece):
                return passed
        return passed if end.state != "quoted" else None


class _TooLong(Exception):
    """The row that is being read is too long."""


def _csv(path: Path, delimiter: str, most: int) -> Items:
    csv.field_size_limit(sys.maxsize)  # its default refuses fields beyond 128 KiB; `_Row` bounds
    wrapped = io.TextIOWrapper(opened(path), "utf-8-sig", errors="surrogateescape", newline="")
    with wrapped as file:
        rows = _Row(file, most)
        reader = csv.reader(rows, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
        except _TooLong as error:
            raise ValueError(
                f"{path.name} opens with a line of more than {most} bytes: give it a line of "
                "column names"
            ) from error
        twice = [name for name, n in Counter(header).items() if n > 1]
        if twice:
            raise ValueError(f"{path.name} names a column twice in its first line: {twice[0]}")
        while True:
            rows.begin()
            line = rows.line + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except _TooLong:
                passed = rows.pass_over(delimiter)
                if passed is None:
                    raise ValueError(_unclosed(path, line)) from None
                yield line, passed
            except csv.Error as error:
                if "end of data" in str(error):
                    raise ValueError(_unclosed(path, line)) from error
                yield line, ((), (f"line {line}: {error}",))
            else:
                if fields:
                    yield line, (header, fields)


def _unclosed(path: Path, line: int) -> str:
    return f"{path.name}: the quote that opens in the row at line {line} never closes"


def _csv_row(raw: tuple[list[str], list[str]]) -> dict[str, Any]:
    header, fields = raw
    if not header:
        raise BadRow("invalid_csv")
    _check_unicode("".join(fields), "not_utf8")
    if len(fields) != len(header):
        raise BadRow(f"column_count: {len(fields)} of {len(header)}")
    return dict(zip(header, fields, strict=True))
