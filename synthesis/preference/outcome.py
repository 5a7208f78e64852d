"""Outcome: what became of every prompt and pair of a run, and the figures of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from gristmill.pipeline.clean.decontaminate import Gate, decontaminate
from gristmill.pipeline.records.schema import PAIR
from gristmill.synthesis.preference import records
from gristmill.synthesis.preference.building import Building, Pair, pairs_of
from gristmill.synthesis.preference.judges import Judgement
from gristmill.synthesis.preference.length import LengthControl, controlled, longer_share
from gristmill.synthesis.preference.people import decided
from gristmill.synthesis.preference.prompts import ASIDE, Prompt
from gristmill.synthesis.preference.tournament import Quality, groups, quality


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What pairs must pass once they are built.

    Attributes:
        length: length control.
        people: pair -> what people say of it; see `people.verdicts`.
        items: of evaluation sets, which no pair may repeat.
        gate: what counts as a repetition.
    """

    length: LengthControl = field(default_factory=LengthControl)
    people: Mapping[str, str] = field(default_factory=dict)
    items: pl.DataFrame | None = None
    gate: Gate = field(default_factory=Gate)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run's result.

    Attributes:
        prompts: by id, those that were asked.
        pairs: kept and refused.
        aside: rows of `ASIDE`: what gives no pair, with its reason.
        uses: of each prompt that is used its place, and the number of its pairs.
        judgement: what judges found.
        quality: of the judge of pairs.
        longer: share of pairs whose chosen side is longer, before and after length control.
    """

    prompts: Mapping[str, Prompt]
    pairs: tuple[Pair, ...]
    aside: pl.DataFrame
    uses: tuple[Mapping[str, Any], ...]
    judgement: Judgement
    quality: Quality
    longer: tuple[float | None, float | None]

    @property
    def kept(self) -> tuple[Pair, ...]:
        """The pairs that are published."""
        return tuple(p for p in self.pairs if p.reason is None)

    @property
    def refused(self) -> dict[str, int]:
        """Pairs that are refused, by reason."""
        return counts(p.reason for p in self.pairs if p.reason is not None)

    @property
    def set_aside(self) -> dict[str, int]:
        """Prompts without a pair, by reason."""
        return counts(self.aside["reason"])


def counts(reasons: Any) -> dict[str, int]:  # noqa: ANN401  (texts)
    """How often each kind of reason occurs (the word before the colon), most first."""
    return dict(Counter(str(r).partition(":")[0] for r in reasons).most_common())


def built(
    prompts: Sequence[Prompt],
    aside: pl.DataFrame,
    unanswered: Sequence[Mapping[str, Any]],
    judgement: Judgement,
    building: Building,
    controls: Controls,
) -> Outcome:
    """Pairs of every prompt; each prompt has one, or stands aside with its reason.

    Args:
        prompts: that were asked.
        aside: rows that were set aside before (`ASIDE`).
        unanswered: answers that are no candidates.
        judgement: the candidates and what was said of them.
        building: the rule and what a pair must fulfil.
        controls: what pairs must pass once they are built.
    """
    by_id = {p.id: p for p in prompts}
    several: dict[str, list[Any]] = {}
    for candidate in judgement.candidates:
        several.setdefault(candidate.prompt, []).append(candidate)
    met = {m.key: m.said for m in judgement.met}
    failed: dict[str, str] = {}
    for one in unanswered:
        failed.setdefault(one["prompt"], one["reason"])
    pairs: list[Pair] = []
    reasons: dict[str, str] = {}
    for prompt in prompts:
        found, why = pairs_of(prompt.id, several.get(prompt.id, []), met, building)
        pairs += found
        if why is not None:
            told = failed.get(prompt.id)
            few = why in ("no_candidate", "one_candidate")
            reasons[prompt.id] = f"{why}: {told}" if few and told else why
            if found:  # two that the judge could not order say more
                reasons[prompt.id] = found[0].reason or why

    def name(pair: Pair) -> str:
        return records.ident(pair, by_id[pair.prompt])

    pairs = decided(pairs, controls.people, name, building)
    pairs = decontaminated(pairs, by_id, controls)
    before = longer_share([p for p in pairs if p.reason is None])
    pairs = controlled(pairs, controls.length)
    kept = [p for p in pairs if p.reason is None]
    used = Counter(p.prompt for p in kept)
    for pair in pairs:
        if pair.reason is not None:
            reasons.setdefault(pair.prompt, pair.reason)
    left = [
        {"prompt": p.id, "source": p.source, "row": p.row, "reason": reasons[p.id]}
        for p in prompts
        if p.id not in used
    ]
    return Outcome(
        prompts=by_id,
        pairs=tuple(pairs),
        aside=pl.concat([aside, pl.DataFrame(left, schema=ASIDE)]),
        uses=uses(used, by_id),
        judgement=judgement,
        quality=quality(
            judgement.met, [c for g in groups(judgement.candidates).values() for c in g]
        ),
        longer=(before, longer_share(kept)),
    )


def uses(pairs: Mapping[str, int], prompts: Mapping[str, Prompt]) -> tuple[Mapping[str, Any], ...]:
    """Rows of `Outcome.uses`.

    Args:
        pairs: prompt -> number of pairs that use it.
        prompts: by id.
    """
    return tuple(
        {"prompt": p, "source": prompts[p].source, "row": prompts[p].row, "pairs": n}
        for p, n in pairs.items()
    )


def decontaminated(
    pairs: Sequence[Pair], prompts: Mapping[str, Prompt], controls: Controls
) -> list[Pair]:
    """The pairs; those whose texts repeat an item of an evaluation set have the reason."""
    open_ = [i for i, p in enumerate(pairs) if p.reason is None]
    if controls.items is None or not open_:
        return list(pairs)
    rows = [{**records.row(pairs[i], prompts[pairs[i].prompt]), "row": i} for i in open_]
    dropped, _ = decontaminate(
        [pl.DataFrame(rows, schema=PAIR)], controls.items, gate=controls.gate
    )
    why = dict(dropped.select("row", "reason").iter_rows())
    return [replace(p, reason=why.get(i, p.reason)) for i, p in enumerate(pairs)]
