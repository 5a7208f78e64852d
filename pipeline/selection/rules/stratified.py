"""Stratified: the budget divided among the strata."""

# N = candidates

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.blocks import Blocks, Preference, Resorted, Running, group, totals
from gristmill.pipeline.numerics.keys import ordered
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

    @property
    def groups(self) -> tuple[str, ...]:
        return (self.by,)

    def streamed(self, rows: Blocks, remaining: float) -> Preference:
        return Preference(rows=rows.resorted(self._spending(rows)))

    def _spending(self, rows: Blocks) -> Iterator[Resorted]:
        running = Running(len(rows.names(self.by)))
        stock = None if self.balanced else totals(rows, self.by)
        for block in rows:
            code_N = block.columns[group(self.by)]
            spent_N: NDArray[Any] = running.add(code_N, block.cost_N)
            if stock is not None:
                with np.errstate(invalid="ignore"):  # a stratum that costs nothing comes last
                    spent_N = (spent_N - block.cost_N / 2) / stock[code_N]
            yield Resorted(keys=(ordered(spent_N), ordered(block.place_N)))


def _codes(column: pl.Series) -> NDArray[np.uint32]:
    """One integer per distinct value, null included."""
    text = column.cast(pl.String)
    codes = text.cast(pl.Categorical).to_physical().cast(pl.UInt32)
    return (codes + 1).fill_null(0).to_numpy()
