"""Threshold: the best scores first, between two values."""

# N = candidates

import math
from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.ordering import answer, best_first


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
        value_N = scores["score"].to_numpy()[at]
        low = -math.inf if self.min is None else self.min
        high = math.inf if self.max is None else self.max
        return answer(at[(value_N >= low) & (value_N <= high)])
