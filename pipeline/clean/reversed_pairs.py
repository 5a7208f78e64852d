"""Pairs of which the data also holds the other direction."""

from collections.abc import Iterable

import polars as pl

from gristmill.pipeline.clean.drops import drops
from gristmill.pipeline.records.schema import CONTENT, KEY, content_id


def reversed_pairs(blocks: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Drops frame of the pairs that occur in both directions, with their opposite's id.

    All of them fall: that one text is better and worse than another tells nothing, and no score of
    one pair alone can see it.

    Args:
        blocks: records with `id`, `source`, `row`, `prompt`, `chosen`, `rejected`; ids alone are
            kept of them.
    """
    parts = [drops(pl.DataFrame(schema=dict.fromkeys(KEY, pl.String))).select(*KEY, other="reason")]
    for block in blocks:
        opposite = [
            content_id("pair", {**row, "chosen": row["rejected"], "rejected": row["chosen"]})
            for row in block.select(CONTENT["pair"]).iter_rows(named=True)
        ]
        parts.append(block.select(*KEY, other=pl.Series(opposite, dtype=pl.String)))
    pairs = pl.concat(parts)
    found = pairs.filter(pl.col("other").is_in(pairs["id"].implode()))
    return drops(found, reason=pl.lit("both_directions: ") + pl.col("other"))
