"""Tables of a comparison's page: rows that are named, and cells that say which way they point."""

from collections.abc import Iterable, Sequence

from gristmill.pipeline.numerics.effects import Effect
from gristmill.pipeline.report.page import Child, Html, breakable, join, tag


def grid(
    head: Sequence[str], rows: Iterable[Sequence[Child | None]], *, wrapped: bool = False
) -> Html:
    """A table whose first column names the row and stays in sight; `wrapped`: the last is words."""
    top = tag("tr", *(tag("th", breakable(h), scope="col") for h in head))
    body = []
    for name, *values in rows:
        cells = [_cell(v, wrapped and place == len(values) - 1) for place, v in enumerate(values)]
        label = breakable(name) if isinstance(name, str) else name or ""
        body.append(tag("tr", tag("th", label, scope="row"), *cells))
    made = tag("table", tag("thead", top), tag("tbody", *body), class_="grid")
    return tag("div", made, class_="scroll", tabindex=0)


def compared(e: Effect) -> Html:
    """An effect over its interval, and which way it points if that is sure."""
    sign, kind = ("▲ ", "better") if e.low > 0 else ("▼ ", "worse") if e.high < 0 else ("", "")
    figures = [tag("div", f"{sign}{e.value:+.4f}"), tag("div", f"[{e.low:+.4f}, {e.high:+.4f}]")]
    return tag("div", *figures, class_=kind)


def fold(title: str, inner: Html, *, opened: bool = False, heading: bool = False) -> Html:
    """What is seen when asked for."""
    head = tag("summary", tag("h3", title) if heading else title)
    text = join([head, inner]).text
    return Html(text=f"<details{' open' if opened else ''}>{text}</details>")


def _cell(value: Child | None, words: bool) -> Html:
    made = "–" if value is None else value
    return tag("td", made, class_="wrap") if words else tag("td", made)
