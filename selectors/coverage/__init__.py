"""Coverage: a subset that leaves no part of the pool without a neighbour in the subset.

With e(z) the unit sentence embedding of row z and S the picks, k-center minimises the distance of
the worst covered row, max_z min_{x in S} |e(z) - e(x)|, and facility location maximises the
similarity of all rows together, sum_z max(0, max_{x in S} e(z) . e(x)). Both are greedy: a score is
minus the place at which a row was picked, so the rule `top` takes the picks in their order.
"""

# N = pool rows, D = embedding size

from collections.abc import Iterator

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations
from gristmill.pipeline.numerics.coverage import Floats, Matrix, Picks
from gristmill.pipeline.numerics.similarity import unit


def embedded(observed: Observations, column: str) -> tuple[pl.Series, Matrix]:
    """Ids and unit embeddings of the rows that have one, sorted by id: the order ties break by.

    The pool is read twice, so that its vectors stand in memory once.
    """
    seen = [ids for ids, _ in _seen(observed, column)]
    if not sum(map(len, seen)):
        raise ValueError("no row could be shown to the embedder: there is nothing to cover.")
    ids = pl.concat(seen)
    order_N = ids.arg_sort().to_numpy()
    place_N = np.empty(len(ids), np.int64)
    place_N[order_N] = np.arange(len(ids))
    unit_ND = np.empty((0, 0), np.float32)
    start = 0
    for some, vector_BD in _seen(observed, column):
        if not start:
            unit_ND = np.empty((len(ids), vector_BD.shape[1]), vector_BD.dtype)
        unit_ND[place_N[start : start + len(some)]] = unit(vector_BD)
        start += len(some)
    return ids.gather(order_N), unit_ND


def _seen(observed: Observations, column: str) -> Iterator[tuple[pl.Series, Matrix]]:
    """Block by block, the ids and embeddings of the rows that have one."""
    for block in observed.blocks():
        seen = block.select("id", column).drop_nulls(column)
        if seen.height:
            yield seen["id"], seen[column].to_numpy()


def scored(
    observed: Observations, ids: pl.Series, picks: Picks, part: str, worth: Floats
) -> pl.DataFrame:
    """One row per observed record: minus the pick order; `not_reached`; null without embedding."""
    picked = pl.DataFrame(
        {
            "id": ids.gather(picks.rows),
            "score": -np.arange(1.0, len(picks.rows) + 1),
            part: pl.Series(worth, nan_to_null=True),
        }
    )
    everything = pl.concat([block.select("id") for block in observed.blocks()])
    reason = pl.when(pl.col("score").is_null() & pl.col("id").is_in(ids.implode()))
    return everything.join(picked, on="id", how="left", maintain_order="left").with_columns(
        reason=reason.then(pl.lit("not_reached"))
    )
