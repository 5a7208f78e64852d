"""Personal: what users prefer, as a run's outcome: one pair a few-shot prompt."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import polars as pl

from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.few_shot import FewShot, Shown, few_shot
from gristmill.synthesis.preference.judges import Judgement
from gristmill.synthesis.preference.length import controlled, longer_share
from gristmill.synthesis.preference.outcome import Controls, Outcome, decontaminated
from gristmill.synthesis.preference.personas import Labelled, Versus
from gristmill.synthesis.preference.prompts import ASIDE, Prompt
from gristmill.synthesis.preference.tournament import groups, quality


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
    """
    by_id = {p.id: p for p in prompts}
    rows, gone = few_shot(found.users, found.labels, by_id, settings, count)
    shown = {r.prompt.id: r.prompt for r in rows}
    pairs = decontaminated([r.pair for r in rows], shown, controls)
    before = longer_share([p for p in pairs if p.reason is None])
    pairs = controlled(pairs, controls.length)
    used = _used(rows, found)
    reasons: dict[str, Counter[str]] = {}
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
        judgement=Judgement(candidates=tuple(candidates), cost=sum(x.cost for x in found.labels)),
        quality=quality([], list(candidates)),
        longer=(before, longer_share([p for p in pairs if p.reason is None])),
    )


def _used(rows: Sequence[Shown], found: Labelled) -> set[str]:
    """The prompts that are a question or an example of some row."""
    prompt: Mapping[frozenset[str], str] = {
        frozenset((x.of.one.id, x.of.two.id)): x.of.prompt for x in found.labels
    }
    shots = {prompt[frozenset(shot)] for r in rows for shot in r.shots}
    return shots | {r.asked for r in rows}


def _reason(counted: Counter[str] | None, candidates: Sequence[Candidate], prompt: str) -> str:
    """Why a prompt is in no row: what was said of it for most users."""
    if counted:
        return counted.most_common(1)[0][0]
    several = len({c.id for c in candidates if c.prompt == prompt})
    return "one_candidate" if several == 1 else "no_candidate" if several == 0 else "no_user"
