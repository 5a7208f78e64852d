"""Weighted: the score as the training weight."""

# N = candidates

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.blocks import Block, Blocks, Preference, Taken
from gristmill.pipeline.numerics.ordering import Floats, answer, best_first


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
            weight_N = _stretched(weight_N, weight_N[-1], weight_N[0])
        return answer(at[weight_N > 0], weight_N[weight_N > 0])

    def streamed(self, rows: Blocks, remaining: float) -> Preference:
        if not self.stretch:
            return _positive(rows, lambda score_N: score_N)
        ends = [
            (p["score"].min(), p["score"].max())
            for p in rows.unordered(["score"])
            if len(p["score"])
        ]
        if not ends:
            return Preference(rows=rows)
        low, high = min(e[0] for e in ends), max(e[1] for e in ends)
        return _positive(rows, lambda score_N: _stretched(score_N, low, high))


def _positive(rows: Blocks, weight: Callable[[Floats], Floats]) -> Preference:
    def take(block: Block) -> Taken:
        weight_N = weight(block.score_N)
        return Taken(taken_N=weight_N > 0, weight_N=weight_N)

    return Preference(rows=rows, take=take)


def _stretched(score_N: Floats, low: float, high: float) -> Floats:
    return (score_N - low) / (high - low) if high > low else np.ones_like(score_N)
