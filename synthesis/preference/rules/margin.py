"""Every pair whose scores lie far enough apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import Draw, Pairing, PairRule, known_better, score_of


@dataclass(frozen=True, kw_only=True)
class Margin(PairRule):
    """The pairs of a prompt whose gap reaches a margin, the widest first.

    A right answer and a wrong one are far enough apart, whatever the margin.

    Attributes:
        least: the gap that a pair needs.
        most: pairs of a prompt.
    """

    least: float
    most: int = 1

    def __post_init__(self) -> None:
        if not self.least > 0:
            raise ValueError(f"least is {self.least}; give a gap above 0.")
        if self.most < 1:
            raise ValueError(f"most is {self.most}; give at least 1.")

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        far = [
            (one, two)
            for one, two in combinations(rated, 2)
            if known_better(one, two) or score_of(one) - score_of(two) >= self.least
        ]
        far.sort(key=lambda p: (score_of(p[1]) - score_of(p[0]), p[0].id, p[1].id))
        return far[: self.most]
