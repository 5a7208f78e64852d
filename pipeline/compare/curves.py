"""Budget curves: a small plot a method, on one scale, over random's band of draws."""

# B = budgets

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gristmill.pipeline.compare.axes import Axis, ends
from gristmill.pipeline.compare.forest import kind, mark, short
from gristmill.pipeline.compare.outcomes import Outcome
from gristmill.pipeline.compare.words import shown
from gristmill.pipeline.report.page import Html, tag
from gristmill.pipeline.report.plots import Drawing, line, text

WIDTH = 172
_HEIGHT, _TOP, _BOTTOM, _LEFT, _RIGHT = 132, 20, 18, 40, 10
_LETTER = 6.3  # about how wide one is


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What all small plots share.

    Attributes:
        rows: by budget, of random.
        up: the axis of values.
        band: of random by budget: its lowest draw, its mean, its highest draw.
    """

    rows: Mapping[str, float]
    up: Axis
    band: Mapping[str, tuple[float, float, float]]

    def at(self, budget: str) -> float:
        """Where a budget stands, by the logarithm of its rows."""
        places = [math.log(max(r, 1.0)) for r in self.rows.values()]
        low, high = min(places), max(places)
        share = (math.log(max(self.rows[budget], 1.0)) - low) / ((high - low) or 1.0)
        return _LEFT + 12 + share * (WIDTH - _LEFT - _RIGHT - 24)


def scale(outcomes: Mapping[str, Mapping[str, Outcome]], against: str) -> Scale:
    """The scale of one evaluation; `outcomes` are its arms by budget."""
    rows = {b: found[against].rows for b, found in outcomes.items()}
    rows = dict(sorted(rows.items(), key=lambda item: item[1]))
    band = {b: draws(outcomes[b][against]) for b in rows}
    effects = [
        o.against[against] for found in outcomes.values() for o in found.values()
        if not o.arm.control
    ]  # fmt: skip
    low, high = ends(effects)
    lowest = min(min(least, mean + low) for least, mean, _ in band.values())
    highest = max(max(most, mean + high) for _, mean, most in band.values())
    return Scale(
        rows=rows, band=band, up=Axis(low=lowest, high=highest, start=_HEIGHT - _BOTTOM, end=_TOP)
    )


def draws(control: Outcome) -> tuple[float, float, float]:
    """The lowest draw of a control, the mean and the highest draw."""
    of_draws = np.average(control.value_DSN.mean(1), axis=1, weights=control.weight_N)
    return float(of_draws.min()), control.value, float(of_draws.max())


def curve(name: str, outcomes: Mapping[str, Outcome], drawn: Scale, against: str) -> Drawing:
    """A method's value at every budget, with the interval of its effect about it.

    Args:
        name: of the method.
        outcomes: of the method by budget.
        drawn: the scale of all methods.
        against: the control whose draws are the band.
    """
    up, at = drawn.up, [b for b in drawn.rows if b in outcomes]
    parts = [*_scales(drawn), *_band(drawn)]
    places = [(drawn.at(b), up.at(outcomes[b].value)) for b in at]
    moves = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts.append(tag("path", d=f"M{moves}", class_="curve"))
    for budget, (x, y) in zip(at, places, strict=True):
        o = outcomes[budget]
        e, mean = o.against[against], drawn.band[budget][1]
        how = kind(False, o.beats(against, e.level))
        to = {1: "up", -1: "down"}.get(up.off(o.value))
        parts += [
            line(x, up.at(mean + e.low), x, up.at(mean + e.high), f"whisker {how}"),
            mark(x, y, how, to=to),
        ]
    parts.append(text(2, 12, short(name), "start", "name"))
    told = ", ".join(f"{b}: {shown(outcomes[b].against[against])}" for b in at)
    return Drawing(width=WIDTH, height=_HEIGHT, parts=parts, label=f"{name} by budget: {told}")


def _band(drawn: Scale) -> list[Html]:
    """Random's draws from the lowest to the highest, and their mean."""
    up = drawn.up
    low, mean, high = (
        [(drawn.at(b), up.at(drawn.band[b][i])) for b in drawn.rows] for i in range(3)
    )
    edge = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*low, *reversed(high)])
    middle = "L".join(f"{x:.1f} {y:.1f}" for x, y in mean)
    return [tag("polygon", points=edge, class_="band"), tag("path", d=f"M{middle}", class_="mean")]


def _scales(drawn: Scale) -> list[Html]:
    parts = []
    for value in drawn.up.ticks(4):
        y = drawn.up.at(value)
        parts.append(line(_LEFT, y, WIDTH - _RIGHT, y, "axis"))
        parts.append(text(_LEFT - 3, y + 4, f"{value:g}", "end"))
    free = 0.0
    for budget in drawn.rows:  # words that would run into one another are left to the table
        half = _LETTER * len(budget) / 2
        x = min(max(drawn.at(budget), half), WIDTH - half)
        if x - half >= free:
            parts.append(text(x, _HEIGHT - 4, budget, "middle"))
            free = x + half + _LETTER
    return parts


def best(outcomes: Mapping[str, Mapping[str, Outcome]], against: str) -> list[str]:
    """The methods by their mean effect over the budgets, the best first."""
    effects: dict[str, list[float]] = {}
    for found in outcomes.values():
        for name, o in found.items():
            if not o.arm.control:
                effects.setdefault(name, []).append(o.against[against].value)
    return sorted(effects, key=lambda n: (-_mean(effects[n]), n))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
