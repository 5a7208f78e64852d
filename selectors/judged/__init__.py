"""Judged: a language model is asked about a record, or tries its task, and is read or graded.

A judge's answer is the distribution of its next token over a few words or digits; a rollout is
graded against the record's own answer. A judge that has no use for the allowed answers gives no
score: the row is null, with the reason.
"""

# N = rows, A = allowed answers

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations, Signal

Floats = npt.NDArray[np.float64]


def probabilities(block: pl.DataFrame, column: str) -> Floats:
    """Probabilities of the allowed answers, N x A; NaN where the record could not be shown."""
    width = block.schema[column].shape[0]  # type: ignore[attr-defined]
    blank = pl.lit([float("nan")] * width, dtype=pl.Array(pl.Float64, width))
    filled = block.select(pl.col(column).cast(pl.Array(pl.Float64, width)).fill_null(blank))
    p_NA: Floats = filled[column].to_numpy().reshape(block.height, width)
    return p_NA


def answered(p_NA: Floats, least: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Shares of the allowed answers among themselves, and whether the judge gave any.

    Rows whose answers have less than `least` probability together are NaN.
    """
    mass_N = p_NA.sum(axis=1)
    said_N = mass_N >= least
    share_NA = np.full_like(p_NA, np.nan)
    share_NA[said_N] = p_NA[said_N] / mass_N[said_N, None]
    return share_NA, said_N | np.isnan(mass_N)


def column_of(values: npt.NDArray[np.floating]) -> pl.Series:
    """A float column with null for NaN."""
    return pl.Series(np.asarray(values, dtype=np.float64), nan_to_null=True)


def blocks_of(pool: Observations) -> Iterator[pl.DataFrame]:
    """The blocks that hold rows."""
    return (block for block in pool.blocks() if block.height)


def only_column(pool: Observations, signal: Signal) -> str:
    """The signal's column, where a method makes sense of one model alone.

    Raises:
        ValueError: several models are bound to the role.
    """
    columns = pool.columns(signal)
    if len(columns) > 1:
        raise ValueError(
            f"rollouts of one model are scored; the role {signal.role!r} holds {len(columns)}: "
            "bind the one that will be trained."
        )
    return columns[0][0]
