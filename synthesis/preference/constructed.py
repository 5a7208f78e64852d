"""Constructed: the further files of a publication, beside its pairs: what else its writers made."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from gristmill.pipeline.clean.decontaminate import decontaminate
from gristmill.pipeline.records.final_tokens import FILE
from gristmill.synthesis.preference import records
from gristmill.synthesis.preference.answering import Answered
from gristmill.synthesis.preference.avoiding import PLACES, final_tokens
from gristmill.synthesis.preference.building import Pair
from gristmill.synthesis.preference.fused import FUSED, examples
from gristmill.synthesis.preference.outcome import Controls
from gristmill.synthesis.preference.prompts import Prompt


def tables(
    answered: Answered, kept: Sequence[Pair], prompts: Mapping[str, Prompt], controls: Controls
) -> dict[str, pl.DataFrame]:
    """File -> table; none where no writer made anything of the kind.

    Args:
        answered: by all writers.
        kept: the pairs that are published.
        prompts: by id.
        controls: the evaluation sets that no fused answer may repeat either.
    """
    found: dict[str, pl.DataFrame] = {}
    if answered.fused:
        fused, made = _clear(answered.fused, prompts, controls)
        found["fused.parquet"] = pl.DataFrame(fused, schema=FUSED)
        found["fused_examples.parquet"] = made
    if answered.places:
        pairs = {p.chosen.id: records.ident(p, prompts[p.prompt]) for p in kept}
        found[FILE] = final_tokens(pl.DataFrame(list(answered.places), schema=PLACES), pairs)
    return found


def _clear(
    fused: Sequence[Mapping[str, Any]], prompts: Mapping[str, Prompt], controls: Controls
) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    """Fused answers and the examples of them, without what repeats an evaluation set."""
    made = examples(fused, prompts)
    if controls.items is None or made.is_empty():
        return [dict(one) for one in fused], made
    dropped, _ = decontaminate([made], controls.items, gate=controls.gate)
    last = pl.col("messages").list.last().struct.field("content")
    place = made.select("id", pl.col("meta").str.json_path_match("$.parents[0]"), last)
    of = {ident: (parent, text) for ident, parent, text in place.iter_rows()}
    why = {of[i]: reason for i, reason in dropped.select("id", "reason").iter_rows()}
    told = [
        {**one, "reason": why.get((one["prompt"], one["text"].strip()), one["reason"])}
        for one in fused
    ]
    return told, made.filter(~pl.col("id").is_in(dropped["id"].to_list()))
