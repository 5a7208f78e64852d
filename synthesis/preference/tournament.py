"""Tournament: every two candidates of a prompt compared in both orders, and the scores of it.

A candidate's score is the mean of its values over its comparisons: the share that it wins, a tie
counting half. Labels that stand in files are comparisons too, each order saying the same.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import polars as pl

from gristmill.pipeline.evaluate.judging import Comparison, Judged, PairJudge, compare, first_share
from gristmill.pipeline.models.completion.budget import Price
from gristmill.synthesis.preference.answering import Client
from gristmill.synthesis.preference.candidates import VERDICTS, Candidate, candidate_id, distinct

Key = tuple[str, str]  # ids of two candidates, in order
SHARE = "share_won"  # the aspect that keeps a tournament's score


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Two candidates of a prompt, `one` < `two` by id, and what was said of them."""

    prompt: str
    one: str
    two: str
    said: Judged
    judge: str
    cost: float = 0.0

    @property
    def key(self) -> Key:
        return self.one, self.two


def groups(candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    """The different candidates of each prompt, by id."""
    found: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        found.setdefault(candidate.prompt, []).append(candidate)
    return {p: sorted(distinct(group), key=lambda c: c.id) for p, group in found.items()}


def meetings(
    candidates: Sequence[Candidate],
    prompts: Mapping[str, str],
    judge: PairJudge,
    client: Client,
    price: Price,
) -> list[Meeting]:
    """Every two different candidates of each prompt, judged in both orders.

    Args:
        candidates: of any prompts.
        prompts: prompt -> its text.
        judge: who compares.
        client: how models are asked.
        price: of the judge's tokens.
    """
    two = [pair for group in groups(candidates).values() for pair in combinations(group, 2)]
    asked = [
        Comparison(id=f"{a.id}/{b.id}", prompt=prompts[a.prompt], one=a.text, two=b.text)
        for a, b in two
    ]
    found = compare(
        asked,
        judge,
        cache=client.cache,
        budget=client.budget(price),
        progress=client.tell("verdicts"),
    )
    return [
        Meeting(
            prompt=a.prompt,
            one=a.id,
            two=b.id,
            said=said,
            judge=judge.backend.model,
            cost=price.of(said.tokens_in, said.tokens_out),
        )
        for (a, b), said in zip(two, found, strict=True)
    ]


def labelled(labels: Iterable[tuple[str, str, str]]) -> tuple[list[Meeting], int]:
    """What files say of two answers, and how many of these contradict another label of the two.

    The label that most rows give stands; as many for either is a conflict, which decides nothing.

    Args:
        labels: (prompt, better text, worse text).
    """
    votes: dict[tuple[str, str, str], Counter[bool]] = {}
    for prompt, better, worse in labels:
        ids = candidate_id(prompt, better), candidate_id(prompt, worse)
        if ids[0] != ids[1]:
            votes.setdefault((prompt, *sorted(ids)), Counter())[ids[0] < ids[1]] += 1  # type: ignore[arg-type]
    found = []
    for (prompt, one, two), said in sorted(votes.items()):
        ahead, behind = said[True], said[False]
        value = 0.5 if ahead == behind else float(ahead > behind)
        reason = f"conflict: {ahead} labels against {behind}" if ahead == behind else None
        told = Judged(id=f"{one}/{two}", one_first=value, two_first=value, reason=reason)
        found.append(Meeting(prompt=prompt, one=one, two=two, said=told, judge="labels"))
    return found, sum(min(v.values()) for v in votes.values() if len(v) == 2)


def scored(candidates: Sequence[Candidate], met: Sequence[Meeting]) -> list[Candidate]:
    """The candidates with the share of their comparisons that they won.

    One that was compared and has no verdict is unrated, with the judge's reason.
    """
    values: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}
    for meeting in met:
        for ident, said in ((meeting.one, meeting.said), (meeting.two, meeting.said.turned)):
            if said.value is None:
                reasons.setdefault(ident, f"judge: {said.reason}")
            else:
                values.setdefault(ident, []).append(said.value)
    return [_scored(c, values.get(c.id), reasons.get(c.id)) for c in candidates]


