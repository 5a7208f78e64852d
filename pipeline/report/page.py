"""The page: HTML from escaped pieces, no script and nothing from elsewhere."""

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gristmill.pipeline.report.style import STYLE

# What neither HTML nor XML may hold; lone surrogates go with the encoding.
_UNFIT = re.compile(r"[^\n\t -\uFFFD\U00010000-\U0010FFFF]")
# What turns a line around, or hides words in letters that nobody sees: shown by their number.
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")


@dataclass(frozen=True, kw_only=True)
class Html:
    """Text that is HTML already; everything else is escaped."""

    text: str


Child = Html | str | int | float


def tag(name: str, /, *children: Child, **attributes: str | float) -> Html:
    """An element. `class_` is written `class`, underscores in names as dashes."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
    )
    return Html(text=f"<{name}{written}>{join(children).text}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Pieces one after the other, each escaped unless it is HTML."""
    texts = (c.text if isinstance(c, Html) else html.escape(clean(str(c))) for c in children)
    return Html(text="".join(texts))


def clean(text: str) -> str:
    """Text without what HTML may not hold, and without letters that change how others are read."""
    text = _TURNING.sub(lambda found: f"‹U+{ord(found.group()):04X}›", text)
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8", "replace").decode()


def breakable(name: str) -> Html:
    """A name that may be broken behind its underscores, and wherever that is not enough."""
    first, *rest = name.split("_")
    return join([first, *(piece for part in rest for piece in ("_", Html(text="<wbr>"), part))])


def number(value: float | None, digits: int = 3) -> str:
    """A figure as people read it: whole numbers with separators, others to a few digits."""
    if value is None or math.isnan(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def table(head: Sequence[str], rows: Iterable[Sequence[Child | None]]) -> Html:
    """A table; columns whose cells are all numbers stand to the right."""
    lines = [list(r) for r in rows]
    numeric = [bool(lines) and all(_is_figure(line[i]) for line in lines) for i in range(len(head))]

    def cell(name: str, value: Child | None, right: bool) -> Html:
        shown = number(value) if isinstance(value, (int, float)) else value
        made = breakable(shown) if isinstance(shown, str) else "–" if shown is None else shown
        return tag(name, made, class_="n") if right else tag(name, made)

    top = tag("tr", *(cell("th", h, n) for h, n in zip(head, numeric, strict=True)))
    body = [
        tag("tr", *(cell("td", v, n) for v, n in zip(line, numeric, strict=True))) for line in lines
    ]
    return tag("div", tag("table", tag("thead", top), tag("tbody", *body)), class_="scroll")


def _is_figure(value: Child | None) -> bool:
    return not isinstance(value, (str, Html)) or (isinstance(value, str) and value.endswith("%"))


def numbers(head: Sequence[str], rows: Sequence[Sequence[Child | None]]) -> Html:
    """The table beside a plot: open if it is short."""
    inner = join([tag("summary", "The numbers"), table(head, rows)])
    opened = " open" if len(rows) <= 8 else ""
    return Html(text=f"<details{opened}>{inner.text}</details>")


def section(ident: str, title: str, note: str, *children: Child) -> Html:
    """A part of the page, which the navigation names."""
    head = tag("h2", title)
    return tag("section", head, tag("p", note, class_="note"), *children, id=ident)


def figure(caption: str, *children: Child) -> Html:
    """A plot under its caption."""
    return tag("figure", tag("figcaption", caption), *children)


def document(
    title: str, header: Html, sections: Sequence[tuple[str, str, Html]], end: str
) -> bytes:
    """The whole page; `sections` are (id, name in the navigation, HTML)."""
    links = [tag("a", name, href=f"#{ident}") for ident, name, _ in sections]
    meta = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
    )
    head = f"<head>{meta}{tag('title', title).text}<style>{STYLE}</style></head>"
    body = join(
        [
            tag("header", tag("div", header)),
            tag("nav", tag("div", *links)),
            tag("main", *(s for _, _, s in sections), tag("footer", end)),
        ]
    )
    return f'<!doctype html><html lang="en">{head}<body>{body.text}</body></html>\n'.encode()
