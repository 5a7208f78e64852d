"""A random one of the best against a random one of the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import Draw, Pairing, PairRule, score_of


@dataclass(frozen=True, kw_only=True)
class MaxRandom(PairRule):
    """Both sides are drawn: among those that share the highest score, and among all below it.

    Where many answers share it (every correct one, say), no single one stands for them all.
    """

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        highest = score_of(rated[0])
        best = [c for c in rated if score_of(c) == highest]
        rest = [c for c in rated if score_of(c) < highest]
        if not rest:
            return []
        return [(draw.one(best, "max_random: chosen"), draw.one(rest, "max_random: rejected"))]
