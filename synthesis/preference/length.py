"""Length: how often the chosen side is the longer one, and pairs dropped until that is enough.

Judges like long answers, and a model that is trained on their verdicts learns to write them. What
is enforced here holds for the published pairs, whatever the judge preferred.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from gristmill.synthesis.preference.building import Pair

REASON = "length"
EDGES = (
    1.1,
    1.25,
    1.5,
    2.0,
)  # of the bands: the longer side has up to so many times the characters


@dataclass(frozen=True, kw_only=True)
class LengthControl:
    """What is done about length.

    Attributes:
        by: "cap" drops pairs whose chosen side is longer, the most unequal first, until their share
            of all pairs is at most `cap`; "bands" keeps, in each band of unequal lengths, as many
            pairs with a longer chosen side as with a longer rejected one, the least unequal ones;
            "none" lets the judge's taste stand.
        cap: the share.
    """

    by: Literal["cap", "bands", "none"] = "cap"
    cap: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.cap < 1:
            raise ValueError(f"cap is {self.cap}; give a share of at least 0 and below 1.")


def excess(pair: Pair) -> float:
    """By what factor the chosen side is longer, as a logarithm: negative if it is shorter."""
    return math.log(max(1, pair.chosen.length) / max(1, pair.rejected.length))


def longer_share(pairs: Sequence[Pair]) -> float | None:
    """Share of the pairs whose chosen side has more characters; null without pairs."""
    return sum(excess(p) > 0 for p in pairs) / len(pairs) if pairs else None


def controlled(pairs: Sequence[Pair], control: LengthControl) -> list[Pair]:
    """The pairs in their order; those that length control refuses have its reason.

    Args:
        pairs: of all prompts; those that are refused already stay as they are.
        control: what is enforced on the others.
    """
    kept = [p for p in pairs if p.reason is None]
    if control.by == "cap":
        dropped = _beyond(kept, control.cap)
        reason = f"{REASON}: the chosen side is longer in more than {control.cap:g} of the pairs"
    else:
        dropped = _unmatched(kept) if control.by == "bands" else set()
        reason = f"{REASON}: no pair of this band is longer on the other side"
    return [
        replace(p, reason=reason) if p.reason is None and _name(p) in dropped else p for p in pairs
    ]


def _beyond(pairs: Sequence[Pair], cap: float) -> set[tuple[str, str]]:
    """The fewest pairs without which the share is at most the cap."""
    longer = _ordered([p for p in pairs if excess(p) > 0])
    share = Fraction(str(cap))
    over = math.ceil((len(longer) - share * len(pairs)) / (1 - share))
    return {_name(p) for p in longer[::-1][: max(0, over)]}


def _unmatched(pairs: Sequence[Pair]) -> set[tuple[str, str]]:
    """The pairs of each band that have no counterpart on the other side."""
    bands: dict[int, tuple[list[Pair], list[Pair]]] = {}
    for pair in pairs:
        if (by := excess(pair)) != 0:
            band = sum(abs(by) > math.log(edge) for edge in EDGES)
            bands.setdefault(band, ([], []))[by > 0].append(pair)
    return {
        _name(p)
        for sides in bands.values()
        for side in sides
        for p in _ordered(side)[min(map(len, sides)) :]
    }


def _ordered(pairs: Sequence[Pair]) -> list[Pair]:
    """The least unequal first."""
    return sorted(pairs, key=lambda p: (abs(excess(p)), _name(p)))


def _name(pair: Pair) -> tuple[str, str]:
    return pair.chosen.id, pair.rejected.id
