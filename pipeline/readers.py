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
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

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
    """How to cut a file into raw rows, how to parse or show one, and how many there are."""

    name: str
    items: Callable[[Path], Items]
    parse: Callable[[Any], dict[str, Any]]
    text: Callable[[Any], str]
    count: Callable[[Path], int]


def format_of(path: Path, *, by_line: bool = False) -> Format | None:
    """The format that the file's suffix names (`x.jsonl.gz` is `.jsonl`), or None.

    Args:
        path: the file; a `.json` is looked into, for many of them hold JSON lines.
        by_line: read plain text as one row (`line`) a line, not one (`text`) a file.
    """
    names = [s.lower() for s in path.suffixes]
    packed = bool(names) and names[-1] in PACKED
    match "".join(names[-2:-1] if packed else names[-1:]):
        case ".jsonl" | ".ndjson":
            return _format("JSON lines", _lines, _json_line, _show)
        case ".json":
            return _json(path)
        case ".csv" | ".tsv" as suffix:
            delimiter = "," if suffix == ".csv" else "\t"
            cut = partial(_csv, delimiter=delimiter)
            return _format(suffix[1:].upper(), cut, _csv_row, lambda raw: ",".join(raw[1]))
        case ".parquet" | ".arrow" | ".feather" if not packed:
            from gristmill.pipeline import tables

            return Format(
                name=tables.name(path),
                items=tables.items,
                parse=tables.plain_row,
                text=lambda raw: json.dumps(tables.plain(raw), ensure_ascii=False),
                count=tables.count,
            )
        case suffix if suffix in TEXTS:
            if by_line:
                return _format("text lines", _lines, partial(_text, column="line"), _show)
            return _format("text", _whole, partial(_text, column="text"), _show)
    return None


def opened(path: Path) -> BinaryIO:
    """Open a file for reading bytes, unpacked if its suffix says that it is packed."""
    unpack = PACKED.get(path.suffix.lower())
    return path.open("rb") if unpack is None else cast(BinaryIO, unpack(path))


def _format(
    name: str,
    items: Callable[[Path], Items],
    parse: Callable[[Any], dict[str, Any]],
    text: Callable[[Any], str],
) -> Format:
    def sound(path: Path) -> Items:
        try:
            yield from items(path)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path.name} is cut short or damaged: {error}") from error

    def count(path: Path) -> int:
        return sum(1 for _ in sound(path))

    return Format(name=name, items=sound, parse=parse, text=text, count=count)


def _lines(path: Path) -> Items:
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(_BOM)
            if line and not line.isspace():
                yield number, line


def _whole(path: Path) -> Items:
    with opened(path) as file:
        text = file.read().removeprefix(_BOM)
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
    except (ValueError, RecursionError) as error:
        raise BadRow("invalid_json") from error
    return _json_row((text, value))


def _json_row(raw: tuple[str, Any]) -> dict[str, Any]:
    text, value = raw
    if not isinstance(value, dict):
        raise BadRow("not_an_object")
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


def _json(path: Path) -> Format:
    """What a `.json` holds: an array of rows, JSON lines, or one object with a list of rows."""
    two = [raw for _, raw in itertools.islice(_lines(path), 2)]
    if two and two[0].lstrip().startswith(b"["):
        return _format("JSON array", _array, _json_row, lambda raw: raw[0])
    try:
        lines = len(two) == 2 and isinstance(json.loads(two[0]), dict)
    except ValueError:  # an object spread over several lines
        lines = False
    if lines:
        return _format("JSON lines", _lines, _json_line, _show)
    return _format("JSON object", _object, _json_row, lambda raw: raw[0])


def _array(path: Path) -> Items:
    """The elements of a JSON array, holding little more than the longest of them."""
    with io.TextIOWrapper(opened(path), "utf-8-sig", errors="surrogateescape") as file:
        text, size, number, ended = file.read(_CHUNK), _CHUNK, 0, False
        at = text.index("[") + 1
        while True:
            at = _GAP.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing too
            if text[at : at + 1] == "]":
                return
            try:
                value, end = _JSON.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                value, end = None, len(text)
                if ended:
                    raise ValueError(
                        f"{path.name} is no valid JSON from element {number + 1} on, and the rows "
                        "after it cannot be told apart; repair it, or write JSON lines, where a "
                        "bad row costs only itself"
                    ) from error
            if end < len(text):
                number, size = number + 1, _CHUNK
                yield number, (text[at:end], value)
                at = end
            else:  # the element may go on beyond what has been read
                more = file.read(size)
                text, at, size, ended = text[at:] + more, 0, 2 * size, not more


def _object(path: Path) -> Items:
    with opened(path) as file:
        text = file.read()
    try:
        value = _JSON.decode(text.removeprefix(_BOM).decode("utf-8")) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds neither an object nor an array of objects")
    lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
    for number, row in enumerate(lists[0] if len(lists) == 1 else [value] if value else [], 1):
        yield number, (json.dumps(row, ensure_ascii=False), row)


def _csv(path: Path, delimiter: str) -> Items:
    csv.field_size_limit(sys.maxsize)  # its default refuses fields beyond 128 KiB
    wrapped = io.TextIOWrapper(opened(path), "utf-8-sig", errors="surrogateescape", newline="")
    with wrapped as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise ValueError(f"{path.name} names a column twice in its first line: {header}")
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error):
                    raise ValueError(
                        f"{path.name}: the quote that opens in the row at line {line} never closes"
                    ) from error
                yield line, ((), (f"line {line}: {error}",))
            else:
                if fields:
                    yield line, (header, fields)


def _csv_row(raw: tuple[list[str], list[str]]) -> dict[str, Any]:
    header, fields = raw
    if not header:
        raise BadRow("invalid_csv")
    _check_unicode("".join(fields), "not_utf8")
    if len(fields) != len(header):
        raise BadRow(f"column_count: {len(fields)} of {len(header)}")
    return dict(zip(header, fields, strict=True))
