"""Fused: an answer that was made of several, what may be wrong with it, and examples of it.

What a fusor may do wrong has a name: it copies a candidate, answers in another language, declines
where the candidates do not, speaks of candidates, or, where the answer is known, misses what one of
them reaches; then the best candidate stands in its place. One candidate alone is its own fusion.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import polars as pl

from gristmill.pipeline.clean.filters.language import guessed
from gristmill.pipeline.clean.filters.refusal import declines
from gristmill.pipeline.models.completion.requests import Answer
from gristmill.pipeline.numerics.answers import solves
from gristmill.pipeline.numerics.edit_distance import similarity
from gristmill.pipeline.records.schema import EXAMPLE, canonical_json, content_id
from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.prompts import Prompt

COPIED = 0.95  # edit similarity with a candidate above which nothing new was written
_MENTION = re.compile(r"\bcandidate(?:s|[ _]\d+)?\b", re.IGNORECASE)
Origin = Literal["fused", "alone", "fallback"]


@dataclass(frozen=True, kw_only=True)
class Fused:
    """The answer to a prompt that N candidates came to.

    Attributes:
        prompt: its id.
        text: of it.
        origin: "fused" = written anew, "alone" = the only candidate, "fallback" = the candidate
            that is right where the fused answer is not.
        reason: why it is no answer of its own, if it is none.
        shown: ids of the candidates that were read, in the order shown.
        left_out: ids of those that did not fit.
        similarity: with the nearest candidate, 1 = the same text.
        length_ratio: its length over the median candidate's.
        tokens_in: of the fusor's prompt.
        tokens_out: of its answer.
    """

    prompt: str
    text: str
    origin: Origin
    reason: str | None = None
    shown: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    similarity: float | None = None
    length_ratio: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a fusor reads."""

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    left_out: tuple[Candidate, ...] = ()


FUSED: dict[str, Any] = {
    "prompt": pl.String,
    "text": pl.String,
    "origin": pl.String,
    "reason": pl.String,
    "shown": pl.List(pl.String),
    "left_out": pl.List(pl.String),
    "similarity": pl.Float64,
    "length_ratio": pl.Float64,
}


def row(found: Fused) -> dict[str, Any]:
    """A row of `FUSED`."""
    return {name: vars(found)[name] for name in FUSED}


def judged(shown: Shown, text: str, answer: Answer | None = None) -> Fused:
    """A fused answer with what the guards say of it.

    Args:
        shown: what the fusor read.
        text: what it wrote.
        answer: with the tokens that it took.
    """
    every = [*shown.candidates, *shown.left_out]
    known = shown.prompt.answer
    if known is not None and not solves(text, known):
        right = [c for c in every if solves(c.text, known)]
        if right:
            best = min(right, key=lambda c: (c.length, c.id))
            reason = f"fallback: it misses the known answer that {len(right)} candidates reach"
            return fused(shown, best.text, "fallback", reason, answer)
    return fused(shown, text, "fused", _fault(shown, text), answer)


def _fault(shown: Shown, text: str) -> str | None:
    """Why a text is no fused answer."""
    texts = [c.text for c in shown.candidates]
    near = max(similarity(text, t) for t in texts)
    if near > COPIED:
        return f"copied: edit similarity {near:.2f} with a candidate"
    if bool(declines(pl.Series([text]))[0]) and not declines(pl.Series(texts)).all():
        return "refusal: it declines, and not all candidates do"
    said = _MENTION.search(text)
    if said is not None and not any(_MENTION.search(t) for t in (shown.prompt.text, *texts)):
        return f"mentions: it speaks of {said[0]!r}"
    spoken, wanted = _language(text), _language(shown.prompt.text)
    if spoken and wanted and spoken != wanted and spoken not in [_language(t) for t in texts]:
        return f"language: {spoken}, and the request is {wanted}"
    return None


def _language(text: str) -> str | None:
    found = guessed(text)
    return found[0][0] if found else None


def fused(
    shown: Shown, text: str, origin: Origin, reason: str | None, answer: Answer | None = None
) -> Fused:
    """What came of a call, with its likeness to the candidates and its length beside theirs."""
    texts = [c.text for c in shown.candidates]
    usual = median(c.length for c in shown.candidates) if texts else 0
    return Fused(
        prompt=shown.prompt.id,
        text=text,
        origin=origin,
        reason=reason,
        shown=tuple(c.id for c in shown.candidates),
        left_out=tuple(c.id for c in shown.left_out),
        similarity=max((similarity(text, t) for t in texts), default=None) if text else None,
        length_ratio=len(text.strip()) / usual if text and usual else None,
        tokens_in=answer.tokens_in if answer else 0,
        tokens_out=answer.tokens_out if answer else 0,
    )


def alone(prompt: Prompt, given: Sequence[Candidate]) -> Fused:
    """What there is to say where no two candidates are: the only one, or nothing."""
    if not given:
        reason = "no_candidate: there is nothing to fuse"
        return Fused(prompt=prompt.id, text="", origin="alone", reason=reason)
    reason = "alone: one candidate is its own fusion"
    return Fused(
        prompt=prompt.id,
        text=given[0].text,
        origin="alone",
        reason=reason,
        shown=(given[0].id,),
        similarity=1.0,
        length_ratio=1.0,
    )


def too_long(shown: Shown, most: int) -> Fused:
    """What there is to say where no two candidates fit into a prompt."""
    reason = f"too_long: two candidates and the prompt exceed {most:,} tokens"
    return fused(shown, "", "fused", reason)


def examples(found: Sequence[Mapping[str, Any]], prompts: Mapping[str, Prompt]) -> pl.DataFrame:
    """Fused answers as rows of `EXAMPLE`: what the best of N is replaced by in supervised data.

    Answers with a fault are left out; a lone candidate and a fallback are answers like any other.

    Args:
        found: rows of `FUSED`.
        prompts: by id.
    """
    rows = []
    for one in found:
        if one["origin"] == "fused" and one["reason"] is not None:
            continue
        prompt = prompts[one["prompt"]]
        turn = {"role": "assistant", "content": one["text"].strip(), "extra": None}
        content = {"messages": [*prompt.messages, turn], "tools": prompt.tools}
        told = {"parents": [prompt.id], "fusion": {k: one[k] for k in FUSED if k != "text"}}
        rows.append(
            {
                **dict.fromkeys(EXAMPLE),
                **content,
                "id": content_id("example", content),
                "source": prompt.source,
                "row": prompt.row,
                "license": prompt.license,
                "meta": canonical_json(told),
            }
        )
    return pl.DataFrame(rows, schema=EXAMPLE)
