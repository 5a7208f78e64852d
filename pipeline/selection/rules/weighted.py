"""Weighted: the score as the training weight."""

# N = candidates

from dataclasses import dataclass

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.ordering import answer, best_first


@dataclass(frozen=True, kw_only=True)
class Weighted(Rule):
    """The highest scores first, of those above 0, each with its score as its training weight.

    For methods whose score is a weight: `cw_po` (a confidence below 0 doubts the label), and `ica`
    stretched to [0, 1].

    Attributes:
        stretch: weights are the scores of all candidates stretched to [0, 1], so that the lowest
            one falls out.
    """

    stretch: bool = False

    @property
    def exclusion_reason(self) -> str:
        return "no_positive_weight"

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        at = best_first(scores)
        weight_N = scores["score"].to_numpy()[at]
        if self.stretch and len(at):
            low, high = weight_N[-1], weight_N[0]
            weight_N = (weight_N - low) / (high - low) if high > low else np.ones_like(weight_N)
        return answer(at[weight_N > 0], weight_N[weight_N > 0])
