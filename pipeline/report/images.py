"""Plots as images of their own, for where the report is only linked to: SVG without anything else.

Everything that can be read off a ledger is drawn as it is in the report.
"""

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from gristmill.pipeline.report import plots, tables
from gristmill.pipeline.report.page import Html, tag
from gristmill.pipeline.report.plots import WIDTH, Drawing
from gristmill.pipeline.report.style import MARKS, PALETTE

SHOWN = 8  # scores, and sources of a mixture
_SVG = "http://www.w3.org/2000/svg"
_KEY, _CAPTION, _GAP = 26, 22, 16


def images(ledger: pl.DataFrame) -> dict[str, bytes]:
    """The images of a published ledger, by what they show; none of what it does not hold."""
    made: Mapping[str, Callable[[pl.DataFrame], list[Drawing]]] = {
        "scores": _scores,
        "mixture": _mixture,
    }
    drawn = {name: make(ledger) for name, make in made.items()}
    return {name: _image(drawings) for name, drawings in drawn.items() if drawings}


def _scores(ledger: pl.DataFrame) -> list[Drawing]:
    """The distribution of each score in the pool and among the rows taken, with the lowest one."""
    kept = ledger.filter(tables.KEPT)
    found = []
    for column in tables.score_columns(ledger)[:SHOWN]:
        values = (part[column].drop_nulls().cast(pl.Float64) for part in (ledger, kept))
        pool, taken = (v.filter(v.is_finite()).to_numpy() for v in values)
        drawn = plots.bins(pool, taken)
        if drawn is not None:
            mark = float(taken.min()) if taken.size else None
            found.append(plots.distribution(column, *drawn, mark=mark))
    return found


def _mixture(ledger: pl.DataFrame) -> list[Drawing]:
    """The share of each source in the pool and among the rows taken."""
    top = tables.mixture(ledger).head(SHOWN)
    names = [name or "none stated" for name in top["source"].to_list()]
    values = [top["share_before"].to_list(), top["share_after"].to_list()]
    return [plots.rows_of_bars("Share by source: pool and taken", names, values, share=True)]


def _image(drawings: Sequence[Drawing]) -> bytes:
    """Drawings one below the other, each under its caption."""
    parts, top = _key(), float(_KEY)
    for drawing in drawings:
        parts += [
            plots.text(plots.LEFT, top + _CAPTION - 7, drawing.label, "start"),
            tag(
                "svg",
                *drawing.parts,
                y=f"{top + _CAPTION:.0f}",
                width=WIDTH,
                height=f"{drawing.height:.0f}",
                viewBox=drawing.box,
            ),
        ]
        top += _CAPTION + drawing.height + _GAP
    box = f"0 0 {WIDTH} {top:.0f}"
    paper = tag("rect", width="100%", height="100%", style="fill:var(--card)")
    style = tag("style", Html(text=f"{PALETTE}{MARKS}"))
    made = tag(
        "svg", style, paper, *parts, xmlns=_SVG, width=WIDTH, height=f"{top:.0f}", viewBox=box
    )
    return made.text.encode()


def _key() -> list[Html]:
    """What the two colours mean."""
    parts = []
    for i, kind in enumerate(("pool", "taken")):
        left = plots.LEFT + 60 * i
        parts.append(tag("rect", x=left, y=9, width=10, height=10, rx=3, class_=kind))
        parts.append(plots.text(left + 15, 18, kind, "start"))
    return parts
