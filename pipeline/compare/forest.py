"""Forest plots: effects with their intervals, a line an arm, and the line of no effect."""

from collections.abc import Sequence

from gristmill.pipeline.compare.axes import Axis, axis
from gristmill.pipeline.compare.outcomes import Outcome
from gristmill.pipeline.compare.words import shown, words
from gristmill.pipeline.numerics.effects import Effect
from gristmill.pipeline.report.page import Html, tag
from gristmill.pipeline.report.plots import LEFT, WIDTH, Drawing, line, text

LONGEST = 24  # characters of a name that stands beside its figures
_ROW, _TOP, _BOTTOM = 34, 24, 18
_NEAR = {"method", "canary", "balanced_random"}  # the axis is made for these


def forest(ranked: Sequence[Outcome], against: str, level: float) -> Drawing:
    """One line an arm, in the order given; controls are diamonds, and what is far off an arrow."""
    effects = [o.against[against] for o in ranked]
    near = [o.against[against] for o in ranked if o.arm.kind in _NEAR]
    across = axis(near or effects, LEFT, WIDTH - LEFT)
    bottom = _TOP + _ROW * len(ranked)
    parts = [*_scale(across, bottom), line(across.at(0), _TOP - 6, across.at(0), bottom, "cut")]
    for place, (o, e) in enumerate(zip(ranked, effects, strict=True)):
        y = _TOP + _ROW * place
        sure = o.beats(against, level)
        parts += [
            text(LEFT, y + 10, short(_named(o)), "start", "label"),
            text(WIDTH - LEFT, y + 10, shown(e), "end", "figure"),
            *interval(across, e, y + 21, kind(o.arm.control, sure)),
        ]
    told = "; ".join(f"{_named(o)} {shown(e)}" for o, e in zip(ranked[:3], effects, strict=False))
    label = f"Effects against {words(against)} with intervals, {len(ranked)} arms, best: {told}"
    return Drawing(height=bottom + _BOTTOM, parts=parts, label=label)


def _named(o: Outcome) -> str:
    return words(o.arm.kind) if o.arm.control else o.arm.name


def kind(control: bool, sure: bool) -> str:
    """How an arm is drawn: colour and shape say the same."""
    return "control" if control else "sure" if sure else "unsure"


def interval(across: Axis, e: Effect, y: float, how: str) -> list[Html]:
    """An effect on a horizontal axis: its interval, and its mark; an arrow where it is off."""
    whisker = line(across.at(e.low), y, across.at(e.high), y, f"whisker {how}")
    to = {-1: "left", 1: "right"}.get(across.off(e.value))
    return [whisker, mark(across.at(e.value), y, how, to=to)]


def mark(x: float, y: float, how: str, *, to: str | None = None) -> Html:
    """A filled dot, a ring, or the diamond of a control; `to` is where an arrow points instead."""
    place = f"translate({x:.1f} {y:.1f})"
    if to is not None:
        return tag("polygon", points=_ARROWS[to], transform=place, class_=how)
    if how == "control":
        return tag("polygon", points="0,-5 5,0 0,5 -5,0", transform=place, class_=how)
    return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4, class_=how)


_ARROWS = {
    "right": "6,0 -4,-5 -4,5",
    "left": "-6,0 4,-5 4,5",
    "up": "0,-6 -5,4 5,4",
    "down": "0,6 -5,-4 5,-4",
}


def short(name: str, longest: int = LONGEST) -> str:
    """A name that fits; tables have it in full."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def legend(against: str) -> Html:
    """What the marks mean."""
    said = (
        ("sure", f"beats {words(against)} after Holm"),
        ("unsure", "is not shown to"),
        ("control", "control"),
    )
    spans = [tag("span", sample(how), word) for how, word in said]
    return tag("div", *spans, class_="key")


def sample(how: str) -> Html:
    """A mark by itself, for a legend."""
    return tag("svg", mark(6, 6, how), viewBox="0 0 12 12", class_="sample", aria_hidden="true")


def _scale(across: Axis, bottom: float) -> list[Html]:
    """Ticks above and below, as a plot may be longer than a screen."""
    parts = []
    for value in across.ticks():
        x, word = across.at(value), f"{value:+g}" if value else "0"
        parts += [
            line(x, _TOP - 8, x, bottom, "axis"),
            text(x, _TOP - 12, word, "middle"),
            text(x, bottom + 13, word, "middle"),
        ]
    return parts
