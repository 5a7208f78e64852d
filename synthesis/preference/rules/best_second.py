"""Best against second: the hardest contrast with the best answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import Draw, Pairing, PairRule


@dataclass(frozen=True, kw_only=True)
class BestSecond(PairRule):
    """The highest score against the next; where both are equal there is no pair."""

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        return [(rated[0], rated[1])]
