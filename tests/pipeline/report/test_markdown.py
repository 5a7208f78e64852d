"""Other people's words in card, licences and changes: rendered, they are text and nothing else."""

import re
from html.parser import HTMLParser

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from published import chats, frame, ledger, publish

from gristmill.pipeline.report.markdown import cell, line, table

EVIL = (
    "[click](https://evil.com/a)",
    "[x](javascript:alert(1))",
    "![pixel](https://evil.com/p.png)",
    "<https://evil.com>",
    "<img src=//evil.com/p onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</td></tr></table><a href=//evil.com>x</a>",
    "see https://evil.com/b and www.evil.com or evil.com",
    "ann.lee@evil.com",
    "mailto:ann.lee@evil.com",
    "[ref]: https://evil.com",
    "one | two | three",
    "back\\| slash \\\\| and `tick` ``` fence",
    "| `a | b` |",
    "two\n\n# lines\n\n---\n| a |",
    "*loud* _quiet_ ~~gone~~ $x$ &lt;b&gt; &#60;i&#62;",
    "\\",
    "`",
)
PLAIN = (
    "org/name",
    "CC-BY-4.0",
    "score_ifd 0.25",
    "a, b; (c) 12.5%",
    "Apache License, Version 2.0",
)


class Rendered(HTMLParser):
    """Elements of a rendered text, the cells of each row, and where links lead."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.links: list[str | None] = []
        self.rows: list[list[str]] = []
        self.words = ""
        self.feed(MarkdownIt("gfm-like", {"html": True, "linkify": True}).render(text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def shown(text: str) -> str:
    """A text as `cell` shows it: bars keep from backslashes, and words from opening brackets."""
    return re.sub("<([a-zA-Z/!?])", r"< \1", line(text).replace("\\|", "\\ |"))


@pytest.mark.parametrize("text", EVIL)
def test_a_cell_holds_text_and_nothing_else(text: str) -> None:
    seen = Rendered(table(("what", "end"), [(text, "end")]))
    assert set(seen.tags) == {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert [c.strip("\n") for c in seen.rows[-1]] == [shown(text), "end"]
    alone = Rendered(f"Words {cell(text)} words.")
    assert set(alone.tags) == {"p", "code"}


@settings(max_examples=400, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text(alphabet="`|\\ a.w/:@_[]()<>!*"))
def test_any_text_stays_in_its_cell(text: str) -> None:
    seen = Rendered(table(("what", "end"), [(text, "end")]))
    assert set(seen.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert [c.strip("\n") for c in seen.rows[-1]] == [shown(text), "end"]


@pytest.mark.parametrize("text", PLAIN)
def test_plain_words_are_left_as_they_are(text: str) -> None:
    assert cell(text) == text


def test_nothing_in_a_publication_is_a_link_but_its_own(tmp_path, store) -> None:
    rows = chats(90)
    for i, row in enumerate(rows):
        for at, field in enumerate(("source", "license", "revision")):
            row[field] = EVIL[(i + at) % len(EVIL)]
    reasons = pl.int_range(pl.len()) % len(EVIL)
    book = ledger(frame(rows), 30).with_columns(
        reason=pl.when(pl.col("verdict") != "kept").then(
            reasons.replace_strict(dict(enumerate(EVIL)), return_dtype=pl.String)
        )
    )
    told = {
        "selection": {"scorers": ["toy"], "rule": EVIL[0], "papers": EVIL, "where": list(EVIL)},
        "models": [{"role": EVIL[1], "id": EVIL[2]}],
        "tokenizer": {"id": EVIL[7]},
        "contamination": {"sets": list(EVIL), "how": EVIL[8]},
        "languages": [EVIL[14]],
        "tags": list(EVIL),
    }
    one = publish(tmp_path, store, rows=rows, book=book, **told)
    two = publish(tmp_path, store, rows=rows, book=ledger(frame(rows), 60), **told)
    for path in (one / "README.md", one / "LICENSES.md", two / "CHANGELOG.md"):
        text = path.read_text("utf-8")
        card = path.name == "README.md"
        seen = Rendered(text.split("\n---\n", 1)[1] if card else text)
        assert set(seen.links) == ({"LICENSES.md"} if card else set())
        assert not set(seen.tags) & {"img", "script", "i", "b", "em", "del"}
        assert "evil.com" in seen.words
        wide = [len(r) for r in seen.rows]
        assert min(wide) > 1
