"""Neighbours in the order of scores: one pair for each step down."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import Draw, Pairing, PairRule, score_of


@dataclass(frozen=True, kw_only=True)
class Adjacent(PairRule):
    """Each score against the next lower one; of equal scores the first by id stands for all."""

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        levels = [next(level) for _, level in groupby(rated, key=score_of)]
        return list(pairwise(levels))
