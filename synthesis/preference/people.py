"""People: what they said of pairs stands in the place of the judge's verdict.

The table is `records.judgements`, whose items are ids of pairs as a run of this flow published them
or set them aside: the same run with the table then keeps, turns or drops them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import polars as pl

from gristmill.pipeline.records.judgements import OF_PAIRS, current
from gristmill.synthesis.curation.votes import of_people
from gristmill.synthesis.preference.building import Building, Pair, refusal

PEOPLE = "people"


def verdicts(judgements: pl.DataFrame) -> dict[str, str]:
    """Item -> what more than half of its annotators say, else "disagree"; see `votes.of_people`.

    Those who skipped an item said nothing of it.
    """
    said: dict[str, list[str]] = {}
    for item, judgement in current(judgements).select("item", "judgement").iter_rows():
        if judgement in OF_PAIRS and judgement != "skip":
            said.setdefault(item, []).append(judgement)
    found = {item: of_people(given) for item, given in said.items()}
    return {item: v.label or (v.reason or "").removeprefix("people_") for item, v in found.items()}


def decided(
    pairs: Sequence[Pair],
    people: Mapping[str, str],
    name: Callable[[Pair], str],
    building: Building,
) -> list[Pair]:
    """The pairs as people decided them; those of which nobody spoke as they are.

    What was said of the same two answers the other way round counts as well.

    A pair that people turn or keep must still be two different texts, with a chosen side that is
    not known to be wrong.

    Args:
        pairs: of all prompts.
        people: item -> verdict; see `verdicts`.
        name: id of a pair.
        building: what a pair must fulfil.
    """
    return [_decided(p, _said(p, people, name), building) for p in pairs]


def _said(pair: Pair, people: Mapping[str, str], name: Callable[[Pair], str]) -> str | None:
    """What people said of two answers, whichever of them was called the chosen one."""
    item, other = name(pair), name(pair.swapped)
    said, turned = people.get(item), people.get(other) if other != item else None
    if turned is not None:
        turned = {"chosen": "rejected", "rejected": "chosen"}.get(turned, turned)
    if said is None or turned is None:
        return turned if said is None else said
    return said if said == turned else "disagree"


def _decided(pair: Pair, said: str | None, building: Building) -> Pair:
    if said is None:
        return pair
    if said not in ("chosen", "rejected"):
        return replace(pair, reason=f"people: {said}", decided_by=PEOPLE)
    better = pair if said == "chosen" else pair.swapped
    return replace(better, reason=refusal(better, building, judged=False), decided_by=PEOPLE)
