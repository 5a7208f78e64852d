"""Constructed: the further files of a publication, beside its pairs: what else its writers made."""

from collections.abc import Mapping, Sequence

import polars as pl

from gristmill.pipeline.records.final_tokens import FILE
from gristmill.synthesis.preference import records
from gristmill.synthesis.preference.answering import Answered
from gristmill.synthesis.preference.avoiding import PLACES, final_tokens
from gristmill.synthesis.preference.building import Pair
from gristmill.synthesis.preference.fused import FUSED, examples
from gristmill.synthesis.preference.prompts import Prompt


def tables(
    answered: Answered, kept: Sequence[Pair], prompts: Mapping[str, Prompt]
) -> dict[str, pl.DataFrame]:
    """File -> table; none where no writer made anything of the kind.

    Args:
        answered: by all writers.
        kept: the pairs that are published.
        prompts: by id.
    """
    found: dict[str, pl.DataFrame] = {}
    if answered.fused:
        found["fused.parquet"] = pl.DataFrame(list(answered.fused), schema=FUSED)
        found["fused_examples.parquet"] = examples(answered.fused, prompts)
    if answered.places:
        pairs = {p.chosen.id: records.ident(p, prompts[p.prompt]) for p in kept}
        found[FILE] = final_tokens(pl.DataFrame(list(answered.places), schema=PLACES), pairs)
    return found
