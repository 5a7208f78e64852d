"""Standings: arms in the order of their effects, and the columns that stand beside each method."""

from collections.abc import Iterator, Mapping

from gristmill.pipeline.compare.comparison import Leaderboard
from gristmill.pipeline.compare.flags import effects, raised
from gristmill.pipeline.compare.outcomes import Outcome
from gristmill.pipeline.compare.words import ASKED, brief, shown, words

CONTROLS = ("control", "rows", "tokens", "value", "effect", "smallest detectable")


def targets(board: Leaderboard) -> list[str]:
    """The evaluations that selections aim at; the first decides."""
    return [name for name, one in board.design.evaluations.items() if one.part == "target"]


def budgets(board: Leaderboard) -> list[str]:
    """The budgets, as they were asked for."""
    return list(board.outcomes[board.design.target])


def ranked(found: Mapping[str, Outcome], against: str) -> list[Outcome]:
    """Methods and the controls that all share, the best first; what they are held against apart."""
    arms = [o for o in found.values() if against in o.against and o.arm.matched is None]
    return sorted(arms, key=lambda o: (-o.against[against].value, o.arm.name))


def methods(board: Leaderboard, evaluation: str, budget: str) -> list[Outcome]:
    """The methods, the best first."""
    found = board.outcomes[evaluation][budget]
    return [o for o in ranked(found, board.design.against) if not o.arm.control]


def passes(found: Mapping[str, Outcome], cost: float) -> float:
    """A cost of choosing rows in the unit that `unit` names."""
    return cost / (_pool(found) or 1.0)


def unit(found: Mapping[str, Outcome]) -> str:
    """Of costs: forward passes over the pool, or of a row where no arm tells how large it is."""
    return "passes of a row" if _pool(found) is None else "passes over the pool"


def _pool(found: Mapping[str, Outcome]) -> float | None:
    return next((o.rows for o in found.values() if o.arm.kind == "full"), None)


def head(board: Leaderboard, evaluation: str, budget: str) -> list[str]:
    """The columns of `lines`."""
    asked, elsewhere = _columns(board, evaluation, budget)
    against = [column for control in asked for column in (f"against {brief(control)}", "p (Holm)")]
    cost = f"cost, {unit(board.outcomes[evaluation][budget])}"
    return ["method", "rows", cost, *against, *(f"elsewhere: {e}" for e in elsewhere), "flags"]


def lines(board: Leaderboard, evaluation: str, budget: str) -> Iterator[list[str | None]]:
    """A line a method, the best first: cost, effects with intervals, p after Holm, flags."""
    found = board.outcomes[evaluation][budget]
    asked, elsewhere = _columns(board, evaluation, budget)
    for o in methods(board, evaluation, budget):
        line: list[str | None] = [o.arm.name, f"{o.rows:,.0f}", figure(passes(found, o.arm.cost))]
        for control in asked:
            e = o.against.get(control)
            line += [shown(e), p_value(o.adjusted[control])] if e else [None, None]
        off = effects(board, budget, o.arm.name)
        line += [shown(off[name]) for name in elsewhere]
        flags = dict.fromkeys(f.mark for f in raised(board, budget, o.arm.name, evaluation))
        yield [*line, ", ".join(flags) or None]


def controls(board: Leaderboard, evaluation: str, budget: str) -> Iterator[list[str | None]]:
    """A line a control that all methods share, the one that decides with them: see `CONTROLS`."""
    found, against = board.outcomes[evaluation][budget], board.design.against
    shared = [o for o in ranked(found, against) if o.arm.control]
    for o in [found[against], *shared]:
        e = o.against.get(against)
        yield [
            words(o.arm.kind), f"{o.rows:,.0f}", f"{o.tokens:,.0f}", f"{o.value:.4f}",
            shown(e) if e else None, f"{e.detectable:.4f}" if e else None,
        ]  # fmt: skip


def p_value(p: float) -> str:
    """A p-value: two digits, and no more zeros than say something."""
    return "below 0.0001" if p < 0.0001 else f"{p:.2g}"


def figure(cost: float) -> str:
    """A cost to three digits."""
    return f"{cost:.3g}" if cost < 1_000 else f"{cost:,.0f}"


def _columns(board: Leaderboard, evaluation: str, budget: str) -> tuple[list[str], list[str]]:
    """The controls that some method was held against, and the evaluations of what it costs."""
    found = [o for o in board.outcomes[evaluation][budget].values() if not o.arm.control]
    order = dict.fromkeys((board.design.against, *ASKED))
    asked = [control for control in order if any(control in o.against for o in found)]
    parts = board.design.evaluations
    return asked, [name for name in board.outcomes if parts[name].part == "elsewhere"]
