"""Answers: what a model says to the prompts of held-out rows, for a judge to compare."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.evaluate.win_rate import ANSWERS
from gristmill.pipeline.models.completion.budget import Budget
from gristmill.pipeline.models.completion.client import complete
from gristmill.pipeline.models.completion.requests import CompletionBackend, Request, Sampling
from gristmill.pipeline.records.text import texts


def compared(
    frame: pl.DataFrame,
    candidate: CompletionBackend,
    baseline: CompletionBackend,
    *,
    cache: Path | None = None,
    budget: Budget | None = None,
    max_tokens: int = 512,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Both models' answers to the prompts of examples or pairs, greedily.

    Returns `win_rate.ANSWERS` and how many prompts are left out, by reason: those that a model
    could not be asked. An answer that reaches `max_tokens` is taken as it is, and so is one that
    says nothing. Rows with the same prompt are one.

    Args:
        frame: examples (asked up to their last answer) or preference pairs.
        candidate: who is judged.
        baseline: against whom.
        cache: of completions.
        budget: caps and prices.
        max_tokens: longest answer.

    Raises:
        ValueError: no row has a prompt that both answer.
    """
    rows = frame.with_columns(text=texts(frame, "prompt")).filter(pl.col("text") != "")
    rows = rows.unique("text", keep="first", maintain_order=True)
    asked = [r for r in rows.iter_rows(named=True) if _asked(r)]
    said: dict[str, dict[str, str]] = {}
    left: dict[str, str] = {}
    for name, backend in (("candidate", candidate), ("baseline", baseline)):
        results = complete(
            asked,
            backend,
            prompt=lambda row: Request(
                id=row["id"], messages=_asked(row), sampling=Sampling(max_tokens=max_tokens)
            ),
            cache=cache,
            budget=budget,
            keep_cut=True,
        )
        said[name] = {}
        for result in results:
            reason = (result.reason or "").partition(":")[0]
            if reason in ("", "empty_answer"):
                said[name][result.row["id"]] = "" if reason else result.value
            else:
                left[result.row["id"]] = reason
    both = [
        (r["id"], r["text"], said["candidate"][r["id"]], said["baseline"][r["id"]])
        for r in asked
        if all(r["id"] in answers for answers in said.values())
    ]
    reasons = Counter(left.values())
    if not both:
        told = ", ".join(f"{n:,} {why}" for why, n in reasons.most_common(3)) or "none has a prompt"
        raise ValueError(f"no held-out row has a prompt that both models answer ({told}).")
    return pl.DataFrame(both, schema=dict.fromkeys(ANSWERS, pl.String), orient="row"), dict(reasons)


def _asked(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The turns before the last answer, as an endpoint takes them."""
    turns = list(row["prompt"] if "prompt" in row else row.get("messages") or [])
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return [{"role": t["role"], "content": t["content"] or ""} for t in turns]
