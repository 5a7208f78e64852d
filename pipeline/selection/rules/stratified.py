"""Stratified: the budget divided among the strata."""

# N = candidates

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.ordering import answer, best_first


@dataclass(frozen=True, kw_only=True)
class Stratified(Rule):
    """The best rows of every stratum, with the budget divided among the strata.

    Whatever the budget, each stratum gets an equal part of it, and what a small one cannot use is
    divided again: 60 rows from strata of 10, 100 and 1000 are 10, 25 and 25.

    Attributes:
        by: column that names the stratum; nulls form one of their own.
        balanced: equal parts; False: parts in proportion to the strata's sizes.
    """

    by: str = "source"
    balanced: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        at = best_first(scores)
        spent = pl.col("cost").cum_sum().over("stratum")
        if not self.balanced:
            spent = (spent - pl.col("cost") / 2) / pl.col("cost").sum().over("stratum")
        frame = pl.DataFrame({"stratum": _codes(scores[self.by])[at], "cost": scores["cost"][at]})
        spent_N = frame.select(spent).to_series().to_numpy()
        return answer(at[np.argsort(spent_N, kind="stable")])  # stable: best first among equals


def _codes(column: pl.Series) -> NDArray[np.uint32]:
    """One integer per distinct value, null included."""
    text = column.cast(pl.String)
    codes = text.cast(pl.Categorical).to_physical().cast(pl.UInt32)
    return (codes + 1).fill_null(0).to_numpy()
