"""Documents: files to text, text to chunks with their spans, chunks to clusters.

Every format becomes Markdown first (plain text already is; HTML is converted; PDF gives its text
layer), so one splitter, by Markdown blocks, serves them all. A chunk is a `Document` row of its
own: `meta` names its parent, its span in the parent's text and the headings it stands under.
"""

# N = documents, K = clusters, D = features

import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.readers import TEXTS, format_of
from gristmill.pipeline.schema import DOCUMENT, QUARANTINE, canonical_json, content_id, digest

Array: TypeAlias = NDArray[np.float64]
Count: TypeAlias = Callable[[Sequence[str]], Sequence[int]]  # tokens of each text
FORMATS = (*TEXTS, ".html", ".htm", ".pdf")
LARGEST = 256 * 2**20  # bytes of one file
_NOT_CONTENT = ["script", "style", "noscript", "template", "svg", "nav", "footer", "form", "iframe"]


# ------------------------------------------------------------------------------------- reading


def load(paths: Iterable[Path], *, license: str | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read files into document rows; what cannot be read goes to the second, quarantine, frame.

    `source` is the file's name and `row` 0. A file that repeats an earlier one is quarantined too.
    """
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    for path in sorted(paths):
        try:
            text = read(path)
            ident = content_id("document", {"text": text})
            if ident in first:
                raise ValueError(f"repeats {first[ident]}")
        except ValueError as problem:
            bad.append(
                {
                    "id": digest(["unread", path.name]),
                    "source": path.name,
                    "row": 0,
                    "file": path.name,
                    "line": 1,
                    "reason": str(problem),
                    "excerpt": "",
                }
            )
            continue
        first[ident] = path.name
        row = dict.fromkeys(DOCUMENT)
        good.append(
            {**row, "id": ident, "source": path.name, "row": 0, "license": license, "text": text}
        )
    return pl.DataFrame(good, schema=DOCUMENT), pl.DataFrame(bad, schema=QUARANTINE)


def read(path: Path) -> str:
    """The text of one file as Markdown, or a ValueError that says why there is none."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(
            f"{path.name} is none of {', '.join(FORMATS)}: convert it, or leave it out"
        )
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(
            f"{path.name} has {size / 2**20:,.0f} MiB and {LARGEST // 2**20} are read: split it"
        )
    match path.suffix.lower():
        case ".pdf":
            text = from_pdf(path.read_bytes(), path.name)
        case ".html" | ".htm":
            text = from_html(path.read_bytes(), path.name)
        case _:
            text = from_text(path)
    text = re.sub(r"\r\n?", "\n", text).strip("\n")
    if not text.strip():
        raise ValueError(f"{path.name} holds no text")
    return text


def from_text(path: Path) -> str:
    """UTF-8 text; anything else is binary to us."""
    form = format_of(path)
    assert form is not None, f"no reader for {path.name}"
    text = "".join(form.parse(raw)["text"] for _, raw in form.items(path))
    if "\0" in text:
        raise ValueError(
            f"{path.name} is binary: a null character stands at {text.index(chr(0)):,}"
        )
    return text


def from_html(raw: bytes, name: str) -> str:
    """The main content of a page as Markdown; scripts, menus and hidden parts are left out."""
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    try:
        soup = BeautifulSoup(raw, "html.parser")
        for tag in soup.find_all(_NOT_CONTENT) + soup.select('[hidden], [aria-hidden="true"]'):
            tag.decompose()
        main = soup.find("main") or soup.find("article") or soup.body or soup
        text = MarkdownConverter(heading_style="ATX", strip=["img", "a"]).convert_soup(main)
    except RecursionError:
        raise ValueError(f"{name} nests its elements too deeply to be a page") from None
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", str(text)))


def from_pdf(raw: bytes, name: str) -> str:
    """The text layer, page after page; scans without one are refused, not read as empty."""
    import io

    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(raw))
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError(f"{name} is encrypted: remove its password first")
        pages = [page.extract_text() for page in reader.pages]
    except (PyPdfError, KeyError, TypeError, AttributeError, IndexError, OSError) as error:
        raise ValueError(f"{name} is a damaged PDF ({type(error).__name__}: {error})") from None
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    if not text:
        raise ValueError(f"{name} has {len(pages)} pages and no text layer: run OCR on it first")
    return text


