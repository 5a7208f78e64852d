"""Documents: every format and bad file, spans that give the text back, seeded clusters."""

import json
import logging
import re
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import ROOT

from gristmill.pipeline.ingest import bounds
from gristmill.pipeline.records.schema import DOCUMENT, QUARANTINE, check
from gristmill.synthesis import chunks, documents
from gristmill.synthesis.clusters import cluster

BOOK = """# Rust

Intro paragraph, two sentences. Here is the second.

## Ownership

Each value has an owner. There can only be one owner at a time.

```rust
# let not_a_heading = 1;

let s = String::from("hello");
```

| a | b |
|---|---|
| 1 | 2 |

## Borrowing {#borrow}

- a reference
- never null

A last paragraph.
"""


def pdf(pages):
    """A PDF by hand: one text line a page, with a correct cross-reference table."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects += [
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    out, offsets = "%PDF-1.4\n", []
    for i, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{i} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{o:010d} 00000 n \n" for o in offsets)
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    out += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    return out.encode("latin-1")


HTML = b"""<html><head><title>t</title><style>p{}</style><script>alert(1)</script></head><body>
<nav>menu item</nav><main><h1>Lipids</h1><p>Fats store <b>energy</b>.</p>
<p hidden>secret</p><ul><li>one</li><li>two</li></ul>
<table><tr><th>x</th></tr><tr><td>7</td></tr></table></main><footer>imprint</footer></body></html>"""


# ------------------------------------------------------------------------------------- reading


def test_every_format_becomes_markdown(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffplain\r\ntext".encode())
    (tmp_path / "b.md").write_text(BOOK, "utf-8")
    (tmp_path / "c.html").write_bytes(HTML)
    (tmp_path / "d.pdf").write_bytes(pdf(["Water boils at 100.", "", "Ice melts at 0."]))
    good, bad = documents.load(tmp_path.iterdir(), license="MIT")
    assert bad.is_empty()
    check(good, DOCUMENT, "documents")
    text = dict(zip(good["source"], good["text"], strict=True))
    assert text["a.txt"] == "plain\ntext"
    assert text["b.md"] == BOOK.strip("\n")
    page = text["c.html"]
    assert page.startswith("# Lipids")
    assert "Fats store **energy**." in page
    assert re.search(r"[-*] one\n[-*] two", page)
    assert "| x |" in page
    for hidden in ("alert", "menu", "secret", "imprint", "p{}"):
        assert hidden not in page
    assert text["d.pdf"] == "Water boils at 100.\n\nIce melts at 0."
    assert set(good["license"]) == {"MIT"}


def test_every_bad_file_is_quarantined_with_its_reason(tmp_path, monkeypatch):
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    monkeypatch.setattr(documents, "LARGEST", 5_000)
    files = {
        "blank.txt": (b" \n\n ", "holds no text"),
        "binary.txt": (b"ab\0cd", "null character"),
        "copy.txt": (b"the same words\n", "repeats a.txt"),
        "deep.html": (b"<div>" * 900, "nests its elements too deeply"),
        "empty.md": (b"", "holds no text"),
        "huge.txt": (b"x" * 5_001, "split it"),
        "latin.txt": ("caf\u00e9".encode("latin-1"), "not_utf8"),
        "notes.docx": (b"PK", "convert it"),
        "scan.pdf": (pdf(["", ""]), "2 pages and no text layer"),
        "torn.pdf": (pdf(["some text"])[:120], "damaged PDF"),
        "void.pdf": (b"", "damaged PDF"),
    }
    (tmp_path / "a.txt").write_bytes(b"the same words\n")
    for name, (raw, _) in files.items():
        (tmp_path / name).write_bytes(raw)
    good, bad = documents.load(tmp_path.iterdir())
    assert good["source"].to_list() == ["a.txt"]
    check(bad, QUARANTINE, "quarantine")
    found = dict(zip(bad["source"], bad["reason"], strict=True))
    assert found.keys() == files.keys()
    for name, (_, reason) in files.items():
        assert reason in found[name], f"{name}: {found[name]}"


def test_a_document_may_be_longer_than_a_row_of_a_table(tmp_path):
    path = tmp_path / "library.txt"
    path.write_text("a book\n" * (bounds.ROW // 7 + 1))
    assert len(documents.read(path)) > bounds.ROW - 7


# ------------------------------------------------------------------------------------ chunking


def pieces(text, limit, count=chunks.whitespace_words):
    return [(text[c.start : c.end], c) for c in chunks.chunk(text, limit=limit, count=count)]


def words(texts):
    return [len(t.split()) for t in texts]


def test_chunks_end_at_headings_and_know_them():
    found = pieces(BOOK, 60, words)
    assert [c.headings for _, c in found] == [("Rust",), ("Rust", "Borrowing")]
    assert found[0][0].startswith("# Rust")
    assert found[1][0].startswith("## Borrowing")
    # A code block's comment is no heading, and no block is torn while it fits.
    assert "# let not_a_heading = 1;\n\nlet s" in found[0][0]
    small = pieces(BOOK, 14, words)
    assert any(t.startswith("```rust") and t.endswith("```") for t, _ in small)
    assert any(t.startswith("| a | b |") and t.endswith("| 1 | 2 |") for t, _ in small)
    # A heading ends a chunk only where it is alone: what follows it does not fit beside it.
    assert not any("\n## " in t and t.rindex("\n## ") > t.rindex("\n") - 1 for t, _ in small)


def test_the_span_is_the_text_and_the_row_knows_its_parent():
    frame = pl.DataFrame(
        [{**dict.fromkeys(DOCUMENT), "id": "p", "source": "book", "row": 0, "text": BOOK * 2}],
        schema=DOCUMENT,
    )
    rows = chunks.chunk_rows(frame, limit=20, count=words)
    check(rows, DOCUMENT, "chunks")
    assert rows["id"].is_unique().all()  # the second copy of the book adds nothing
    for row in rows.iter_rows(named=True):
        lineage = json.loads(row["meta"])["chunk"]
        assert lineage["document"] == "p"
        assert (BOOK * 2)[lineage["start"] : lineage["end"]] == row["text"]
        assert lineage["tokens"] == words([row["text"]])[0] <= 20


MARKS = st.sampled_from(
    ["word", "a.", "\u4e2d\u6587\u3002", "\n", "\n\n", "# h", "```", "- x", "|", " ", "\r\n", "1) "]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(MARKS, max_size=60), st.integers(1, 12), st.sampled_from(["words", "characters"]))
def test_nothing_is_lost_doubled_or_too_long(parts, limit, unit):
    text = " ".join(parts)
    count = words if unit == "words" else lambda texts: [len(t) for t in texts]
    end = 0
    rest = text
    for piece, span in pieces(text, limit, count):
        assert not text[end : span.start].strip()
        assert piece == piece.strip()
        assert span.tokens == count([piece])[0] <= limit
        end = span.end
        rest = text[end:]
    assert not rest.strip()


def test_a_count_that_is_not_additive_still_holds():
    # Joined words cost more than their sum: "ab" twice is 2 + 2 alone and 4 + 3 together.
    def count(texts):
        return [len(t.split()) ** 2 for t in texts]

    text = "\n\n".join(f"w{i}" for i in range(50))
    for piece, span in pieces(text, 9, count):
        assert span.tokens == count([piece])[0] <= 9


def test_one_endless_word_and_one_endless_line_are_cut():
    characters = lambda texts: [len(t) for t in texts]  # noqa: E731
    assert "".join(t for t, _ in pieces("x" * 1_000, 64, characters)) == "x" * 1_000
    line = "A sentence of six words here. " * 500
    found = pieces(line, 30, words)
    assert all(t.endswith(".") for t, _ in found)
    assert len(found) == 100


def test_a_chunk_needs_a_limit():
    with pytest.raises(ValueError, match="limit=0"):
        chunks.chunk("x", limit=0)


@pytest.mark.parametrize(
    "text",
    ["# " * 50_000, "# x " + "#" * 50_000 + "y", "# a\n" * 10_000, "# " + "{#" * 100_000],
    ids=["marks", "closing", "headings", "attributes"],
)
def test_no_text_is_slow_to_cut(text):
    """Time grew with the square of the headings, of their attributes, of a heading's words."""
    began = time.perf_counter()
    found = chunks.chunk(text, limit=2_000)
    assert time.perf_counter() - began < 10  # below a second on an idle machine
    assert max(c.tokens for c in found) <= 2_000
    assert "".join("".join(text[c.start : c.end].split()) for c in found) == "".join(text.split())


