"""The gate: a dataset is promoted only if its selection beat a control; it says so either way."""

from dataclasses import dataclass
from typing import Any

from gristmill.pipeline.compare.comparison import Leaderboard, Outcome


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a selection must show.

    Attributes:
        against: the control that it must beat.
        test: the test set that decides; None: the first.
        level: of the interval whose lower end must be above zero.
    """

    against: str = "random"
    test: str | None = None
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(
                f"gate: level is {self.level}; give a share between 0 and 1, e.g. 0.95."
            )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a gate said of an arm.

    Attributes:
        promoted: whether the lower end of its interval is above zero.
        sentence: what was found, with its interval.
        facts: the same as plain values, for the card and the ledger.
    """

    promoted: bool
    sentence: str
    facts: dict[str, Any]


def judge(board: Leaderboard, arm: str, gate: Gate) -> Verdict:
    """Hold an arm of a comparison against the gate.

    Raises:
        ValueError: the comparison has no such arm or test set.
    """
    test = gate.test or next(iter(board.outcomes))
    if test not in board.outcomes or arm not in board.outcomes[test]:
        known = ", ".join(board.outcomes)
        raise ValueError(f"the comparison has no {arm!r} on {test!r}; its test sets: {known}.")
    outcome = board.outcomes[test][arm]
    if outcome.effect is None:
        raise ValueError(f"{arm!r} is the control that the gate compares with: name a method.")
    effect = outcome.effect.at(gate.level)
    promoted = effect.low > 0
    sentence = f"{'Promoted' if promoted else 'Held'}: {said(outcome, test, gate)}"
    facts = {
        "promoted": promoted,
        "sentence": sentence,
        "arm": arm,
        "against": gate.against,
        "test": test,
        "effect": effect.value,
        "low": effect.low,
        "high": effect.high,
        "level": gate.level,
        "detectable": effect.detectable,
    }
    return Verdict(promoted=promoted, sentence=sentence, facts=facts)


def said(outcome: Outcome, test: str, gate: Gate) -> str:
    """An arm's effect in a sentence."""
    assert outcome.effect is not None, "a control has no effect against itself"
    effect = outcome.effect.at(gate.level)
    if effect.low > 0:
        verb = "beats"
    elif effect.high < 0:
        verb = "is worse than"
    else:
        verb = "is not told apart from"
    return (
        f"{outcome.arm.name} {verb} {gate.against} on {test}: {effect.value:+.4f} "
        f"[{effect.low:+.4f}, {effect.high:+.4f}] at {gate.level:.0%}; differences below "
        f"{effect.detectable:.4f} could not be seen."
    )
