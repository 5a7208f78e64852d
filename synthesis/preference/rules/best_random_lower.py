"""Best against a random one of lower score."""

from collections.abc import Sequence
from dataclasses import dataclass

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import Draw, Pairing, PairRule, score_of


@dataclass(frozen=True, kw_only=True)
class BestRandomLower(PairRule):
    """The highest score against one of those below it (UltraFeedback as Argilla cleaned it)."""

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        lower = [c for c in rated if score_of(c) < score_of(rated[0])]
        return [(rated[0], draw.one(lower, "best_random_lower"))] if lower else []
