"""Best against worst: the widest contrast that a prompt has."""

from collections.abc import Sequence
from dataclasses import dataclass

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import Draw, Pairing, PairRule


@dataclass(frozen=True, kw_only=True)
class BestWorst(PairRule):
    """The highest score against the lowest (Magpie, SimPO)."""

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        return [(rated[0], rated[-1])]