def _scored(candidate: Candidate, won: Sequence[float] | None, reason: str | None) -> Candidate:
    if won is None and reason is None:
        return candidate  # it met nobody
    share = sum(won) / len(won) if won else None
    return candidate.scored(share, {SHARE: share}, reason if share is None else None)


def table(met: Iterable[Meeting]) -> pl.DataFrame:
    """`VERDICTS`."""
    rows = [
        {
            **{c: vars(m.said)[c] for c in VERDICTS if c in vars(m.said)},
            **{c: vars(m)[c] for c in ("prompt", "one", "two", "judge", "cost")},
            "value": m.said.value,
            "label": m.said.label,
        }
        for m in met
    ]
    return pl.DataFrame(rows, schema=VERDICTS).sort("prompt", "one", "two")


def listed(verdicts: pl.DataFrame) -> list[Meeting]:
    """The meetings of a table."""
    return [
        Meeting(
            prompt=row["prompt"],
            one=row["one"],
            two=row["two"],
            judge=row["judge"],
            cost=row["cost"],
            said=Judged(
                id=f"{row['one']}/{row['two']}",
                **{c: row[c] for c in _SAID},
            ),
        )
        for row in verdicts.iter_rows(named=True)
    ]


_SAID = ("one_first", "two_first", "reason", "band", "mass", "tokens_in", "tokens_out")


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How a judge judged.

    Attributes:
        comparisons: asked.
        answered: with two verdicts.
        disagree: share of these whose orders contradict each other.
        first: share of verdicts for the answer shown first, ties counting half.
        conflict: share of decided comparisons whose scores say the opposite.
        triples: three candidates of a prompt whose comparisons are all decided.
        intransitive: share of these that form a circle.
    """

    comparisons: int
    answered: int
    disagree: float | None
    first: float | None
    conflict: float | None
    triples: int
    intransitive: float | None


def quality(met: Sequence[Meeting], candidates: Iterable[Candidate]) -> Quality:
    """The figures of a judge.

    Args:
        met: what it said.
        candidates: with their scores.
    """
    score = {c.id: c.score for c in candidates if c.score is not None}
    answered = [m for m in met if m.said.value is not None]
    decided = [m for m in answered if m.said.label in ("one", "two")]
    scored = [m for m in decided if m.one in score and m.two in score]
    against = [
        m
        for m in scored
        if (score[m.one] - score[m.two]) * (1 if m.said.label == "one" else -1) < 0
    ]
    triples, circles = _triples(decided)
    return Quality(
        comparisons=len(met),
        answered=len(answered),
        disagree=_share(sum(m.said.contradicts for m in answered), len(answered)),
        first=first_share(m.said for m in answered),
        conflict=_share(len(against), len(scored)),
        triples=triples,
        intransitive=_share(circles, triples),
    )


def mass(met: Iterable[Meeting]) -> float | None:
    """What the allowed answers had of the probability, in the mean; null where it was not read."""
    masses = [m.said.mass for m in met if m.said.mass is not None]
    return sum(masses) / len(masses) if masses else None


def _triples(decided: Sequence[Meeting]) -> tuple[int, int]:
    """Triples of candidates that all met with a winner, and how many of them are circles."""
    beats: dict[str, dict[Key, bool]] = {}
    for m in decided:
        beats.setdefault(m.prompt, {})[m.key] = m.said.label == "one"
    count = circles = 0
    for wins in beats.values():
        names = sorted({name for key in wins for name in key})
        for a, b, c in combinations(names, 3):
            sides = [wins.get(key) for key in ((a, b), (b, c), (a, c))]
            if None in sides:
                continue
            count += 1
            circles += sides in ([True, True, False], [False, False, True])
    return count, circles


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
