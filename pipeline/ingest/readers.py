"""File formats as streams of raw rows, in which one bad row never hides the next.

A `Format` reads in two halves. `items` cuts a file into raw rows, each with its line, and fails
only if the file itself is damaged; `parse` turns one raw row into a dict or raises `BadRow`. The
cut knows nothing of the content.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gristmill.pipeline.ingest import bounds, delimited, json_rows
from gristmill.pipeline.ingest.bounds import Passed, readable
from gristmill.pipeline.ingest.packing import LINES, TABLES, TEXTS, Content, suffixes
from gristmill.pipeline.ingest.raw_rows import BadRow, Items, decoded, lines, shown, whole


@dataclass(frozen=True, kw_only=True)
class Format:
    """How to cut a file into raw rows, how to parse or show one, and how large they are.

    It travels to whoever cuts a file, so its functions are those of modules.
    """

    name: str
    items: Callable[[Path], Items]
    parse: Callable[[Any], dict[str, Any]]
    text: Callable[[Any], str]
    sizes: Callable[[Path], Iterator[int]]  # about how many bytes each row has


def format_of(
    path: Path, *, member: str | None = None, by_line: bool = False, most: int = bounds.ROW
) -> Format | None:
    """The format that the file's suffix names (`x.jsonl.gz` is `.jsonl`), or None.

    Args:
        path: the file; a `.json` is looked into, for many of them hold JSON lines, a `.tsv` for its
            quotes, and a file without a suffix (`part-00000`) for JSON lines.
        member: of an archive; then `path` is the archive.
        by_line: read plain text as one row (`line`) a line, not one (`text`) a file.
        most: bytes of the longest row that is read; a longer one is a `BadRow`: `too_long`.
    """
    content = Content(path=path, member=member)
    suffix, packed = suffixes(member or path.name)
    if suffix == ".json":
        layout = json_rows.layout(content, most)
    elif suffix == "" and json_rows.opens_with_an_object(content, most):
        layout = "lines"
    else:
        layout = "lines" if suffix in LINES else ""
    of = partial(_format, member)
    match layout or suffix:
        case "lines":
            return of("JSON lines", partial(lines, most=most), json_rows.line, shown)
        case "array":
            return of(
                "JSON array", partial(json_rows.array, most=most), json_rows.row, json_rows.first
            )
        case "object":
            return of(
                "JSON object", partial(json_rows.objects, most=most), json_rows.row, json_rows.first
            )
        case ".csv":
            cut: Callable[[Content], Items] = partial(delimited.quoted, delimiter=",", most=most)
            return of("CSV", cut, delimited.row, partial(_fields, ","))
        case ".tsv":
            cut = partial(delimited.unquoted, most=most)
            with readable(content.name):
                if delimited.tsv_is_quoted(content, most):
                    cut = partial(delimited.quoted, delimiter="\t", most=most)
            return of("TSV", cut, delimited.row, partial(_fields, "\t"))
        case _ if suffix in TABLES and not packed and member is None:
            return _table(path, most)
        case _ if suffix in TEXTS:
            if by_line:
                return of("text lines", partial(lines, most=most), partial(_text, "line"), shown)
            return of("text", partial(whole, most=most), partial(_text, "text"), shown)
    return None


def _table(path: Path, most: int) -> Format:
    from gristmill.pipeline.ingest import arrow as tables

    return Format(
        name=tables.name(path),
        items=partial(tables.items, most=most),
        parse=partial(_unless_passed, tables.plain_row),
        text=partial(_head_or, tables.text),
        sizes=partial(tables.sizes, most=most),
    )


def _format(
    member: str | None,
    name: str,
    items: Callable[[Content], Items],
    parse: Callable[[Any], dict[str, Any]],
    text: Callable[[Any], str],
) -> Format:
    sound = partial(_sound, member, items)
    return Format(
        name=name,
        items=sound,
        parse=partial(_unless_passed, parse),
        text=partial(_head_or, text),
        sizes=partial(_sizes, sound),
    )


def _sound(member: str | None, items: Callable[[Content], Items], path: Path) -> Items:
    content = Content(path=path, member=member)
    with readable(content.name):
        yield from items(content)


def _sizes(items: Callable[[Path], Items], path: Path) -> Iterator[int]:
    return (_size(raw) for _, raw in items(path))


def _fields(between: str, raw: tuple[Any, Sequence[str]]) -> str:
    return between.join(raw[1])


def _unless_passed(parse: Callable[[Any], dict[str, Any]], raw: object) -> dict[str, Any]:
    if isinstance(raw, Passed):
        raise BadRow(raw.reason)
    return parse(raw)


def _head_or(text: Callable[[Any], str], raw: object) -> str:
    return shown(raw.head) if isinstance(raw, Passed) else text(raw)


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


def _text(column: str, raw: bytes) -> dict[str, Any]:
    return {column: decoded(raw).rstrip("\r\n")}