def test_a_heading_that_fills_chunks_is_text():
    """It stood over all that followed, and each of its words was a chunk."""
    found = pieces("# " + "word " * 40 + "\n\nbody", 10, words)
    assert len(found) == 5
    assert {c.headings for _, c in found} == {()}


def test_a_real_book_is_cut_quickly():
    book = ROOT.parent / "shared/data/docs/sherlock_holmes.txt"
    if not book.exists():
        pytest.skip("the shared corpus is not here")
    text = documents.read(book)
    found = chunks.chunk(text, limit=400)
    assert max(c.tokens for c in found) <= 400
    assert len(found) < 2 * sum(c.tokens for c in found) / 400
    assert "".join(text[c.start : c.end] for c in found).split() != []
    kept = sum(len(text[c.start : c.end].split()) for c in found)
    assert kept == len(text.split())


# ---------------------------------------------------------------------------------- clustering


def test_planted_clusters_are_found_in_any_row_order():
    generator = np.random.default_rng(0)
    centre_K4 = 10 * np.eye(4)
    label_N = np.repeat(np.arange(4), [7, 5, 3, 1])
    x_ND = centre_K4[label_N] + 0.1 * generator.standard_normal((16, 4))
    ids = [f"d{i:02d}" for i in range(16)]
    found = cluster(ids, x_ND, clusters=4, seed=1, rounds=20)
    assert [set(c) for c in found.ids] == [
        {ids[i] for i in np.flatnonzero(label_N == k)} for k in range(4)
    ]
    for k, members in enumerate(found.ids):
        mine = x_ND[[ids.index(i) for i in members]].astype(np.float32)
        assert np.allclose(found.mean_KD[k], mine.mean(axis=0), atol=1e-5)
        if k < 3:
            assert np.allclose(found.std_KD[k], mine.std(axis=0, ddof=1), atol=1e-5)
    assert np.isnan(found.std_KD[3]).all()
    order = generator.permutation(16)
    again = cluster([ids[i] for i in order], x_ND[order], clusters=4, seed=1, rounds=20)
    assert again.ids == found.ids
    assert np.array_equal(again.mean_KD, found.mean_KD)


def test_the_number_of_clusters_must_fit():
    with pytest.raises(ValueError, match="give 1 to 2"):
        cluster(["a", "b"], np.eye(2), clusters=3)
