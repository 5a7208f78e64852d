"""The report of a run: what came of prompts and pairs, how the judge judged, length, and cost."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from gristmill.pipeline.report import plots
from gristmill.pipeline.report.page import (
    Html,
    document,
    join,
    number,
    numbers,
    section,
    table,
    tag,
)
from gristmill.synthesis.preference.answering import Answered
from gristmill.synthesis.preference.outcome import Outcome, counts

_SHOWN = 5  # examples of each kind
_LONGEST = 600  # characters of an example


def figures(outcome: Outcome, answered: Answered) -> dict[str, Any]:
    """The figures of a run, by name; what was not measured is null."""
    judge, obedience = outcome.quality, outcome.judgement.obedience
    writers = sum(c.cost for c in answered.candidates)
    canaries = 0.0 if obedience is None else obedience.cost
    told = {
        "prompts": len({*(u["prompt"] for u in outcome.uses), *outcome.aside["prompt"]}),
        "prompts used": len(outcome.uses),
        "pairs kept": len(outcome.kept),
        "candidates": len(answered.candidates),
        "answers that are no candidates": len(answered.unanswered),
        "comparisons": judge.comparisons,
        "comparisons with both verdicts": judge.answered,
        "first-position share": judge.first,
        "orders disagree": judge.disagree,
        "score-comparison conflicts": judge.conflict,
        "intransitive triples": judge.intransitive,
        "contradicting labels": outcome.judgement.contradicted,
        "probability of the allowed answers": outcome.judgement.mass,
        "canaries obeyed": None if obedience is None else obedience.obeyed,
        "canaries answered": None if obedience is None else obedience.answered,
        "chosen longer, before length control": outcome.longer[0],
        "chosen longer": outcome.longer[1],
        "cost of candidates": writers,
        "cost of judging": outcome.judgement.cost + canaries,
    }
    reasons = {"set aside": outcome.set_aside, "pairs refused": outcome.refused}
    return {**told, **{f"{k}: {r}": n for k, found in reasons.items() for r, n in found.items()}}


def page(outcome: Outcome, answered: Answered, *, title: str) -> bytes:
    """The whole report."""
    told = figures(outcome, answered)
    tiles = [
        (told["pairs kept"], "pairs kept"),
        (told["prompts used"], f"prompts used of {told['prompts']:,}"),
        (told["candidates"], "candidates"),
        (told["cost of candidates"] + told["cost of judging"], "cost"),
    ]
    header = join(
        [
            tag("h1", title),
            tag("p", "Preference pairs: who wrote both sides, who judged them, and what was left."),
            tag(
                "div",
                *(tag("div", tag("b", number(v)), tag("span", w), class_="tile") for v, w in tiles),
                class_="tiles",
            ),
        ]
    )
    sections = [
        ("prompts", "Prompts", _prompts(outcome)),
        ("writers", "Writers", _writers(outcome, answered)),
        ("judge", "Judge", _judge(told)),
        ("length", "Length", _length(told)),
        ("examples", "Examples", _examples(outcome)),
    ]
    return document(title, header, sections, "Every figure is computed from the run's tables.")


def _prompts(outcome: Outcome) -> Html:
    note = "Every prompt has a pair, or stands aside with its reason; so does every refused pair."
    rows = [("prompt", r, n) for r, n in outcome.set_aside.items()]
    rows += [("pair", r, n) for r, n in outcome.refused.items()]
    if not rows:
        return section("prompts", "What was set aside", f"{note} Here there is none.")
    names = [f"{reason} ({what})" for what, reason, _ in rows]
    drawn = plots.bars("Reasons", names, [[n for *_, n in rows]], ["reason", "count"])
    return section("prompts", "What was set aside", note, drawn)


def _writers(outcome: Outcome, answered: Answered) -> Html:
    wrote = Counter(c.role for c in answered.candidates)
    failed = Counter(str(u["role"]) for u in answered.unanswered)
    right = Counter(c.role for c in outcome.judgement.candidates if c.verified)
    checked = Counter(c.role for c in outcome.judgement.candidates if c.verified is not None)
    chosen = Counter(p.chosen.role for p in outcome.kept)
    rejected = Counter(p.rejected.role for p in outcome.kept)
    cost: dict[str, float] = {}
    for c in answered.candidates:
        cost[c.role] = cost.get(c.role, 0.0) + c.cost
    head = ["role", "candidates", "no candidate", "right", "checked", "chosen", "rejected", "cost"]
    rows = [
        (
            role,
            wrote[role],
            failed[role],
            right[role],
            checked[role],
            chosen[role],
            rejected[role],
            cost.get(role, 0.0),
        )
        for role in sorted({*wrote, *failed})
    ]
    reasons = counts(u["reason"] for u in answered.unanswered)
    why = [table(["no candidate because", "answers"], list(reasons.items()))] if reasons else []
    note = "A role is a model under one set of sampling settings, or the answers of a file."
    return section("writers", "Who wrote the candidates", note, table(head, rows), *why)


def _judge(told: Mapping[str, Any]) -> Html:
    names = (
        "comparisons",
        "comparisons with both verdicts",
        "first-position share",
        "orders disagree",
        "score-comparison conflicts",
        "intransitive triples",
        "contradicting labels",
        "probability of the allowed answers",
        "canaries obeyed",
        "canaries answered",
    )
    note = (
        "A fair judge prefers the first place half of the time. A canary is a prompt of ours that "
        "orders a verdict: a judge that obeys it can be told by others, too."
    )
    rows = [(name, told[name]) for name in names]
    return section("judge", "How the judge judged", note, table(["figure", "value"], rows))


def _length(told: Mapping[str, Any]) -> Html:
    names = ("chosen longer, before length control", "chosen longer")
    rows = [(name, told[name]) for name in names]
    note = "Share of pairs whose chosen side has more characters than the rejected one."
    return section("length", "Length", note, numbers(["figure", "share"], rows))


def _examples(outcome: Outcome) -> Html:
    kept = sorted(outcome.kept, key=lambda p: p.chosen.id)[:_SHOWN]
    refused: dict[str, Any] = {}
    for pair in sorted(outcome.pairs, key=lambda p: p.chosen.id):
        if pair.reason is not None:
            refused.setdefault(pair.reason.partition(":")[0], pair)
    parts: list[Html] = []
    for title, pairs in (("Kept", kept), ("Refused, one a reason", list(refused.values()))):
        rows = [
            (
                _cut(outcome.prompts[p.prompt].text),
                _cut(p.chosen.text),
                _cut(p.rejected.text),
                p.reason or "",
            )
            for p in pairs
        ]
        parts += [tag("h3", title), table(["prompt", "chosen", "rejected", "reason"], rows)]
    return section("examples", "Pairs", "As they were written.", *parts)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
