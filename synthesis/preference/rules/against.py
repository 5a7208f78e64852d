"""One writer's answer against the worst or a random answer of the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.rules import Draw, Pairing, PairRule, best_first


@dataclass(frozen=True, kw_only=True)
class Against(PairRule):
    """Who wrote the chosen side decides: a fused answer against one of those it was made from.

    Where scores say the opposite there is no pair.

    Attributes:
        strong: role of the chosen side.
        other: which answer is the rejected side; "worst" of those that have a score.
    """

    by_score: ClassVar[bool] = False
    strong: str
    other: Literal["worst", "random"] = "random"

    def pairs(self, rated: Sequence[Candidate], draw: Draw) -> list[Pairing]:
        chosen = [c for c in rated if c.role == self.strong]
        own = {c.id for c in chosen}
        others = [c for c in rated if c.role != self.strong and c.id not in own]
        if self.other == "worst":
            others = best_first([c for c in others if c.score is not None])[-1:]
        if not chosen or not others:
            return []
        return [(draw.one(chosen, "against, chosen"), draw.one(others, "against"))]
