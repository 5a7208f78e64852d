"""Reward: candidates scored by a reward model on this machine, in passes like any other."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from gristmill.pipeline.contracts import Signal
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import EXAMPLE, content_id, digest
from gristmill.pipeline.records.store import Step, table
from gristmill.pipeline.signals.reward import RewardScore
from gristmill.pipeline.signals.views import Dialogue
from gristmill.synthesis.preference.candidates import Candidate, distinct
from gristmill.synthesis.preference.prompts import Prompt

REWARD = "reward"  # the aspect, and the role of the model


def rewarded(
    candidates: Sequence[Candidate], prompts: Mapping[str, Prompt], context: RunContext
) -> list[Candidate]:
    """The candidates with their reward as score.

    Args:
        candidates: of any prompts.
        prompts: by id.
        context: the run, with a model in the role `reward`.
    """
    reward = observed(candidates, prompts, context, RewardScore(role=REWARD, view=Dialogue()))
    made = []
    for candidate in candidates:
        score = reward[candidate.id]
        finite = score is not None and abs(score) < float("inf")
        why = None if finite else "judge: the reward model gives no number"
        made.append(candidate.scored(score if finite else None, {REWARD: score}, why))
    return made


def observed(
    candidates: Sequence[Candidate],
    prompts: Mapping[str, Prompt],
    context: RunContext,
    signal: Signal,
) -> dict[str, Any]:
    """What a model's pass says of each candidate, by its id; null where it cannot be shown.

    Args:
        candidates: of any prompts.
        prompts: by id.
        context: the run, with a model in the role that the signal reads.
        signal: what is observed of an example.
    """
    rows = {c.id: _example(c, prompts[c.prompt]) for c in distinct(candidates)}
    if not rows:
        return {}
    frame = pl.DataFrame(list(rows.values()), schema=EXAMPLE).unique("id", keep="first").sort("id")
    step = Step(
        name="candidates", version=1, settings={}, inputs={"ids": digest(list(frame["id"]))}
    )
    note = {"kind": "example", "sources": []}
    entry = context.store.run(step, [table("records", lambda: frame)], note=lambda _: note)
    found = observe(context, Dataset(entry=entry, kind="example"), [signal]).frame()
    told = dict(found.select("id", signal.column).iter_rows())
    return {ident: told[row["id"]] for ident, row in rows.items()}


def _example(candidate: Candidate, prompt: Prompt) -> dict[str, object]:
    reply = {"role": "assistant", "content": candidate.text, "extra": None}
    messages = [*prompt.messages, reply]
    return {
        **dict.fromkeys(EXAMPLE),
        "id": content_id("example", {"messages": messages, "tools": prompt.tools}),
        "source": prompt.source,
        "row": prompt.row,
        "messages": messages,
        "tools": prompt.tools,
    }
