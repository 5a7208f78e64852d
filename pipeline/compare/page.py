"""The leaderboard as a page: who beat random, by how much, how surely, and at what cost."""

from collections.abc import Iterator, Sequence

from gristmill.pipeline.compare import curves, forest, standings, tradeoff
from gristmill.pipeline.compare.comparison import Leaderboard
from gristmill.pipeline.compare.findings import summary, warnings
from gristmill.pipeline.compare.flags import FITS, effects, raised
from gristmill.pipeline.compare.grid import compared, fold, grid
from gristmill.pipeline.compare.outcomes import Outcome
from gristmill.pipeline.compare.premise import premise
from gristmill.pipeline.compare.words import CLAIM, brief, listed, shown, verb, words
from gristmill.pipeline.report.page import Html, breakable, document, figure, join, section, tag

HEAD = (
    "arm", "rows", "tokens", "learning rate", "value", "effect", "p", "p (Holm)",
    "smallest detectable",
)  # fmt: skip
_OPEN = 6  # curves that are seen at once, the best
_PARTS = {
    "target": "The rows that the selections aim at; none of them was trained on or shown.",
    "query": "The rows that the methods were shown: to do well here alone is to fit them.",
    "elsewhere": "What it costs elsewhere: rows that no selection aims at.",
}


def page(board: Leaderboard, *, title: str) -> bytes:
    """The page of a comparison."""
    made = [("found", "What beats random", found(board))]
    if len(board.outcomes) > 1:
        made.append(("beside", "Target and elsewhere", beside(board)))
    for place, name in enumerate(board.outcomes):
        made.append((f"test-{place}", name, _evaluation(board, name, f"test-{place}")))
    header = join([tag("h1", title), *(tag("p", sentence) for sentence in premise(board))])
    end = "Every effect stands with its interval; losers stand with the winners."
    return document(title, header, made, end)


def found(board: Leaderboard) -> Html:
    """What beats random, balanced random and random rows of its lengths; a sentence a method."""
    note = (
        f"A method's claim rests on three: {listed([words(c) for c in CLAIM])}, each after Holm. "
        "A method whose interval holds zero has not been shown to beat random."
    )
    parts = [tag("p", sentence, class_="alarm") for sentence in warnings(board)]
    for target in standings.targets(board):
        parts += [tag("h3", f"On {target}"), *_claims(board, target), *_minded(board, target)]
        for budget in standings.budgets(board):
            methods = standings.methods(board, target, budget)
            told = [
                tag("li", summary(board, budget, o.arm.name, evaluation=target)) for o in methods
            ]
            if told:
                parts.append(fold(f"At {budget}, a sentence a method", tag("ul", *told)))
    return section("found", "What beats random", note, *parts)


def beside(board: Leaderboard) -> Html:
    """Every evaluation of every method side by side, on target and elsewhere, with its flags."""
    note = (
        "▲ surely better than random, ▼ surely worse, by the interval of that evaluation. A gain "
        "on the target that is paid for elsewhere, or seen on query rows alone, is flagged."
    )
    target, named = board.design.target, board.design.evaluations
    head = ["method", *(f"{_PLACE[one.part]}: {n}" for n, one in named.items())]
    parts = []
    for place, budget in enumerate(standings.budgets(board)):
        rows: list[list[Html]] = []
        for o in standings.methods(board, target, budget):
            known = effects(board, budget, o.arm.name)
            flags = dict.fromkeys(f.mark for f in raised(board, budget, o.arm.name, target))
            minded = tag("div", ", ".join(flags), class_="said")
            rows.append(
                [join([breakable(o.arm.name), minded]), *(compared(known[e]) for e in named)]
            )
        parts.append(fold(f"At {budget}", grid(head, rows), opened=place == 0, heading=True))
    return section("beside", "Target and elsewhere", note, *parts)


_PLACE = {"target": "target", "query": "query rows", "elsewhere": "elsewhere"}


def _claims(board: Leaderboard, target: str) -> list[Html]:
    """Methods by budgets: the effect, and which of the three controls it beats; losers folded."""
    design, budgets = board.design, standings.budgets(board)
    head = ["method", *(f"at {b}" for b in budgets)]
    some: list[list[Html | str | None]] = []
    none: list[list[Html | str | None]] = []
    for name in curves.best(board.outcomes[target], design.against):
        own = [board.outcomes[target][b].get(name) for b in budgets]
        claims = (None if o is None else _claim(o, design.against, design.level) for o in own)
        line: list[Html | str | None] = [name, *claims]
        beats = any(o.beats(c, design.level) for o in own if o is not None for c in CLAIM)
        (some if beats else none).append(line)
    parts = [grid(head, some)] if some else []
    if none:
        count = f"{len(none):,} {'method' if len(none) == 1 else 'methods'}"
        title = f"Shown to beat none of the three at any budget: {count}"
        parts.append(fold(title, grid(head, none), opened=not some))
    return parts


def _claim(o: Outcome, against: str, level: float) -> Html:
    asked = [c for c in CLAIM if c in o.against]
    beaten = [c for c in asked if o.beats(c, level)]
    e, every = o.against[against], len(beaten) == len(CLAIM)
    if every:
        said = "✓ beats all three"
    elif beaten:
        said = f"beats {listed([brief(c) for c in beaten])}"
    else:
        said = f"▼ worse than {words(against)}" if e.high < 0 else "beats none"
    missing = [brief(c) for c in CLAIM if c not in asked]
    if missing:
        said += f"; not held against {listed(missing)}"
    lines = [tag("div", shown(e)), tag("div", said, class_="said")]
    return tag("div", *lines, class_="better") if every else tag("div", *lines)


