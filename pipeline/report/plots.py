"""Plots as inline SVG: 360 units wide, so that their words can be read on a phone."""

# N = points, B = bins

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.report.page import (
    Child,
    Html,
    breakable,
    figure,
    join,
    number,
    numbers,
    tag,
)

WIDTH = 360
LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 14, 22
BINS = 24
_KEYS = {"p": "pool", "t": "taken", "c": "lowest taken"}

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a plot shows, before it is put on a page or into an image of its own."""

    height: float
    parts: Sequence[Html]
    label: str
    width: float = WIDTH

    @property
    def inline(self) -> Html:
        """As a piece of the page."""
        return tag("svg", *self.parts, viewBox=self.box, role="img", aria_label=self.label)

    @property
    def box(self) -> str:
        """Its own units: all drawings of a kind are equally wide."""
        return f"0 0 {self.width:.0f} {self.height:.0f}"


def histogram(
    caption: str,
    pool: Floats,
    taken: Floats,
    *,
    log: bool = False,
    mark: float | None = None,
    unit: str = "value",
) -> Html:
    """Two distributions on one axis, each bar a share of its own set; `mark` draws the cut."""
    drawn = bins(pool, taken, log=log)
    if drawn is None:
        return figure(caption, tag("p", "No value.", class_="note"))
    edges_B, share_2B = drawn
    spans = list(zip(edges_B[:-1], edges_B[1:], *share_2B, strict=True))
    rows = [(f"{number(a)} to {number(b)}", f"{p:.1%}", f"{t:.1%}") for a, b, p, t in spans]
    return figure(
        caption,
        distribution(caption, edges_B, share_2B, log=log, mark=mark).inline,
        key("ptc" if mark is not None else "pt"),
        numbers((unit, "pool", "taken"), rows),
    )


def bins(pool: Floats, taken: Floats, *, log: bool = False) -> tuple[Floats, Floats] | None:
    """Edges of equal bins, and the share each holds of pool and of taken; None: no finite value."""
    pool, taken = pool[np.isfinite(pool)], taken[np.isfinite(taken)]
    if pool.size == 0:
        return None
    edges_B = _edges(pool, log=log)
    return edges_B, np.array([_shares(v, edges_B) for v in (pool, taken)])


def distribution(
    caption: str,
    edges_B: Floats,
    share_2B: Floats,
    *,
    log: bool = False,
    mark: float | None = None,
    series: str = "pool and taken",
) -> Drawing:
    """The bars of `bins`; `series` says what the two are."""
    height = 170
    base, span = height - _BOTTOM, height - _BOTTOM - _TOP
    top = max(float(share_2B.max()), 1e-9)
    step = (WIDTH - LEFT - _RIGHT) / (len(edges_B) - 1)
    bars = []
    for kind, share_B, inset in (("pool", share_2B[0], 0.04), ("taken", share_2B[1], 0.28)):
        for i, share in enumerate(share_B):
            if share > 0:
                bar = span * share / top
                bars.append(
                    _rect(LEFT + step * (i + inset), base - bar, step * (1 - 2 * inset), bar, kind)
                )
    parts = [*bars, line(LEFT, base, WIDTH - _RIGHT, base, "axis")]
    for i in (0, (len(edges_B) - 1) // 2, len(edges_B) - 1):
        anchor = "start" if i == 0 else "end" if i == len(edges_B) - 1 else "middle"
        parts.append(text(LEFT + step * i, height - 6, number(float(edges_B[i])), anchor))
    if mark is not None:
        parts += _mark(mark, edges_B, step, base, log=log)
    return Drawing(height=height, parts=parts, label=f"{caption}: {series}")


def _edges(values: Floats, *, log: bool) -> Floats:
    """Equal bins between the 0.5 % and 99.5 % quantiles; what lies outside counts at the ends."""
    low, high = np.quantile(values, [0.005, 0.995])
    if log:
        low, high = max(float(low), 1.0), max(float(high), 2.0)
        return np.geomspace(low, high if high > low else low * 2, BINS + 1)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, BINS + 1)


def _shares(values: Floats, edges_B: Floats) -> Floats:
    counts, _ = np.histogram(np.clip(values, edges_B[0], edges_B[-1]), bins=edges_B)
    return counts / max(1, values.size)


def _mark(mark: float, edges_B: Floats, step: float, base: float, *, log: bool) -> list[Html]:
    at = np.log(edges_B) if log else edges_B
    value = np.log(max(mark, 1e-12)) if log else mark
    part = float(np.clip((value - at[0]) / (at[-1] - at[0]), 0, 1))
    x = LEFT + step * (len(edges_B) - 1) * part
    anchor = "end" if part > 0.5 else "start"
    word = text(x + (-4 if part > 0.5 else 4), _TOP - 3, number(mark), anchor, "cutword")
    return [line(x, _TOP - 8, x, base, "cut"), word]


def bars(
    caption: str,
    names: Sequence[str],
    values: Sequence[Sequence[float]],
    head: Sequence[str],
    *,
    share: bool = False,
    with_numbers: bool = True,
) -> Html:
    """Horizontal bars, one series of the pool, or pool and taken, with their table if asked."""
    shown = (lambda v: f"{v:.1%}") if share else float
    rows: list[list[Child]] = [[n, *(shown(s[i]) for s in values)] for i, n in enumerate(names)]
    keys = [key("pt")] if len(values) == 2 else []
    tables = [numbers(head, rows)] if with_numbers else []
    return figure(caption, rows_of_bars(caption, names, values, share=share).inline, *keys, *tables)


def rows_of_bars(
    caption: str, names: Sequence[str], values: Sequence[Sequence[float]], *, share: bool = False
) -> Drawing:
    """The bars of `bars`: under each name one of every series."""
    kinds = ("pool", "taken")[: len(values)]
    top = max((v for series in values for v in series), default=0) or 1
    thick = 12 if len(values) == 1 else 8
    row = 17 + thick * len(values) + 6
    parts = []
    for i, name in enumerate(names):
        y = 4 + row * i
        words = [f"{s[i]:.1%}" if share else number(s[i]) for s in values]
        parts += [
            text(LEFT, y + 11, _short(name), "start"),
            text(WIDTH - _RIGHT, y + 11, " → ".join(words), "end"),
        ]
        for j, (kind, series) in enumerate(zip(kinds, values, strict=True)):
            width = max((WIDTH - LEFT - _RIGHT) * series[i] / top, 1 if series[i] else 0)
            parts.append(_rect(LEFT, y + 16 + thick * j, width, thick - 1, kind))
    return Drawing(height=row * len(names) + 6, parts=parts, label=caption)


def heatmap(names: Sequence[str], values_CC: Floats, *, signed: bool) -> Html:
    """A square table whose cells are as dark as their numbers are large.

    Columns are headed by the number of their row, so that ten of them are narrow.
    """
    heads = (tag("th", i, title=name) for i, name in enumerate(names, start=1))
    head = tag("tr", tag("th", ""), *heads)
    lines = []
    for at, (name, values_C) in enumerate(zip(names, values_CC, strict=True), start=1):
        cells = [tag("th", f"{at} ", breakable(name), scope="row")]
        for value in values_C:
            depth = 0 if np.isnan(value) else round(60 * min(1.0, abs(float(value))))
            hue = "--cut" if signed and value < 0 else "--taken"
            style = f"background:color-mix(in srgb,var({hue}) {depth}%,transparent)"
            cells.append(tag("td", "–" if np.isnan(value) else f"{value:.2f}", style=style))
        lines.append(tag("tr", *cells))
    made = tag("table", tag("thead", head), tag("tbody", *lines), class_="heat")
    return tag("div", made, class_="scroll")


def _rect(x: float, y: float, width: float, height: float, kind: str) -> Html:
    size = {"width": f"{width:.1f}", "height": f"{height:.1f}"}
    return tag("rect", x=f"{x:.1f}", y=f"{y:.1f}", **size, rx=1.5, class_=kind)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    """A line of a class of the page."""
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return tag("line", **ends, class_=kind)


def circle(x: float, y: float, radius: float, kind: str) -> Html:
    """A dot of one class."""
    return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius, class_=kind)


def text(x: float, y: float, words: str, anchor: str, kind: str = "word") -> Html:
    """Words that start, end or have their middle at a place."""
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=kind)


def _short(name: str, longest: int = 34) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def key(kinds: str) -> Html:
    """What the colours mean: of `p`ool, `t`aken, and the `c`ut."""
    return tag("div", *(tag("span", tag("i", class_=k), _KEYS[k]) for k in kinds), class_="key")


def note(words: str) -> Html:
    """A line below a plot."""
    return join([tag("p", words, class_="note")])
