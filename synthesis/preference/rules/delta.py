"""The strong model's answer against the weak one's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import Draw, Pairing, PairRule


@dataclass(frozen=True, kw_only=True)
class Delta(PairRule):
    """Who wrote an answer decides: what two models differ in is the signal (delta learning).

    No score is needed. Where both have one that says the opposite, there is no pair. What both
    wrote is in none.

    Attributes:
        strong: role of the chosen side.
        weak: role of the rejected side.
    """

    by_score: ClassVar[bool] = False
    strong: str
    weak: str

    def __post_init__(self) -> None:
        if self.strong == self.weak:
            raise ValueError(f"strong and weak are both {self.strong!r}; name two roles.")

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        sides = [[c for c in rated if c.role == role] for role in (self.strong, self.weak)]
        both = {c.id for c in sides[0]} & {c.id for c in sides[1]}
        sides = [[c for c in side if c.id not in both] for side in sides]
        if not all(sides):
            return []
        chosen, rejected = (draw.one(side, f"delta: {i}") for i, side in enumerate(sides))
        return [(chosen, rejected)]
