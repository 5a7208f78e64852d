"""Cost against quality: what choosing the rows cost, and what it brought."""

# The axis of costs is logarithmic and has a place for 0.

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gristmill.pipeline.compare.axes import Axis, axis
from gristmill.pipeline.compare.forest import kind, mark, short
from gristmill.pipeline.compare.outcomes import Outcome
from gristmill.pipeline.compare.standings import figure, passes, unit
from gristmill.pipeline.compare.words import words
from gristmill.pipeline.numerics.effects import Effect
from gristmill.pipeline.report.page import Html, tag
from gristmill.pipeline.report.plots import WIDTH, Drawing, line, text

_HEIGHT, _TOP, _BOTTOM, _LEFT, _RIGHT = 350, 14, 40, 46, 12
_FREE = _LEFT + 26  # where a cost of 0 stands
_APART = 7  # between marks of (nearly) equal cost
_LETTER, _BOLD, _LINE = 6.3, 7.4, 13  # about how wide and high letters are


@dataclass(frozen=True, kw_only=True)
class Point:
    """A method on the plot."""

    name: str
    cost: float
    effect: Effect
    sure: bool


def points(found: Mapping[str, Outcome], against: str, level: float) -> list[Point]:
    """The methods, the cheapest first."""
    made = [
        Point(
            name=o.arm.name,
            cost=passes(found, o.arm.cost),
            effect=o.against[against],
            sure=o.beats(against, level),
        )
        for o in found.values()
        if not o.arm.control
    ]
    return sorted(made, key=lambda p: (p.cost, -p.effect.value, p.name))


def front(made: Sequence[Point]) -> list[Point]:
    """The methods that none as cheap surpasses; random costs nothing and has no effect."""
    best, kept = 0.0, []
    for p in sorted(made, key=lambda p: (p.cost, -p.effect.value, p.name)):
        if p.effect.value > best:
            best = p.effect.value
            kept.append(p)
    return kept


def tradeoff(found: Mapping[str, Outcome], against: str, level: float) -> Drawing:
    """Costs across, effects with intervals up, and the front of what pays."""
    made = points(found, against, level)
    best = front(made)
    bottom = _HEIGHT - _BOTTOM
    up = axis([p.effect for p in made], bottom, _TOP)
    across = _Costs.of([p.cost for p in made])
    x = dict(zip((p.name for p in made), _apart([across.at(p.cost) for p in made]), strict=True))
    parts = [*_scales(across, up, unit(found)), _stairs(best, x, up)]
    taken: list[_Box] = []
    for p in made:
        y = up.at(p.effect.value)
        to = {1: "up", -1: "down"}.get(up.off(p.effect.value))
        how = kind(False, p.sure)
        ends = (up.at(p.effect.low), up.at(p.effect.high))
        parts += [
            line(x[p.name], ends[0], x[p.name], ends[1], f"whisker thin {how}"),
            mark(x[p.name], y, how, to=to),
        ]
        taken.append(_Box(x[p.name] - 4, y - 4, x[p.name] + 4, y + 4))
    for p in [*best, *(p for p in made if p not in best)]:
        named = _label(p, x[p.name], up.at(p.effect.value), taken, first=p in best)
        if named is not None:
            word, box = named
            taken.append(box)
            how = "name" if p in best else "label"
            parts.append(text(box.left, box.bottom - 3, word, "start", how))
    told = ", ".join(p.name for p in best) or words(against)
    label = (
        f"Cost of choosing rows and effect of {len(made)} methods; nothing cheaper beats: {told}"
    )
    return Drawing(height=_HEIGHT, parts=parts, label=label)


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


@dataclass(frozen=True, kw_only=True)
class _Costs:
    """The places of costs: 0 first, the rest by their logarithm."""

    low: float
    high: float

    @classmethod
    def of(cls, costs: Sequence[float]) -> "_Costs":
        paid = [math.log10(c) for c in costs if c > 0] or [0.0]
        return cls(low=min(paid) - 0.1, high=max(paid) + 0.1)

    def at(self, cost: float) -> float:
        if cost <= 0:
            return _FREE
        share = (math.log10(cost) - self.low) / (self.high - self.low)
        return _FREE + 44 + share * (WIDTH - _RIGHT - 8 - _FREE - 44)

    def ticks(self) -> Iterator[float]:
        """0, and round numbers: powers of ten, and where these are few what lies between."""
        yield 0.0
        wide = self.high - self.low
        step, between = math.ceil(wide / 6), (1,) if wide >= 2 else (1, 2, 5)
        for power in range(math.floor(self.low), math.ceil(self.high) + 1, step):
            for times in between:
                if self.low <= math.log10(times * 10.0**power) <= self.high:
                    yield times * 10.0**power


def _apart(places: Sequence[float]) -> list[float]:
    """Places in rising order, those that are nearly equal side by side about their middle."""
    made: list[float] = []
    group: list[float] = []
    for at, x in enumerate(places):
        group.append(x)
        if at + 1 == len(places) or places[at + 1] - group[0] >= _APART:
            middle, step = sum(group) / len(group), min(_APART, 56 / len(group))
            made += [middle + step * (i - (len(group) - 1) / 2) for i in range(len(group))]
            group = []
    return made


def _label(
    p: Point, x: float, y: float, taken: Sequence[_Box], *, first: bool
) -> tuple[str, _Box] | None:
    """A name where it is free of all else, beside its mark; None: nowhere, the table has it.

    The `first` are bold, and rather cut short than left out.
    """
    for word in (short(p.name), *([short(p.name, 12)] if first else [])):
        wide = (_BOLD if first else _LETTER) * len(word) + 2
        tries = [
            (x + 7, y - 7), (x - 7 - wide, y - 7), (x - wide / 2, y - 20), (x - wide / 2, y + 8),
            (x + 5, y - 18), (x + 5, y + 5), (x - 5 - wide, y - 18), (x - 5 - wide, y + 5),
        ]  # fmt: skip
        for left, top in tries:
            box = _Box(left, top, left + wide, top + _LINE)
            inside = box.left >= _LEFT + 2 and box.right <= WIDTH - 2
            inside &= box.top >= 1 and box.bottom <= _HEIGHT - _BOTTOM
            if inside and not any(box.meets(other) for other in taken):
                return word, box
    return None


def _stairs(best: Sequence[Point], x: Mapping[str, float], up: Axis) -> Html:
    """The front: from random, up at every method that pays for its cost."""
    moves = [f"M{_LEFT} {up.at(0):.1f}"]
    moves += [f"H{x[p.name]:.1f}V{up.at(p.effect.value):.1f}" for p in best]
    return tag("path", d="".join([*moves, f"H{WIDTH - _RIGHT}"]), class_="front")


def _scales(across: _Costs, up: Axis, named: str) -> list[Html]:
    bottom = _HEIGHT - _BOTTOM
    parts = []
    for value in up.ticks():
        y = up.at(value)
        parts.append(line(_LEFT, y, WIDTH - _RIGHT, y, "axis"))
        parts.append(text(_LEFT - 4, y + 4, f"{value:+g}" if value else "0", "end"))
    parts.append(line(_LEFT, up.at(0), WIDTH - _RIGHT, up.at(0), "cut"))
    for cost in across.ticks():
        word = figure(cost)
        parts.append(line(across.at(cost), bottom, across.at(cost), bottom + 4, "axis"))
        parts.append(text(across.at(cost), bottom + 16, word, "middle"))
    parts.append(text(WIDTH - _RIGHT, _HEIGHT - 6, named, "end"))
    return parts
