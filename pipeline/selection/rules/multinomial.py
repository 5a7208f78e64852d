"""Multinomial: a draw with replacement; how often a row is drawn is its weight."""

# N = candidates, K = draws

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.ordering import Ints, answer
from gristmill.pipeline.records.schema import uniform

CHUNK = 4_096  # draws made at once


@dataclass(frozen=True, kw_only=True)
class Multinomial(Rule):
    """Weighted sampling with replacement: as many draws as the budget has rows (or tokens) for.

    Each draw takes a row in proportion to exp(score / temperature). A row is kept once, with the
    number of its draws as its training weight: a row of weight 2 counts like two. Without a budget
    there are as many draws as candidates. Draws are keyed by (seed, number), rows stand by id.
    """

    in_memory: ClassVar[str] = "each draw is a place among the shares of all rows"
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"the temperature must be above 0; found {self.temperature} (towards 0 the rule "
                "draws the best row alone, towards infinity any row)."
            )

    @property
    def exclusion_reason(self) -> str:
        return "not_drawn"

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        if scores.is_empty():
            return answer(np.zeros(0, np.int64))
        at = scores["id"].arg_sort().to_numpy().astype(np.int64)
        log_N = scores["score"].to_numpy()[at] / self.temperature
        share_N = np.cumsum(np.exp(log_N - log_N.max()))
        cost_N = scores["cost"].to_numpy()[at]
        drawn = self._draws(share_N / share_N[-1], cost_N, remaining)
        rows, first, times = np.unique(drawn, return_index=True, return_counts=True)
        best = np.lexsort((first, -times))
        return answer(at[rows[best]], times[best].astype(np.float64))

    def _draws(self, share_N: NDArray[np.float64], cost_N: Ints, remaining: float) -> Ints:
        """Rows in the order of their draws, up to the first that costs more than is left."""
        most = len(share_N) if math.isinf(remaining) else math.inf
        drawn: list[Ints] = []
        while most > 0:
            start = sum(map(len, drawn))
            numbers = range(start, start + int(min(CHUNK, most)))
            u_K = [uniform(self.seed, "multinomial", str(k)) for k in numbers]
            rows_K = np.searchsorted(share_N, u_K).astype(np.int64)
            most -= len(rows_K)
            spent_K = np.cumsum(cost_N[rows_K])
            fit = int(np.searchsorted(spent_K, remaining, side="right"))
            drawn.append(rows_K[:fit])
            if fit < len(rows_K) or (fit and not spent_K[-1]):
                break
            remaining -= int(spent_K[-1]) if fit else 0
        return np.concatenate(drawn) if drawn else np.zeros(0, np.int64)
