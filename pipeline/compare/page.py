"""The leaderboard as a page: who beat random, by how much, and how surely."""

from collections.abc import Mapping, Sequence

import polars as pl

from gristmill.pipeline.compare.comparison import Leaderboard, Outcome
from gristmill.pipeline.compare.gate import Gate, said
from gristmill.pipeline.report.page import Html, document, figure, join, numbers, section, tag
from gristmill.pipeline.report.plots import LEFT, WIDTH, Drawing, circle, line, text

HEAD = (
    "arm",
    "rows",
    "learning rate",
    "value",
    "effect",
    "from",
    "to",
    "p",
    "p (Holm)",
    "detectable",
)
_ROW, _TOP = 34, 8


def page(board: Leaderboard, gate: Gate, *, title: str, costs: Mapping[str, float]) -> bytes:
    """The page of a comparison.

    Args:
        board: what was found.
        gate: level and control of the sentences.
        title: of the page.
        costs: of choosing each method's rows, in forward passes over the pool (fe).
    """
    tests = list(board.outcomes)
    parts = []
    for place, test in enumerate(tests):
        found = board.outcomes[test]
        note = "The rows that the selections aim at." if place == 0 else "What it costs elsewhere."
        parts.append(
            (f"test-{place}", test, section(f"test-{place}", test, note, *_test(found, test, gate)))
        )
    parts.append(("cost", "Cost", section("cost", "Cost and effect", COST, _cost(board, costs))))
    header = join(
        [
            tag("h1", title),
            tag("p", f"{board.cells.height:,} measurements of {_models(board)} models. {READ}"),
        ]
    )
    end = "An interval counts items, training seeds and draws of the selection."
    return document(title, header, parts, end)


READ = (
    "Effects are differences to random rows at the same budget: above zero is better. A method "
    "whose interval holds zero has not been shown to beat random."
)
COST = "What choosing the rows took, in forward passes over the pool, against what it gained."


def leaderboard(board: Leaderboard) -> pl.DataFrame:
    """A row per test set and arm, for the Parquet file beside the page."""
    lines = [
        {
            "test": test,
            "arm": name,
            "control": o.arm.control,
            "rows": o.rows,
            "rate": o.rate,
            "value": float(o.value_DSN.mean()),
            "effect": o.effect.value if o.effect else None,
            "low": o.effect.low if o.effect else None,
            "high": o.effect.high if o.effect else None,
            "p": o.effect.p if o.effect else None,
            "p_holm": o.adjusted,
            "detectable": o.effect.detectable if o.effect else None,
        }
        for test, found in board.outcomes.items()
        for name, o in found.items()
    ]
    return pl.DataFrame(lines, schema_overrides={"p_holm": pl.Float64})


def _models(board: Leaderboard) -> int:
    return board.cells.select("arm", "draw", "seed").unique().height


def _test(found: Mapping[str, Outcome], test: str, gate: Gate) -> list[Html]:
    order = sorted(found.values(), key=lambda o: (-(o.effect.value if o.effect else 0), o.arm.name))
    ranked = [o for o in order if o.effect is not None]
    rows = [_line(o) for o in order]
    sentences = [tag("li", said(o, test, gate)) for o in ranked if not o.arm.control]
    return [
        tag("ul", *sentences),
        figure(f"Effect on {test}, with {gate.level:.0%} intervals", forest(ranked).inline),
        numbers(HEAD, rows),
    ]


def _line(o: Outcome) -> list[str | float | None]:
    e = o.effect
    figures = [e.value, e.low, e.high] if e else [None] * 3
    effects = [None if v is None else f"{v:+.4f}" for v in figures]
    sure = [f"{e.p:.3g}" if e else None, None if o.adjusted is None else f"{o.adjusted:.3g}"]
    seen = f"{e.detectable:.4f}" if e else None
    rate = f"{o.rate:g}" if o.rate else "–"
    return [o.arm.name, o.rows, rate, f"{float(o.value_DSN.mean()):.4f}", *effects, *sure, seen]


def forest(ranked: Sequence[Outcome]) -> Drawing:
    """Effects with their intervals, one line an arm, and the line of no effect."""
    effects = [o.effect for o in ranked if o.effect]
    low = min([0.0, *(e.low for e in effects)])
    high = max([0.0, *(e.high for e in effects)])
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return LEFT + (value - low) / span * (WIDTH - 2 * LEFT)

    parts = [line(at(0.0), 0, at(0.0), _TOP + _ROW * len(effects), "cut")]
    for place, (o, e) in enumerate(zip(ranked, effects, strict=True)):
        y = _TOP + _ROW * place
        kind = "pool" if o.arm.control else "taken"
        figures = f"{e.value:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"
        parts += [
            text(LEFT, y + 9, o.arm.name, "start"),
            text(WIDTH - LEFT, y + 9, figures, "end"),
            line(at(e.low), y + 20, at(e.high), y + 20, f"whisker {kind}"),
            circle(at(e.value), y + 20, 4, kind),
        ]
    return Drawing(height=_TOP + _ROW * len(effects), parts=parts, label="effects and intervals")


def _cost(board: Leaderboard, costs: Mapping[str, float]) -> Html:
    first = next(iter(board.outcomes.values()))
    rows = [
        (name, cost, f"{o.effect.value:+.4f}" if o.effect else None)
        for name, cost in sorted(costs.items(), key=lambda c: (c[1], c[0]))
        if (o := first.get(name)) is not None
    ]
    return numbers(("method", "fe", "effect"), rows)
