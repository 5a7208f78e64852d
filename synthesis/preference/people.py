"""People: what they said of pairs stands in the place of the judge's verdict.

The table is `records.judgements`, whose items are ids of pairs as a run of this flow published them
or set them aside: the same run with the table then keeps, turns or drops them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import polars as pl

from gristmill.pipeline.records.judgements import OF_PAIRS, current
from gristmill.synthesis.preference.building import Building, Pair, refusal

PEOPLE = "people"


def verdicts(judgements: pl.DataFrame) -> dict[str, str]:
    """Item -> what most of its annotators say; "disagree" where no judgement has more than others.

    Those who skipped an item said nothing of it.
    """
    said: dict[str, Counter[str]] = {}
    for item, judgement in current(judgements).select("item", "judgement").iter_rows():
        if judgement in OF_PAIRS and judgement != "skip":
            said.setdefault(item, Counter())[judgement] += 1
    return {item: _most(votes) for item, votes in said.items()}


def decided(
    pairs: Sequence[Pair],
    people: Mapping[str, str],
    name: Callable[[Pair], str],
    building: Building,
) -> list[Pair]:
    """The pairs as people decided them; those of which nobody spoke as they are.

    A pair that people turn or keep must still be two different texts, with a chosen side that is
    not known to be wrong.

    Args:
        pairs: of all prompts.
        people: item -> verdict; see `verdicts`.
        name: id of a pair.
        building: what a pair must fulfil.
    """
    return [_decided(p, people.get(name(p)), building) for p in pairs]


def _decided(pair: Pair, said: str | None, building: Building) -> Pair:
    if said is None:
        return pair
    if said not in ("chosen", "rejected"):
        return replace(pair, reason=f"people: {said}", decided_by=PEOPLE)
    better = pair if said == "chosen" else pair.swapped
    return replace(better, reason=refusal(better, building, judged=False), decided_by=PEOPLE)


def _most(votes: Counter[str]) -> str:
    (first, count), *rest = votes.most_common(2)
    return "disagree" if rest and rest[0][1] == count else first
