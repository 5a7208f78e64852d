"""Top: the best scores first."""

from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.blocks import Blocks, Preference
from gristmill.pipeline.numerics.ordering import answer, best_first


@dataclass(frozen=True, kw_only=True)
class Top(Rule):
    """The highest scores first. Serves greedy methods too: their score is minus the pick order."""

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        return answer(best_first(scores))

    def streamed(self, rows: Blocks, remaining: float) -> Preference:
        return Preference(rows=rows)
