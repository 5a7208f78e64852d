"""Maps as inline SVG: a dot a row, coloured by the group it is of, what was taken ringed on top."""

# N = points

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gristmill.pipeline.report.page import Html, figure, tag
from gristmill.pipeline.report.plots import WIDTH, Drawing, Floats, key, line

COLOURS = 7  # groups with a colour of their own, `--s0` to `--s6` of the page; the rest is one more
_HEIGHT, _EDGE = 300, 8


@dataclass(frozen=True, kw_only=True)
class Group:
    """The points of one colour.

    Attributes:
        name: for the legend.
        left_N2: points of rows that were left out.
        taken_N2: points of rows that were taken.
    """

    name: str
    left_N2: Floats
    taken_N2: Floats

    @property
    def label(self) -> str:
        """Name and numbers."""
        drawn = len(self.left_N2) + len(self.taken_N2)
        return f"{self.name}: {len(self.taken_N2):,} of {drawn:,}"


def scatter(
    caption: str, groups: Sequence[Group], *, edges: Sequence[tuple[float, float]] = ()
) -> Html:
    """A map of all groups; one group alone has the colours of pool and taken.

    `edges` are a low and a high value across and up, drawn as dashed lines.
    """
    alone = len(groups) == 1
    all_N2 = np.concatenate([p for g in groups for p in (g.left_N2, g.taken_N2)])
    low, high = np.quantile(all_N2, [0.002, 0.998], axis=0)
    span = np.where(high > low, high - low, 1.0)
    size = np.array([WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE])

    def dots(points_N2: Floats, kind: str, width: float) -> Html:
        at = np.clip((points_N2 - low) / span, 0, 1) * size
        moves = "".join(f"M{_EDGE + x:.1f} {_HEIGHT - _EDGE - y:.1f}h0" for x, y in at)
        return tag("path", d=moves, class_=f"dots {kind}", stroke_width=width)

    left = [dots(g.left_N2, "p" if alone else f"faint s{i}", 3) for i, g in enumerate(groups)]
    rings = [] if alone else [dots(g.taken_N2, "ring", 5.6) for g in groups]
    taken = [dots(g.taken_N2, "t" if alone else f"s{i}", 3.6) for i, g in enumerate(groups)]
    parts = [*left, *rings, *taken]
    for axis, ends in enumerate(edges):
        for value in ends:
            at = _EDGE + float(np.clip((value - low[axis]) / span[axis], 0, 1)) * size[axis]
            if axis == 0:
                parts.append(line(at, _EDGE, at, _HEIGHT - _EDGE, "cut"))
            else:
                parts.append(line(_EDGE, _HEIGHT - at, WIDTH - _EDGE, _HEIGHT - at, "cut"))
    drawn = Drawing(height=_HEIGHT, parts=parts, label=f"{caption}: pool and taken")
    return figure(caption, drawn.inline, key("pt") if alone else _legend(groups))


def _legend(groups: Sequence[Group]) -> Html:
    names = [tag("span", tag("i", class_=f"s{i}"), g.label) for i, g in enumerate(groups)]
    marks = [tag("span", tag("i", class_=kind), word) for kind, word in _MARKS]
    return tag("div", *marks, *names, class_="key")


_MARKS = (("ring", "taken"), ("faint", "left out"))
