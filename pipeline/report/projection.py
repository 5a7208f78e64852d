"""A map of the pool: the first two principal components of a vector column, read blockwise."""

# N = rows, D = dimensions

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import polars as pl

from gristmill.pipeline.records.schema import uniform

POINTS = 4_000  # drawn; the plane itself is fitted to all rows


class Blocks(Protocol):
    """What a map is made from: `contracts.Observations` are such, and any tables of vectors."""

    def blocks(self) -> Iterator[pl.DataFrame]:
        """Frames with `id` and the vector column, each id once; the same each time."""


def plane(observations: Blocks, column: str, *, points: int = POINTS) -> pl.DataFrame:
    """Columns `id, x, y` of a keyed sample of rows; empty if fewer than three rows have a vector.

    Two passes: means and the D x D covariance, then the coordinates. The sign of each axis is set
    by its largest weight, so that the map does not flip between runs.
    """
    total, sum_D, sum_DD = 0, np.zeros(0), np.zeros((0, 0))
    for block in observations.blocks():
        x_ND = _vectors(block, column)
        if x_ND.size == 0:
            continue
        if total == 0:
            sum_D, sum_DD = np.zeros(x_ND.shape[1]), np.zeros((x_ND.shape[1],) * 2)
        total += len(x_ND)
        sum_D += x_ND.sum(axis=0)
        sum_DD += x_ND.T @ x_ND
    schema = {"id": pl.String, "x": pl.Float64, "y": pl.Float64}
    if total < 3 or sum_D.size < 2:
        return pl.DataFrame(schema=schema)
    mean_D = sum_D / total
    _, axes_DD = np.linalg.eigh(sum_DD / total - np.outer(mean_D, mean_D))
    axes_D2 = axes_DD[:, [-1, -2]]
    largest = np.abs(axes_D2).argmax(axis=0)
    axes_D2 = axes_D2 * np.where(axes_D2[largest, [0, 1]] < 0, -1.0, 1.0)
    share = min(1.0, points / total)
    parts = []
    for block in observations.blocks():
        drawn = [share == 1 or uniform(0, "map", i) < share for i in block["id"]]
        block = block.filter(pl.Series(drawn, dtype=pl.Boolean), pl.col(column).is_not_null())
        if block.is_empty():
            continue
        at_N2 = np.round((_vectors(block, column) - mean_D) @ axes_D2, 4)
        parts.append(block.select("id").with_columns(x=at_N2[:, 0], y=at_N2[:, 1]))
    return pl.concat([pl.DataFrame(schema=schema), *parts]).unique("id").sort("id")


def _vectors(block: pl.DataFrame, column: str) -> np.ndarray:
    known = block[column].drop_nulls()
    if known.is_empty():
        return np.zeros((0, 0))
    return np.asarray(known.to_list() if known.dtype == pl.List else known.to_numpy(), np.float64)
