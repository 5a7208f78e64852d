"""Verifying: candidates against the known answer of their prompt, before any judge is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gristmill.pipeline.numerics.answers import solves
from gristmill.synthesis.preference.candidates import VERIFIED, Candidate


def verified(candidates: Sequence[Candidate], answers: Mapping[str, str | None]) -> list[Candidate]:
    """The candidates with what the verifier found; those without a known answer as they are.

    Args:
        candidates: of any prompts.
        answers: prompt -> its known answer.
    """
    return [_verified(c, answers.get(c.prompt)) for c in candidates]


def undecided(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that a judge is still needed for.

    Those of prompts without a known answer, and those of prompts where every one reaches it. Where
    only some do, the verifier has decided; where none does, no judge can make one right.
    """
    by_prompt: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_prompt.setdefault(candidate.prompt, []).append(candidate)
    return [
        c
        for group in by_prompt.values()
        if all(c.verified is not False for c in group)
        for c in group
    ]


def _verified(candidate: Candidate, answer: str | None) -> Candidate:
    if answer is None:
        return candidate
    right = solves(candidate.text, answer)
    value = 1.0 if right else 0.0
    return replace(
        candidate,
        verified=right,
        score=value,
        aspects={**candidate.aspects, VERIFIED: value},
    )
