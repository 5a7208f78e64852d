"""CSV and TSV as raw rows: the names of the columns, and the fields of a row.

CSV rows end at line ends outside quotes. TSV comes in two forms that look alike: a table writer
quotes a field that holds a tab, a line end or a quote; most tools of the field write fields as they
are, one line a row, and there a quote is a quote. `tsv_is_quoted` tells them apart.
"""

import csv
import io
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gristmill.pipeline.ingest import bounds
from gristmill.pipeline.ingest.bounds import CsvEnd, Passed
from gristmill.pipeline.ingest.packing import Content
from gristmill.pipeline.ingest.raw_rows import CHUNK, BadRow, Items, check_unicode, lines

_OPENS = re.compile(rb'(^|\t)"')
_UNQUOTED = re.compile(r"[-+\d.,eE%]*|NA|N/A|NaN|null|none|true|false", re.IGNORECASE)


def row(raw: tuple[list[str], list[str]]) -> dict[str, Any]:
    """The row of named fields."""
    header, fields = raw
    if not header:
        raise BadRow("invalid_csv")
    check_unicode("".join(fields), "not_utf8")
    if len(fields) != len(header):
        raise BadRow(f"column_count: {len(fields)} of {len(header)}")
    return dict(zip(header, fields, strict=True))


def unquoted(content: Content, most: int) -> Items:
    """The rows of a TSV file whose fields are written as they are."""
    found = _fields(content, most)
    _, header = next(found, (1, []))
    if isinstance(header, Passed):
        raise ValueError(_no_header(content, most))
    _check_header(content, header)
    for number, fields in found:
        yield number, fields if isinstance(fields, Passed) else (header, fields)


def _fields(content: Content, most: int) -> Iterator[tuple[int, list[str] | Passed]]:
    for number, raw in lines(content, most):
        if isinstance(raw, Passed):
            yield number, raw
        else:
            yield number, raw.decode("utf-8", "surrogateescape").rstrip("\r\n").split("\t")


def quoted(content: Content, delimiter: str, most: int) -> Items:
    """The rows of a file in which fields may be quoted."""
    found = _parsed(content, delimiter, most)
    _, _, header = next(found, (1, [], []))
    if isinstance(header, Passed):
        raise ValueError(_no_header(content, most))
    if isinstance(header, csv.Error):
        raise ValueError(f"{content.name} opens with no line of column names: {header}")
    _check_header(content, header)
    for line, _, fields in found:
        if isinstance(fields, csv.Error):
            yield line, ((), (f"line {line}: {fields}",))
        else:
            yield line, fields if isinstance(fields, Passed) else (header, fields)


def _parsed(
    content: Content, delimiter: str, most: int
) -> Iterator[tuple[int, list[str], list[str] | Passed | csv.Error]]:
    """Every row, the names of the columns first: its line, its lines as written, its fields."""
    csv.field_size_limit(sys.maxsize)  # its default refuses fields beyond 128 KiB; `_Row` bounds
    wrapped = io.TextIOWrapper(content.open(), "utf-8-sig", errors="surrogateescape", newline="")
    with wrapped as file:
        rows = _Row(file, most)
        reader = csv.reader(rows, delimiter=delimiter, strict=True)
        for first in itertools.chain([True], itertools.repeat(False)):
            rows.begin()
            line = rows.line + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except _TooLong:
                passed = Passed("too_long") if first else rows.pass_over(delimiter)
                if passed is None:
                    raise _Unclosed(content, line) from None
                yield line, rows.held, passed
            except csv.Error as error:
                if "end of data" in str(error):
                    raise _Unclosed(content, line) from error
                yield line, rows.held, error
            else:
                if fields or first:
                    yield line, rows.held, fields


def _check_header(content: Content, header: Sequence[str]) -> None:
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice:
        raise ValueError(
            f"{content.name} names a column twice in its first line: {twice[0][:80] or 'no name'}; "
            "give each column a name of its own"
        )


def _no_header(content: Content, most: int) -> str:
    return (
        f"{content.name} opens with a line of more than {most} bytes: give it a line of column "
        "names"
    )


class _Unclosed(ValueError):
    """A quote opens and never closes, so that the rows after it cannot be told apart."""

    def __init__(self, content: Content, line: int) -> None:
        super().__init__(
            f"{content.name}: the quote that opens in the row at line {line} never closes"
        )
        self.line = line


class _TooLong(Exception):
    """The row that is being read is too long."""


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
        for piece in itertools.chain(self.held, iter(partial(self.read, CHUNK), "")):
            passed.add(piece)
            if end.feed(piece):
                return passed
        return passed if end.state != "quoted" else None


@dataclass
class _Evidence:
    """What the rows of a TSV file, read as quoted, say of who wrote it.

    Attributes:
        wrong: lines in rows that went wrong.
        merged: a row takes several lines.
        doubled: a quoted field holds quotes, doubled: what a table writer does.
        bare: a field that is not quoted holds a quote: what no table writer does.
        needless, plain: columns in which a field is quoted for no reason; is not quoted.
    """

    wrong: int = 0
    merged: bool = False
    doubled: bool = False
    bare: bool = False
    needless: set[int] = field(default_factory=set)
    plain: set[int] = field(default_factory=set)

    def add(self, written: Sequence[str], fields: Sequence[str]) -> None:
        """Take in a row as it is written, split at tabs, and as it is read."""
        if len(written) != len(fields):
            self.doubled |= any('"' in text for text in fields)
            return
        for column, (raw, text) in enumerate(zip(written, fields, strict=True)):
            if raw == text:
                self.bare |= '"' in text
                if not _UNQUOTED.fullmatch(text):
                    self.plain.add(column)
            else:
                self.doubled |= '"' in text
                if text == text.strip() and not set(text) & set('",'):
                    self.needless.add(column)

    @property
    def by_a_table_writer(self) -> bool:
        """Whether a table writer can have written it, where neither form goes wrong more often."""
        if self.merged:
            return self.doubled and not self.bare
        return not self.bare and not self.needless & self.plain


def tsv_is_quoted(content: Content, most: int) -> bool:
    """Whether the fields of a TSV file may be quoted, of which all of the file is evidence.

    It is read in both forms. The one in which fewer lines go wrong is right; where both go equally
    well, it is quoted if a table writer can have written it so.
    """
    opens, wrong, number, tabs = False, 0, 0, None
    for line, raw in lines(content, most):
        number = line
        if not isinstance(raw, Passed):
            opens = opens or _OPENS.search(raw) is not None
            tabs = raw.count(b"\t") if tabs is None else tabs
            wrong += raw.count(b"\t") != tabs
    if not opens or tabs is None:
        return False
    evidence = _evidence(content, most, number)
    return evidence.wrong < wrong if evidence.wrong != wrong else evidence.by_a_table_writer


def _evidence(content: Content, most: int, height: int) -> _Evidence:
    """What a file of `height` lines says, read as quoted."""
    evidence, columns = _Evidence(), None
    try:
        for _, written, fields in _parsed(content, "\t", most):
            columns = len(fields) if columns is None and isinstance(fields, list) else columns
            if isinstance(fields, Passed):
                continue
            if isinstance(fields, csv.Error) or len(fields) != columns:
                evidence.wrong += len(written)
                continue
            evidence.merged |= len(written) > 1
            evidence.add("".join(written).rstrip("\r\n").split("\t"), fields)
    except _Unclosed as error:
        evidence.wrong += height + 1 - error.line
    return evidence
