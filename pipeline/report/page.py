"""The page: HTML from escaped pieces, one style sheet, no script and nothing from elsewhere."""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STYLE = """
:root{color-scheme:light dark;--paper:#f6f7f6;--card:#fff;--ink:#1c2421;--soft:#5c6863;
--line:#dfe4e1;--pool:#aab6b1;--taken:#0b7a6b;--cut:#c2410c;--wash:#e3f2ef;--warn:#fdeee4}
@media(prefers-color-scheme:dark){:root{--paper:#121615;--card:#1a201e;--ink:#e6ebe9;--soft:#9aa8a2;
--line:#2c3532;--pool:#56635e;--taken:#3ecab4;--cut:#fb923c;--wash:#173a34;--warn:#3d2a1c}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,sans-serif;-webkit-text-size-adjust:100%}
main,header>div,nav>div{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding:36px 0 20px}
header p{margin:.2em 0;color:var(--soft)}
h1{font-size:1.9rem;line-height:1.2;margin:0;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .3em;letter-spacing:-.01em}
h3{font-size:.95rem;margin:1.2em 0 .3em}
nav{position:sticky;top:0;z-index:1;background:var(--paper);border-bottom:1px solid var(--line)}
nav>div{display:flex;gap:18px;overflow-x:auto;white-space:nowrap;padding:10px 20px;font-size:.88rem}
nav a{color:var(--soft);text-decoration:none}nav a:hover{color:var(--taken)}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px;
margin:18px 0;scroll-margin-top:56px}
.note{color:var(--soft);margin:.2em 0 1em;max-width:72ch}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:18px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px}
.tile b{display:block;font-size:1.6rem;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.86rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:22px;
align-items:start}
figure{margin:0;min-width:0}figcaption{font-size:.9rem;font-weight:600;margin-bottom:6px;
overflow-wrap:anywhere}
svg{display:block;width:100%;max-width:480px;height:auto}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}
.pool{fill:var(--pool)}.taken{fill:var(--taken)}.axis{stroke:var(--line)}
.cut{stroke:var(--cut);stroke-dasharray:4 3}svg text.cutword{fill:var(--cut);stroke:none}
.dots{fill:none;stroke-linecap:round}.dots.p{stroke:var(--pool)}.dots.t{stroke:var(--taken)}
.key{display:flex;gap:14px;font-size:.82rem;color:var(--soft);flex-wrap:wrap;margin:4px 0}
.key i{display:inline-block;width:.75em;height:.75em;border-radius:3px;margin-right:.4em}
.key .p{background:var(--pool)}.key .t{background:var(--taken)}.key .c{background:var(--cut)}
.scroll{overflow-x:auto;margin:.6em 0}
table{border-collapse:collapse;font-size:.86rem;min-width:100%}
th,td{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td{overflow-wrap:break-word;max-width:32em}
td:first-child{min-width:8em}
td.heat{text-align:center;padding:8px;font-variant-numeric:tabular-nums}
details{margin:.5em 0}summary{cursor:pointer;color:var(--soft);font-size:.86rem}
.rows{display:grid;align-items:start;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:14px}
.row{border:1px solid var(--line);border-radius:10px;padding:12px 14px;min-width:0}
.row.in{border-left:4px solid var(--taken)}.row.out{border-left:4px solid var(--pool)}
.row header{padding:0;display:flex;flex-wrap:wrap;gap:4px 10px;font-size:.8rem;color:var(--soft)}
.row header b{color:var(--ink)}
.turn{margin-top:8px;font-size:.88rem;white-space:pre-wrap;overflow-wrap:anywhere}
.turn b{display:block;font-size:.72rem;letter-spacing:.04em;color:var(--soft)}
.render{font:12.5px/1.7 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;
overflow-wrap:anywhere;border:1px solid var(--line);border-radius:10px;padding:12px;margin:8px 0}
.render span{color:var(--soft)}
.render mark{background:var(--wash);color:var(--ink);border-radius:3px;
box-shadow:0 1px 0 var(--taken)}
.alarm{background:var(--warn);border-radius:8px;padding:8px 12px;margin:.6em 0}
code{font:.85em ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
footer{color:var(--soft);font-size:.84rem;padding:10px 0 40px}
@media(max-width:480px){main,header>div{padding:0 12px}section{padding:16px 14px}
h1{font-size:1.5rem}.tiles{grid-template-columns:1fr 1fr}}
@media print{nav{display:none}section{break-inside:avoid}}
"""


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
    """Text without the control characters and lone surrogates that HTML may not hold."""
    kept = (c if c in "\n\t" or c >= " " else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "".join(kept).encode("utf-8", "replace").decode("utf-8")


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
        made = "–" if shown is None else shown
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
