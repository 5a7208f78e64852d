"""Best against worst once length has been paid for."""

from collections.abc import Sequence
from dataclasses import dataclass

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import Draw, Pairing, PairRule, known_better, score_of


@dataclass(frozen=True, kw_only=True)
class MaxMinLen(PairRule):
    """The highest against the lowest of score - penalty * characters (Online-RLHF).

    The pair still needs the better score itself: a short answer that is worse is never chosen.
    Where some are known to be right and others wrong, length decides among those of one kind.

    Attributes:
        penalty: what a character costs, in units of the score.
    """

    penalty: float = 0.001

    def __post_init__(self) -> None:
        if not self.penalty >= 0:
            raise ValueError(f"penalty is {self.penalty}; give 0 or more.")

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        ordered = sorted(rated, key=lambda c: (-(score_of(c) - self.penalty * c.length), c.id))
        best, worst = ordered[0], ordered[-1]
        if any(known_better(one, two) for one in rated for two in rated):
            best = next(c for c in ordered if c.verified)
            worst = next(c for c in reversed(ordered) if c.verified is False)
        return [(best, worst)]
