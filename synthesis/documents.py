"""Documents: files of every kind to text.

Every format becomes Markdown: plain text already is, HTML is converted, PDF gives its text layer.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.ingest.packing import TEXTS
from gristmill.pipeline.ingest.readers import format_of
from gristmill.pipeline.records.schema import DOCUMENT, QUARANTINE, content_id, digest

FORMATS = (*TEXTS, ".html", ".htm", ".pdf")
LARGEST = 256 * 2**20  # bytes of one file
_NOT_CONTENT = ["script", "style", "noscript", "template", "svg", "nav", "footer", "form", "iframe"]


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
    form = format_of(path, most=LARGEST)
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