def _minded(board: Leaderboard, target: str) -> Iterator[Html]:
    """What a reader must know before any method: what the canary showed, query rows fitted."""
    against, budgets = board.design.against, standings.budgets(board)
    canaries = [
        (budget, o.against[against])
        for budget in budgets
        for o in board.outcomes[target][budget].values()
        if o.arm.kind == "canary"
    ]
    if canaries:
        told = [f"at {budget} it {verb(e)} {words(against)} ({shown(e)})" for budget, e in canaries]
        yield tag("p", f"The canary is random in disguise: {listed(told)}.", class_="note")
    for budget in budgets:
        methods = [o.arm.name for o in standings.methods(board, target, budget)]
        fitted = [
            m for m in methods if any(f.mark == FITS for f in raised(board, budget, m, target))
        ]
        if fitted:
            seen = f"At {budget} better than {words(against)} on query rows, but not on test rows: "
            yield tag("p", f"{seen}{', '.join(fitted)}.", class_="alarm")


def _evaluation(board: Leaderboard, name: str, ident: str) -> Html:
    """An evaluation: a forest plot, costs and numbers at every budget, and the budget curve."""
    one = board.design.evaluations[name]
    parts: list[Html] = []
    for budget in standings.budgets(board):
        inner = join(_budget(board, name, budget))
        opened = one.part == "target"
        parts.append(fold(f"At {budget}", inner, opened=opened, heading=True))
    if len(standings.budgets(board)) > 1:
        parts.append(_curves(board, name))
    return section(ident, name, f"{_PARTS[one.part]} In {one.measure.unit}.", *parts)


def _budget(board: Leaderboard, name: str, budget: str) -> list[Html]:
    design, arms = board.design, board.outcomes[name][budget]
    aimed = design.evaluations[name].part == "target"
    ranked = standings.ranked(arms, design.against)
    against, level = design.against, design.level
    plots = [
        figure(
            f"Effect on {name} at {budget}, with {level:.0%} intervals",
            forest.forest(ranked, against, level).inline,
            forest.legend(against),
        )
    ]
    if standings.methods(board, name, budget):
        plots.append(
            figure(
                f"Cost and effect on {name} at {budget}",
                tradeoff.tradeoff(arms, against, level).inline,
                tag("p", _STAIRS, class_="note"),
                fold("The numbers", grid(_COSTS, _costs(board, name, budget)), opened=aimed),
            )
        )
    equal = grid(
        standings.head(board, name, budget), standings.lines(board, name, budget), wrapped=True
    )
    every = [o for o in arms.values() if aimed or o.arm.matched is None]
    order = sorted(every, key=lambda o: (-_effect(o, against), o.arm.name))
    return [
        tag("div", *plots, class_="figures"),
        fold("Equal rows, lengths, tokens and compute", equal),
        fold("All numbers", grid(HEAD, [_line(o, against) for o in order])),
    ]


_STAIRS = (
    "The line climbs at every method that none as cheap surpasses. Methods of equal cost stand "
    "side by side; a name that finds no place is in the table alone."
)
_COSTS = ("method", "effect", "cost", "on the line")


def _costs(board: Leaderboard, name: str, budget: str) -> list[list[str]]:
    made = tradeoff.points(board.outcomes[name][budget], board.design.against, board.design.level)
    best = tradeoff.front(made)
    return [
        [p.name, shown(p.effect), standings.figure(p.cost), "yes" if p in best else ""]
        for p in made
    ]


def _curves(board: Leaderboard, name: str) -> Html:
    """The best methods' curves, the others folded, and the numbers of all."""
    against, outcomes = board.design.against, board.outcomes[name]
    order = curves.best(outcomes, against)
    drawn = curves.scale(outcomes, against)
    plots = []
    for method in order:
        own = {b: arms[method] for b, arms in outcomes.items() if method in arms}
        plots.append(curves.curve(method, own, drawn, against).inline)
    low = f"the {words(against)} draws from the lowest to the highest, dashed their mean"
    first: list[list[Html | str]] = [[f"{words(against)}: mean, lowest to highest draw"]]
    for least, mean, most in (curves.draws(arms[against]) for arms in outcomes.values()):
        first[0].append(f"{mean:.4f}, {least:.4f} to {most:.4f}")
    rows = [
        [m, *(_at(arms.get(m), against) for arms in outcomes.values())] for m in order
    ]  # fmt: skip
    return figure(
        f"Value on {name} by budget",
        tag("div", *plots[:_OPEN], class_="panels"),
        tag("p", f"Band: {low}. Bars: intervals of effects.", class_="note"),
        *(
            [fold(f"{len(plots) - _OPEN} more", tag("div", *plots[_OPEN:], class_="panels"))]
            if len(plots) > _OPEN
            else []
        ),
        fold("The numbers", grid(["method", *outcomes], [*first, *rows])),
    )


def _at(o: Outcome | None, against: str) -> Html | str:
    return (
        "–"
        if o is None
        else join([tag("div", f"{o.value:.4f}"), tag("div", shown(o.against[against]))])
    )


def _effect(o: Outcome, against: str) -> float:
    return o.against[against].value if against in o.against else 0.0


def _line(o: Outcome, against: str) -> Sequence[str | None]:
    e, holm = o.against.get(against), o.adjusted.get(against)
    return [
        o.arm.name,
        f"{o.rows:,.0f}",
        f"{o.tokens:,.0f}",
        f"{o.rate:g}" if o.rate else None,
        f"{o.value:.4f}",
        shown(e) if e else None,
        standings.p_value(e.p) if e else None,
        None if holm is None else standings.p_value(holm),
        f"{e.detectable:.4f}" if e else None,
    ]
