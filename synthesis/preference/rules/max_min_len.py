"""Best against worst once length has been paid for."""

from collections.abc import Sequence
from dataclasses import dataclass

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import Draw, Pairing, PairRule, score_of


@dataclass(frozen=True, kw_only=True)
class MaxMinLen(PairRule):
    """The highest against the lowest of score - penalty * characters (Online-RLHF).

    The pair still needs the better score itself: a short answer that is worse is never chosen.

    Attributes:
        penalty: what a character costs, in units of the score.
    """

    penalty: float = 0.001

    def __post_init__(self) -> None:
        if not self.penalty >= 0:
            raise ValueError(f"penalty is {self.penalty}; give 0 or more.")

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        ordered = sorted(rated, key=lambda c: (-(score_of(c) - self.penalty * c.length), c.id))
        return [(ordered[0], ordered[-1])]
