"""Votes: what several samples of several judges, or several people, say of a pair: one label."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Label = Literal["chosen", "rejected"]
Vote = Literal["chosen", "rejected", "tie"]
SIDES: tuple[Label, ...] = ("chosen", "rejected")
OTHER: dict[Vote, Vote] = {"chosen": "rejected", "rejected": "chosen", "tie": "tie"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of a vote; without a label, `reason` says why."""

    label: Label | None
    reason: str | None = None


def needed(asked: int) -> int:
    """The votes that decide: two thirds of those that were asked for, rounded up."""
    return math.ceil(2 * asked / 3)


def majority(votes: Sequence[Vote], asked: int) -> Verdict:
    """The label on which two thirds of all asked samples agree; else the pair is undecided.

    A sample that gave no verdict (no answer, or one outside the schema) counts as asked: silence is
    never agreement.

    Args:
        votes: those that came.
        asked: samples x judges.
    """
    assert len(votes) <= asked, f"{len(votes)} votes of {asked}"
    counts = Counter(votes)
    for side in SIDES:
        if counts[side] >= needed(asked):
            return Verdict(label=side)
    if counts["tie"] >= needed(asked):
        return Verdict(label=None, reason="judges_tie")
    if len(votes) < needed(asked):
        return Verdict(label=None, reason="judges_silent")
    return Verdict(label=None, reason="judges_disagree")


def of_people(judgements: Sequence[str]) -> Verdict:
    """What people decided: more of them prefer one side than say anything else.

    Args:
        judgements: of `judgements.OF_PAIRS`, one a person; "skip" is no verdict.
    """
    counts = Counter(j for j in judgements if j != "skip")
    if not counts:
        return Verdict(label=None, reason="people_skipped")
    for side in SIDES:
        if 2 * counts[side] > counts.total():
            return Verdict(label=side)
    ties = counts["tie"] + counts["both_bad"]
    if 2 * ties > counts.total():
        most = "both_bad" if counts["both_bad"] > counts["tie"] else "tie"
        return Verdict(label=None, reason=f"people_{most}")
    return Verdict(label=None, reason="people_disagree")
