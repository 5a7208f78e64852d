"""Standings: arms in the order of their effects, and the columns that stand beside each method."""

from collections.abc import Iterator, Mapping

from gristmill.pipeline.compare.comparison import Leaderboard
from gristmill.pipeline.compare.flags import effects, raised
from gristmill.pipeline.compare.outcomes import Outcome
from gristmill.pipeline.compare.words import ASKED, brief, shown

CONTROLS = ("arm", "rows", "tokens", "value", "effect", "smallest detectable")


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


def passes(found: Mapping[str, Outcome], cost: float) -> float | None:
    """A cost in forward passes over the pool; None: no arm holds all rows, so its size is unknown.

    The unit of `Arm.cost` is the forward pass of a row.
    """
    size = next((o.rows for o in found.values() if o.arm.kind == "full"), None)
    return None if size is None else cost / size


def cost(found: Mapping[str, Outcome], o: Outcome) -> str:
    """What it costs to choose a method's rows, in words."""
    over = passes(found, o.arm.cost)
    if over is None:
        return f"{o.arm.cost:,.0f} row passes"
    return f"{over:.3g}" if over < 1_000 else f"{over:,.0f}"


def head(board: Leaderboard, evaluation: str, budget: str) -> list[str]:
    """The columns of `lines`."""
    asked, elsewhere = _columns(board, evaluation, budget)
    against = [column for control in asked for column in (f"against {brief(control)}", "p (Holm)")]
    return ["method", "rows", "cost", *against, *(f"elsewhere: {e}" for e in elsewhere), "flags"]


def lines(board: Leaderboard, evaluation: str, budget: str) -> Iterator[list[str]]:
    """A line a method, the best first: effects with intervals, p after Holm, cost, flags.

    A cost is in forward passes over the pool where its size is known.
    """
    found = board.outcomes[evaluation][budget]
    asked, elsewhere = _columns(board, evaluation, budget)
    for o in methods(board, evaluation, budget):
        line = [o.arm.name, f"{o.rows:,.0f}", cost(found, o)]
        for control in asked:
            e = o.against.get(control)
            line += [shown(e), p_value(o.adjusted[control])] if e else ["–", "–"]
        off = effects(board, budget, o.arm.name)
        line += [shown(off[name]) for name in elsewhere]
        flags = dict.fromkeys(f.mark for f in raised(board, budget, o.arm.name, evaluation))
        yield [*line, ", ".join(flags) or "–"]


def controls(board: Leaderboard, evaluation: str, budget: str) -> Iterator[list[str]]:
    """A line a control that all methods share, the one that decides with them: see `CONTROLS`."""
    found, against = board.outcomes[evaluation][budget], board.design.against
    shared = [o for o in ranked(found, against) if o.arm.control]
    for o in [found[against], *shared]:
        e = o.against.get(against)
        yield [
            o.arm.name, f"{o.rows:,.0f}", f"{o.tokens:,.0f}", f"{o.value:.4f}",
            shown(e) if e else "–", f"{e.detectable:.4f}" if e else "–",
        ]  # fmt: skip


def p_value(p: float) -> str:
    """A p-value: two digits, and no more zeros than say something."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def _columns(board: Leaderboard, evaluation: str, budget: str) -> tuple[list[str], list[str]]:
    """The controls that some method was held against, and the evaluations of what it costs."""
    found = [o for o in board.outcomes[evaluation][budget].values() if not o.arm.control]
    order = dict.fromkeys((board.design.against, *ASKED))
    asked = [control for control in order if any(control in o.against for o in found)]
    parts = board.design.evaluations
    return asked, [name for name in board.outcomes if parts[name].part == "elsewhere"]
