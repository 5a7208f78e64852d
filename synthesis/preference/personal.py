"""Personal: what users prefer, as a run's outcome: one pair a few-shot prompt."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from gristmill.synthesis.preference.building import Pair, stripped
from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.few_shot import FewShot, few_shot
from gristmill.synthesis.preference.judges import Judgement
from gristmill.synthesis.preference.length import controlled, longer_share
from gristmill.synthesis.preference.outcome import Controls, Outcome, decontaminated, uses
from gristmill.synthesis.preference.personas import Labelled, Versus
from gristmill.synthesis.preference.prompts import ASIDE, Prompt
from gristmill.synthesis.preference.tournament import Meeting, groups, quality

Truncated = Callable[[Mapping[str, Prompt]], Callable[[str, str], Any]]


def versus(candidates: Sequence[Candidate]) -> list[Versus]:
    """The two first different candidates of each prompt, by id: what every user is asked of."""
    found = groups(candidates)
    return [
        Versus(prompt=p, one=group[0], two=group[1])
        for p, group in sorted(found.items())
        if len(group) > 1
    ]


def personal(
    prompts: Sequence[Prompt],
    aside: pl.DataFrame,
    candidates: Sequence[Candidate],
    found: Labelled,
    settings: FewShot,
    controls: Controls,
    count: Callable[[str], int],
    truncated: Truncated | None = None,
) -> Outcome:
    """Few-shot pairs of all users; a prompt that is in none stands aside with its reason.

    Args:
        prompts: that were asked.
        aside: rows that were set aside before (`ASIDE`).
        candidates: their answers.
        found: users, and what they prefer.
        settings: of the few-shot prompts.
        controls: what pairs must pass.
        count: tokens of a text.
        truncated: prompts to what a trainer sees of their answers; None: nothing truncates them.
    """
    by_id = {p.id: p for p in prompts}
    rows, gone = few_shot(found.users, found.labels, by_id, settings, count)
    shown = {r.prompt.id: r.prompt for r in rows}
    pairs = alike([r.pair for r in rows], stripped if truncated is None else truncated(shown))
    pairs = decontaminated(pairs, shown, controls)
    before = longer_share([p for p in pairs if p.reason is None])
    pairs = controlled(pairs, controls.length)
    used: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    of = {frozenset((x.of.one.id, x.of.two.id)): x.of.prompt for x in found.labels}
    for row, pair in zip(rows, pairs, strict=True):
        for prompt in {row.asked, *(of[frozenset(shot)] for shot in row.shots)}:
            if pair.reason is None:
                used[prompt] += 1
            else:
                reasons.setdefault(prompt, Counter())[pair.reason] += 1
    for one in gone:
        reasons.setdefault(one["prompt"], Counter())[one["reason"]] += 1
    left = [
        {
            "prompt": p.id,
            "source": p.source,
            "row": p.row,
            "reason": _reason(reasons.get(p.id), candidates, p.id),
        }
        for p in prompts
        if p.id not in used
    ]
    return Outcome(
        prompts=shown,
        pairs=tuple(pairs),
        aside=pl.concat([aside, pl.DataFrame(left, schema=ASIDE)]),
        uses=uses(used, by_id),
        judgement=Judgement(candidates=tuple(candidates), cost=sum(x.cost for x in found.labels)),
        quality=quality(_met(found), []),
        longer=(before, longer_share([p for p in pairs if p.reason is None])),
    )


def alike(pairs: Sequence[Pair], shown: Callable[[str, str], Any]) -> list[Pair]:
    """The pairs; those whose sides are equal, that repeat one, or contradict one, have the reason.

    Users who agree on the same examples have the same prompt: a pair of it that both prefer is one
    pair, and where they prefer opposite answers nothing is left to learn.

    Args:
        pairs: of all users.
        shown: prompt and text to what a trainer sees of the text, after truncation.
    """
    told = {(p.prompt, p.chosen.id, p.rejected.id) for p in pairs}
    seen: set[tuple[str, str, str]] = set()
    made = []
    for pair in pairs:
        key = (pair.prompt, pair.chosen.id, pair.rejected.id)
        reason = None
        if shown(pair.prompt, pair.chosen.text) == shown(pair.prompt, pair.rejected.text):
            reason = "same_after_truncation"
        elif (pair.prompt, pair.rejected.id, pair.chosen.id) in told:
            reason = "conflict: users with the same examples prefer opposite answers"
        elif key in seen:
            reason = "repeated: another user has the same examples and the same pair"
        seen.add(key)
        made.append(replace(pair, reason=reason))
    return made


def _met(found: Labelled) -> list[Meeting]:
    """The comparisons that users were asked for, whoever was asked."""
    return [
        Meeting(
            prompt=f"{x.user}/{x.of.prompt}",
            one=x.of.one.id,
            two=x.of.two.id,
            said=x.said,
            judge=x.user,
            cost=x.cost,
        )
        for x in found.labels
    ]


def _reason(counted: Counter[str] | None, candidates: Sequence[Candidate], prompt: str) -> str:
    """Why a prompt is in no row: what was said of it for most users."""
    if counted:
        return counted.most_common(1)[0][0]
    several = len({c.id for c in candidates if c.prompt == prompt})
    return "one_candidate" if several == 1 else "no_candidate" if several == 0 else "no_user"
