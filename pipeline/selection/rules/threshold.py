"""Threshold: the best scores first, between two values."""

# N = candidates

import math
from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.blocks import Blocks, Mask, Preference, Taken
from gristmill.pipeline.numerics.ordering import Floats, answer, best_first


@dataclass(frozen=True, kw_only=True)
class Threshold(Rule):
    """The highest scores first, of those from `min` to `max`, both included."""

    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ValueError("a threshold needs min, max or both; found neither.")

    @property
    def exclusion_reason(self) -> str:
        if self.min is not None and self.max is not None:
            return "outside_threshold"
        return "below_threshold" if self.max is None else "above_threshold"

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        at = best_first(scores)
        return answer(at[self._inside(scores["score"].to_numpy()[at])])

    def streamed(self, rows: Blocks, remaining: float) -> Preference:
        return Preference(rows=rows, take=lambda b: Taken(taken_N=self._inside(b.score_N)))

    def _inside(self, value_N: Floats) -> Mask:
        low = -math.inf if self.min is None else self.min
        high = math.inf if self.max is None else self.max
        inside_N: Mask = (value_N >= low) & (value_N <= high)
        return inside_N
