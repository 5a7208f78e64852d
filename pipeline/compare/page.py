"""The leaderboard as a page: who beat random, by how much, and how surely."""

from collections.abc import Mapping, Sequence

from gristmill.pipeline.compare.comparison import Leaderboard
from gristmill.pipeline.compare.findings import shown, summary, words
from gristmill.pipeline.compare.outcomes import Outcome
from gristmill.pipeline.report.page import Html, document, figure, join, numbers, section, tag
from gristmill.pipeline.report.plots import LEFT, WIDTH, Drawing, circle, line, text

HEAD = ("arm", "rows", "tokens", "learning rate", "value", "effect", "p", "p (Holm)", "detectable")
_ROW, _TOP = 34, 8
READ = (
    "Effects are differences to random rows at the same budget: above zero is better. A method "
    "whose interval holds zero has not been shown to beat random."
)


def page(board: Leaderboard, *, title: str) -> bytes:
    """The page of a comparison."""
    design = board.design
    parts = []
    for place, (name, by_budget) in enumerate(board.outcomes.items()):
        note = _NOTES[design.evaluations[name].part]
        made = [piece for b, found in by_budget.items() for piece in _one(board, name, b, found)]
        parts.append((f"test-{place}", name, section(f"test-{place}", name, note, *made)))
    header = join(
        [
            tag("h1", title),
            tag("p", f"{len(board.cells):,} models. {READ}"),
        ]
    )
    end = "An interval counts items, training seeds and draws of the selection."
    return document(title, header, parts, end)


_NOTES = {
    "target": "The rows that the selections aim at.",
    "query": "The rows that the methods were shown.",
    "elsewhere": "What it costs elsewhere.",
}


def _one(
    board: Leaderboard, evaluation: str, budget: str, found: Mapping[str, Outcome]
) -> list[Html]:
    design = board.design
    order = sorted(found.values(), key=lambda o: (-_value(o, design.against), o.arm.name))
    ranked = [o for o in order if design.against in o.against]
    methods = [o.arm.name for o in ranked if not o.arm.control]
    told = [tag("li", summary(board, budget, m)) for m in methods]
    caption = f"Effect on {evaluation} at {budget}, with {design.level:.0%} intervals"
    return [
        tag("h3", f"At {budget}"),
        *([tag("ul", *told)] if evaluation == design.target else []),
        figure(caption, forest(ranked, design.against).inline),
        numbers(HEAD, [_line(o, design.against) for o in order]),
    ]


def _value(o: Outcome, against: str) -> float:
    return o.against[against].value if against in o.against else 0.0


def _line(o: Outcome, against: str) -> list[str | float | None]:
    e = o.against.get(against)
    holm = o.adjusted.get(against)
    sure = [f"{e.p:.3g}" if e else None, None if holm is None else f"{holm:.3g}"]
    rate = f"{o.rate:g}" if o.rate else "–"
    return [
        o.arm.name, o.rows, o.tokens, rate, f"{o.value:.4f}", shown(e) if e else words(against),
        *sure, f"{e.detectable:.4f}" if e else None,
    ]  # fmt: skip


def forest(ranked: Sequence[Outcome], against: str) -> Drawing:
    """Effects with their intervals, one line an arm, and the line of no effect."""
    effects = [o.against[against] for o in ranked]
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
