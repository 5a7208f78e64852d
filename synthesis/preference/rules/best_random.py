"""Best against a random other one."""

from collections.abc import Sequence
from dataclasses import dataclass

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import Draw, Pairing, PairRule


@dataclass(frozen=True, kw_only=True)
class BestRandom(PairRule):
    """The highest score against any other (Zephyr, Tülu 3); a draw that ties gives no pair."""

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        return [(rated[0], draw.one(rated[1:], "best_random"))]