# ------------------------------------------------------------------------------------ chunking


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
        raise ValueError(f"limit={limit} tokens is no chunk: give at least 1")
    blocks = _blocks(text)
    whole = count([text[b.start : b.end].strip() for b in blocks])
    pieces = [
        piece
        for block, size in zip(blocks, whole, strict=True)
        for piece in ([block] if size <= limit else _cut(text, block, limit, count))
    ]
    sizes = count([text[p.start : p.end].strip() for p in pieces])
    found: list[Chunk] = []
    path: list[tuple[int, str]] = []
    first = 0
    while first < len(pieces):
        last, used = first + 1, sizes[first]
        while last < len(pieces) and used + sizes[last] <= limit:
            if pieces[last].level and used >= limit / 2:
                break
            used += sizes[last]
            last += 1
        while first + 1 < last < len(pieces) and pieces[last - 1].level:
            last -= 1
        # The whole can have more tokens than its parts: measure it, and give back what is too much.
        while (span := _span(text, pieces[first:last])) is not None:
            tokens = count([text[slice(*span)]])[0]
            if tokens <= limit or last == first + 1:
                break
            last -= 1
        for index, piece in enumerate(pieces[first:last]):
            if piece.level:
                path = [h for h in path if h[0] < piece.level] + [(piece.level, piece.title)]
            if index == 0:
                headings = tuple(title for _, title in path)
        if span is not None:
            found.append(Chunk(start=span[0], end=span[1], tokens=tokens, headings=headings))
        first = last
    return found


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
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
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
    return re.sub(r"\s*\{[:#.][^}]*\}\s*$", "", content).strip()  # kramdown attributes


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


# ---------------------------------------------------------------------------------- clustering


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """Which documents lie together: the arms of the bandit, largest first."""

    ids: tuple[tuple[str, ...], ...]  # per cluster, in id order
    mean_KD: Array
    std_KD: Array  # sample deviation; NaN for a cluster of one


def cluster(
    ids: Sequence[str],
    embedding_ND: Array,
    *,
    clusters: int,
    seed: int = 0,
    rounds: int = 500,
    restarts: int = 5,
) -> Clusters:
    """Seeded k-means (faiss, all points, nearest centroid by L2); row order does not matter.

    The best of `restarts` runs is kept: one alone often merges two clusters and halves a third.
    """
    n = len(ids)
    if not 1 <= clusters <= n:
        raise ValueError(f"clusters={clusters} of {n} documents is not possible: give 1 to {n}")
    assert embedding_ND.shape[0] == n, f"{embedding_ND.shape[0]} embeddings for {n} documents"
    import faiss

    order = np.argsort(np.array(ids))
    x_ND = np.ascontiguousarray(embedding_ND[order], dtype=np.float32)
    machine = faiss.Kmeans(
        x_ND.shape[1],
        clusters,
        niter=rounds,
        nredo=restarts,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=n,  # more would be sampled away
    )
    machine.train(x_ND)
    _, nearest_N1 = machine.index.search(x_ND, 1)
    sorted_ids = [ids[i] for i in order]
    members = [np.flatnonzero(nearest_N1[:, 0] == k) for k in range(clusters)]
    members = [m for m in members if len(m)]
    members.sort(key=lambda m: (-len(m), sorted_ids[m[0]]))
    spread = [
        x_ND[m].std(axis=0, ddof=1, dtype=np.float64)
        if len(m) > 1
        else np.full(x_ND.shape[1], np.nan)
        for m in members
    ]
    return Clusters(
        ids=tuple(tuple(sorted_ids[i] for i in m) for m in members),
        mean_KD=np.stack([x_ND[m].mean(axis=0, dtype=np.float64) for m in members]),
        std_KD=np.stack(spread),
    )
