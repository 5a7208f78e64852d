"""Flags: what a reader of a method's effect must know beside it."""

from collections.abc import Iterator
from dataclasses import dataclass

from gristmill.pipeline.compare.comparison import Leaderboard
from gristmill.pipeline.compare.words import Quote, shown, words
from gristmill.pipeline.numerics.effects import Effect

FITS = "fits its query rows"


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One thing to mind.

    Attributes:
        mark: in a word or two, for a table.
        sentence: with the effects that raise it.
    """

    mark: str
    sentence: str


def raised(
    board: Leaderboard, budget: str, arm: str, evaluation: str, *, quote: Quote = str
) -> Iterator[Flag]:
    """The flags of an arm whose effect on a target is read."""
    design = board.design
    known = effects(board, budget, arm)
    if evaluation not in known:
        return
    own, unit = known[evaluation], design.evaluations[evaluation].measure.unit
    for name, e in known.items():
        one = design.evaluations[name]
        alike = one.measure.unit == unit or evaluation == design.target
        if one.part == "query" and alike and e.low > 0 >= own.low:
            yield Flag(
                mark=FITS,
                sentence=f"It beats {words(design.against)} on its own query rows ({quote(name)}: "
                f"{shown(e)}) and not on the test rows of {quote(evaluation)}: it fits what it was "
                "shown.",
            )
        if one.part == "elsewhere" and e.high < 0:
            yield Flag(mark="costs elsewhere", sentence=f"It costs on {quote(name)}: {shown(e)}.")
        if one.part == "target" and one.measure.unit != unit and _apart(own, e):
            yield Flag(
                mark="measures disagree",
                sentence=f"Its measures disagree: {shown(own)} in {unit} on {quote(evaluation)}, "
                f"{shown(e)} in {one.measure.unit} on {quote(name)}.",
            )


def effects(board: Leaderboard, budget: str, arm: str) -> dict[str, Effect]:
    """An arm's effects against the control that decides, by evaluation."""
    found = {name: by[budget][arm].against for name, by in board.outcomes.items()}
    against = board.design.against
    return {name: known[against] for name, known in found.items() if against in known}


def _apart(one: Effect, other: Effect) -> bool:
    """Whether two effects point in different directions, and one of them surely."""
    sure = any(e.low > 0 or e.high < 0 for e in (one, other))
    return sure and one.value * other.value < 0
