"""Chunks: texts cut at their structure, each a row that knows its span in its parent.

Every format is Markdown by now, so one splitter, by Markdown blocks, serves them all. A chunk is a
`Document` row of its own: `meta` names its parent, its span in the parent's text and the headings
it stands under.
"""

import bisect
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import polars as pl

from gristmill.pipeline.records.schema import DOCUMENT, canonical_json, content_id

Count: TypeAlias = Callable[[Sequence[str]], Sequence[int]]  # tokens of each text


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """`text[start:end]` of a document, under `headings`."""

    start: int
    end: int
    tokens: int
    headings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Block:
    start: int
    end: int
    level: int  # of a heading; 0 is no heading
    title: str


def whitespace_words(texts: Sequence[str]) -> list[int]:
    """A token count without a tokenizer: words, and 4 characters at most for each."""
    return [max(len(t.split()), -(-len(t) // 4)) for t in texts]


def chunk(text: str, *, limit: int, count: Count = whitespace_words) -> list[Chunk]:
    """Cut a text at its structure into chunks of at most `limit` tokens.

    Blocks (paragraph, list, table, code, heading) stay whole while they fit and are packed in
    order; once half full, a chunk ends before a heading; it never ends with one. A larger block is
    cut at lines, then sentences, then words, then anywhere. Every character that is not white space
    lies in exactly one chunk.
    """
    if limit < 1:
        raise ValueError(f"limit={limit} tokens is not a chunk: give at least 1")
    blocks = _blocks(text)
    whole = count([text[b.start : b.end].strip() for b in blocks])
    pieces = [
        piece
        for block, size in zip(blocks, whole, strict=True)
        for piece in ([block] if size <= limit else _cut(text, _plain(block), limit, count))
    ]
    packing = _Packing.of(pieces, count([text[p.start : p.end].strip() for p in pieces]))
    found: list[Chunk] = []
    path: list[tuple[int, str]] = []
    first = 0
    while first < len(pieces):
        last, span, tokens = _measured(text, pieces, first, packing.end(first, limit), limit, count)
        for index, piece in enumerate(pieces[first:last]):
            if piece.level:
                path = [h for h in path if h[0] < piece.level] + [(piece.level, piece.title)]
            if index == 0:
                headings = tuple(title for _, title in path)
        if span is not None:
            found.append(Chunk(start=span[0], end=span[1], tokens=tokens, headings=headings))
        first = last
    return found


@dataclass(frozen=True, kw_only=True)
class _Packing:
    """How far a chunk reaches from a piece, looked up: no run of headings makes it slow.

    Attributes:
        total: tokens of the pieces before each; one number more than pieces.
        heading: the first heading from each piece on.
        body: the end of the last piece before each that is no heading; 0 if there is none.
    """

    total: list[int]
    heading: list[int]
    body: list[int]

    @staticmethod
    def of(pieces: Sequence[_Block], sizes: Sequence[int]) -> "_Packing":
        heading, body = [len(pieces)] * (len(pieces) + 1), [0] * (len(pieces) + 1)
        for i in reversed(range(len(pieces))):
            heading[i] = i if pieces[i].level else heading[i + 1]
        for i, piece in enumerate(pieces):
            body[i + 1] = body[i] if piece.level else i + 1
        return _Packing(total=[0, *itertools.accumulate(sizes)], heading=heading, body=body)

    def end(self, first: int, limit: int) -> int:
        """Where the pieces from `first` on are full, or a heading begins the next chunk."""
        pieces = len(self.total) - 1
        full = bisect.bisect_right(self.total, self.total[first] + limit) - 1
        half = bisect.bisect_left(self.total, self.total[first] + limit / 2)
        last = max(first + 1, min(full, self.heading[min(max(half, first + 1), pieces)]))
        return last if last == pieces else max(first + 1, self.body[last])


def _measured(
    text: str, pieces: Sequence[_Block], first: int, last: int, limit: int, count: Count
) -> tuple[int, tuple[int, int] | None, int]:
    """The end, span and tokens of the chunk that begins with a piece.

    The whole can have more tokens than its parts: it is measured, and as few pieces as need be are
    given back.
    """
    fits, high = first + 1, last
    while True:
        span = _span(text, pieces[first:last])
        tokens = 0 if span is None else count([text[slice(*span)]])[0]
        if tokens > limit and last > first + 1:
            high = last - 1
        else:
            fits = last
        if fits >= high:
            if last != fits:
                last = fits
                continue
            return last, span, tokens
        last = (fits + high + 1) // 2


def _span(text: str, pieces: Sequence[_Block]) -> tuple[int, int] | None:
    """First and last character that is not white space."""
    start, end = pieces[0].start, pieces[-1].end
    inner = text[start:end]
    start += len(inner) - len(inner.lstrip())
    end -= len(inner) - len(inner.rstrip())
    return (start, end) if start < end else None


def _blocks(text: str) -> list[_Block]:
    """Top-level Markdown blocks; each reaches to the start of the next: nothing falls between."""
    from markdown_it import MarkdownIt

    lines = [0, *(m.end() for m in re.finditer(r"\r\n|\r|\n", text)), len(text)]
    # what stands within a block is of no interest here
    machine = MarkdownIt("commonmark").enable("table").disable(["inline", "text_join"])
    tokens = machine.parse(text)
    starts: list[tuple[int, int, str]] = []
    for index, token in enumerate(tokens):
        if token.level == 0 and token.map is not None and token.nesting >= 0:
            heading = token.type == "heading_open"
            level = int(token.tag[1:]) if heading else 0
            title = _title(tokens[index + 1].content) if heading else ""
            starts.append((lines[token.map[0]], level, title))
    if not starts:
        return [_Block(start=0, end=len(text), level=0, title="")] if text.strip() else []
    starts[0] = (0, *starts[0][1:])
    ends = [*(s for s, _, _ in starts[1:]), len(text)]
    return [
        _Block(start=start, end=end, level=level, title=title)
        for (start, level, title), end in zip(starts, ends, strict=True)
    ]


def _title(content: str) -> str:
    content = content.strip()
    if content.endswith("}"):  # kramdown attributes: no other brace closes within
        within = re.compile(r"\{[:#.]").search(content, content.rfind("}", 0, -1) + 1)
        content = content if within is None else content[: within.start()].rstrip()
    return content


def _plain(block: _Block) -> _Block:
    """A block that is too large for a chunk: as a heading it would stand over all that follows."""
    return replace(block, level=0, title="")


_CUTS = (r"\n+", r"(?<=[.!?\u3002\uff01\uff1f])[)\"'\u201d\u2019]*\s*", r"\s+")


def _cut(text: str, block: _Block, limit: int, count: Count, depth: int = 0) -> list[_Block]:
    """Cut a block that is too large at the first kind of place that it has, then at finer ones."""
    if depth < len(_CUTS):
        inner = text[block.start : block.end]
        cuts = [block.start + m.end() for m in re.finditer(_CUTS[depth], inner)]
    else:
        cuts = [(block.start + block.end) // 2]
    edges = sorted({block.start, *cuts, block.end})
    if len(edges) == 2:
        # A single character may have more tokens than the limit: it stays as it is.
        return _cut(text, block, limit, count, depth + 1) if depth < len(_CUTS) else [block]
    parts = [replace(block, start=a, end=b) for a, b in itertools.pairwise(edges)]
    sizes = count([text[p.start : p.end].strip() for p in parts])
    return [
        piece
        for part, size in zip(parts, sizes, strict=True)
        for piece in ([part] if size <= limit else _cut(text, part, limit, count, depth))
    ]


def chunk_rows(
    documents: pl.DataFrame, *, limit: int, count: Count = whitespace_words
) -> pl.DataFrame:
    """Chunks as document rows: `source` is the parent's, `row` the chunk's number in the source.

    Repeated chunks (boilerplate, licence pages) appear once, at their first place.
    """
    rows: list[dict[str, Any]] = []
    number: dict[str, int] = {}
    seen: set[str] = set()
    for parent in documents.iter_rows(named=True):
        meta = json.loads(parent["meta"] or "{}")
        for piece in chunk(parent["text"] or "", limit=limit, count=count):
            text = parent["text"][piece.start : piece.end]
            ident = content_id("document", {"text": text})
            row = number.get(parent["source"], 0)
            number[parent["source"]] = row + 1
            if ident in seen:
                continue
            seen.add(ident)
            lineage = {
                "document": parent["id"],
                "start": piece.start,
                "end": piece.end,
                "headings": list(piece.headings),
                "tokens": piece.tokens,
            }
            note = canonical_json({**meta, "chunk": lineage})
            rows.append({**parent, "id": ident, "row": row, "meta": note, "text": text})
    return pl.DataFrame(rows, schema=DOCUMENT)
