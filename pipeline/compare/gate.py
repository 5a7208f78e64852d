"""The gate: a dataset is promoted only if its selection beat a control; it says so either way."""

from dataclasses import dataclass
from typing import Any

from gristmill.pipeline.compare.comparison import Leaderboard
from gristmill.pipeline.compare.findings import finding, flags


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a selection must show.

    Attributes:
        against: the control that it must beat.
        evaluation: the one that decides; None: the first.
        level: of the interval whose lower end must be above zero.
    """

    against: str = "random"
    evaluation: str | None = None
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


def judge(board: Leaderboard, budget: str, arm: str, gate: Gate) -> Verdict:
    """Hold an arm of a comparison against the gate.

    Raises:
        ValueError: the comparison has no such arm, evaluation or control.
    """
    evaluation = gate.evaluation or board.design.target
    if evaluation not in board.outcomes:
        known = ", ".join(board.outcomes)
        raise ValueError(f"the comparison has no evaluation {evaluation!r}; it has {known}.")
    found = board.outcomes[evaluation].get(budget, {})
    if arm not in found:
        raise ValueError(f"the comparison has no arm {arm!r} at {budget}; it has {list(found)}.")
    if gate.against not in found[arm].against:
        known = ", ".join(found[arm].against)
        raise ValueError(f"{arm!r} stands against no control {gate.against!r}; against {known}.")
    effect = found[arm].against[gate.against].at(gate.level)
    promoted = effect.low > 0
    told = finding(arm, gate.against, evaluation, budget, effect)
    sentence = f"{'Promoted' if promoted else 'Held'}: {told}"
    facts = {
        "promoted": promoted,
        "sentence": sentence,
        "arm": arm,
        "budget": budget,
        "against": gate.against,
        "evaluation": evaluation,
        "unit": board.design.evaluations[evaluation].measure.unit,
        "effect": effect.value,
        "low": effect.low,
        "high": effect.high,
        "level": gate.level,
        "detectable": effect.detectable,
        "rate": found[arm].rate,
        "draws": len(found[gate.against].arm.draws) if gate.against in found else None,
        "seeds": list(board.design.seeds),
        "flags": flags(board, budget, arm),
        "effects": _effects(board, budget, arm, gate),
    }
    return Verdict(promoted=promoted, sentence=sentence, facts=facts)


def _effects(board: Leaderboard, budget: str, arm: str, gate: Gate) -> list[dict[str, Any]]:
    """What the arm gained against every control on every evaluation."""
    found = []
    for name, by_budget in board.outcomes.items():
        part = board.design.evaluations[name].part
        for control, effect in by_budget[budget][arm].against.items():
            one = effect.at(gate.level)
            found.append(
                {
                    "evaluation": name,
                    "part": part,
                    "against": control,
                    "effect": one.value,
                    "low": one.low,
                    "high": one.high,
                }
            )
    return found
