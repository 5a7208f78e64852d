"""Hidden states: how a model sees a record, and how near that is to what a target set looks like.

phi(z) = sum_t w_t h_t(z) with weights that sum to 1, normalised to length 1; a score is a function
of the cosines phi(z) . phi(v) to the rows v of the target set.
"""

# N = pool rows, M = target rows, D = hidden size

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations

MAX_PARTS = 1_024  # per-target columns are kept for at most this many targets


def unit(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Rows scaled to length 1 in float64; a zero row stays zero."""
    wide = matrix.astype(np.float64)
    norm = np.linalg.norm(wide, axis=1, keepdims=True)
    unit_ND: npt.NDArray[np.float64] = np.divide(
        wide, norm, out=np.zeros_like(wide), where=norm > 0
    )
    return unit_ND


def target_similarity(
    pool: Observations, reference: Observations, column: str, reduce: str
) -> pl.DataFrame:
    """Cosine of every pool row to the target rows, reduced by "max" or "mean".

    Returns `id`, `score` and, for up to 1,024 targets in order of their ids, `score_target_<j>`.
    Memory: one block of the pool against the targets.
    """
    targets = reference.frame().drop_nulls(column).sort("id")
    if targets.height == 0:
        raise ValueError("no row of the reference set could be shown to the model.")
    target_MD = unit(targets[column].to_numpy())
    return pl.concat(list(_blocks(pool, column, target_MD, reduce)))


def _blocks(
    pool: Observations, column: str, target_MD: npt.NDArray[np.float64], reduce: str
) -> Iterator[pl.DataFrame]:
    for block in pool.blocks():
        seen = block.drop_nulls(column)
        # one row at a time against all targets: the same bits whatever the block
        cosine_NM = np.stack(
            [target_MD @ row_D for row_D in unit(seen[column].to_numpy())]
            or [np.zeros(len(target_MD))]
        )[: seen.height]
        score_N = cosine_NM.max(axis=1) if reduce == "max" else cosine_NM.mean(axis=1)
        scored = pl.DataFrame({"id": seen["id"], "score": pl.Series(score_N, dtype=pl.Float64)})
        if len(target_MD) <= MAX_PARTS:
            scored = scored.with_columns(
                [
                    pl.Series(f"score_target_{j}", cosine_NM[:, j], dtype=pl.Float64)
                    for j in range(len(target_MD))
                ]
            )
        yield block.select("id").join(scored, on="id", how="left", maintain_order="left")
