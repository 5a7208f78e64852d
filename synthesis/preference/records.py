"""Records: a pair as the row that is published, and its line in the ledger.

Who wrote both sides, who judged them, their scores, the verdict of each order and what all that
cost go with the pair, in its `meta` and in the ledger's columns.
"""

from typing import Any

import polars as pl

from gristmill.pipeline.records.schema import PAIR, canonical_json, content_id
from gristmill.synthesis.asides import decided
from gristmill.synthesis.preference.building import Pair
from gristmill.synthesis.preference.candidates import Candidate
from gristmill.synthesis.preference.prompts import Prompt

STAGE = "prefer"
LINEAGE: dict[str, Any] = {
    "prompt_id": pl.String,
    "cluster": pl.String,  # pairs that stay on one side of a split
    "detail": pl.String,  # the whole reason
    "gap": pl.Float64,  # of the two scores
    "margin": pl.Float64,  # of the view reward: the gap, or 0 where people decided against it
    "chosen_role": pl.String,
    "chosen_model": pl.String,
    "chosen_on_policy": pl.Boolean,
    "chosen_value": pl.Float64,
    "chosen_characters": pl.Int64,
    "rejected_role": pl.String,
    "rejected_model": pl.String,
    "rejected_on_policy": pl.Boolean,
    "rejected_value": pl.Float64,
    "rejected_characters": pl.Int64,
    "judge": pl.String,
    "verdict_chosen_first": pl.Float64,  # value of the chosen side where it was shown first
    "verdict_rejected_first": pl.Float64,  # and where the rejected one was
    "decided_by": pl.String,
    "cost": pl.Float64,
}


def content(pair: Pair, prompt: Prompt) -> dict[str, Any]:
    """The content columns of a pair."""
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    return {
        "prompt": [dict(m) for m in prompt.messages],
        **{side: [_turn(c)] for side, c in sides.items()},
        "tools": prompt.tools,
    }


def ident(pair: Pair, prompt: Prompt) -> str:
    """Id of a pair: the hash of its content."""
    return content_id("pair", content(pair, prompt))


def row(pair: Pair, prompt: Prompt, judge: str = "", cost: float = 0.0) -> dict[str, Any]:
    """A row of `PAIR`.

    Args:
        pair: the pair.
        prompt: what it answers.
        judge: who decided.
        cost: of its candidates and verdicts.
    """
    told = {
        "parents": [prompt.id],
        "preference": {
            "chosen": _told(pair.chosen),
            "rejected": _told(pair.rejected),
            **lineage(pair, judge, cost),
        },
    }
    return {
        **dict.fromkeys(PAIR),
        **content(pair, prompt),
        "id": ident(pair, prompt),
        "source": prompt.source,
        "row": prompt.row,
        "license": prompt.license,
        "meta": canonical_json(told),
    }


def lineage(pair: Pair, judge: str, cost: float) -> dict[str, Any]:
    """The columns `LINEAGE` of a pair."""
    said = pair.verdict
    sides: dict[str, Any] = {}
    for side, one in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        sides |= {
            f"{side}_role": one.role,
            f"{side}_model": one.model,
            f"{side}_on_policy": one.on_policy,
            f"{side}_value": one.score,
            f"{side}_characters": one.length,
        }
    return {
        "prompt_id": pair.prompt,
        "detail": pair.reason,
        "cluster": pair.group,
        "gap": pair.gap,
        "margin": None if pair.gap is None else max(0.0, pair.gap),
        **sides,
        "judge": judge,
        "verdict_chosen_first": None if said is None else said.one_first,
        "verdict_rejected_first": None if said is None else said.two_first,
        "decided_by": pair.decided_by or decider(pair),
        "cost": cost,
    }


def decider(pair: Pair) -> str:
    """What decided which side is chosen."""
    if pair.chosen.verified and pair.rejected.verified is False:
        return "verifier"
    return "rule" if pair.gap is None else "judge"


def ledger(pairs: pl.DataFrame, lines: pl.DataFrame, aside: pl.DataFrame) -> pl.DataFrame:
    """The ledger of a run: a line a pair, and a line a prompt that stands aside.

    Args:
        pairs: rows of `PAIR`.
        lines: columns `LINEAGE`, in the order of `pairs`.
        aside: rows of `ASIDE`.
    """
    made = pairs.select("id", "source", "row").hstack(lines)
    gone = aside.select(
        pl.col("prompt").alias("id"), "source", "row", pl.col("reason").alias("detail")
    ).with_columns(prompt_id=pl.col("id"))
    found = pl.concat([made, gone], how="diagonal")
    return decided(found, "pair", STAGE)


def _turn(candidate: Candidate) -> dict[str, Any]:
    return {"role": "assistant", "content": candidate.text.strip(), "extra": None}


def _told(candidate: Candidate) -> dict[str, Any]:
    """What the meta says of a side beside the ledger's columns."""
    return {
        "candidate": candidate.id,
        "sampling": candidate.sampling,
        "sample": candidate.sample,
        "verified": candidate.verified,
        "aspects": dict(candidate.aspects),
        "tokens_in": candidate.tokens_in,
        "tokens_out": candidate.tokens_out,
    }
