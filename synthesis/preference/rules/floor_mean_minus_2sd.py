"""Chosen above a floor, rejected two standard deviations below the mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import (
    Draw,
    Pairing,
    PairRule,
    known_better,
    score_of,
)


@dataclass(frozen=True, kw_only=True)
class FloorMeanMinus2sd(PairRule):
    """The highest score against the one nearest to mean - 2 deviations, not the outlier below it.

    Mean and deviation are those of the prompt's scores. The chosen side must reach a floor, unless
    it is known to be right where others are wrong.

    Attributes:
        floor: least score of the chosen side; None: the mean.
        deviations: below the mean.
    """

    floor: float | None = None
    deviations: float = 2.0

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        scores = [score_of(c) for c in rated]
        mean = fmean(scores)
        aim = mean - self.deviations * pstdev(scores)
        best = rated[0]
        lower = [c for c in rated if score_of(c) < score_of(best)]
        floor = mean if self.floor is None else self.floor
        reaches = score_of(best) >= floor or any(known_better(best, c) for c in lower)
        if not lower or not reaches:
            return []
        return [(best, min(lower, key=lambda c: (abs(score_of(c) - aim), c.id)))]
