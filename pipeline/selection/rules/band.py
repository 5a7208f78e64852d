"""Bands: the rows in the middle of one score, or of several at once."""

# N = candidates

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.ordering import Floats, answer, best_first, floats
from gristmill.pipeline.numerics.ranks import place

LOG = logging.getLogger(__name__)
GUARD = 0.3  # a rule of several bands that keeps less is said: the scores contradict each other


@dataclass(frozen=True, kw_only=True)
class Band(Rule):
    """Rows strictly inside a band, those nearest its middle first.

    Attributes:
        low: lower edge.
        high: upper edge.
        unit: edges as quantiles of the candidates (linear interpolation), or as values.
        columns: score columns that must all lie in their band.
        target_keep: share of the candidates to keep: one symmetric pair of quantiles for all
            columns is found by bisection, in the place of low and high.
    """

    low: float = 0.1
    high: float = 0.9
    unit: Literal["quantile", "value"] = "quantile"
    columns: tuple[str, ...] = ("score",)
    target_keep: float | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a band needs low < high; found low={self.low} and high={self.high}.")
        if self.unit == "quantile" and not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"quantiles lie in [0, 1]; found low={self.low} and high={self.high}: "
                f'give unit="value" for a band of raw scores.'
            )
        if self.target_keep is not None and not 0 < self.target_keep < 1:
            raise ValueError(f"target_keep is a share between 0 and 1; found {self.target_keep:g}.")
        if self.target_keep is not None and self.unit == "value":
            raise ValueError('target_keep finds quantiles: leave unit at "quantile".')

    @property
    def needs(self) -> tuple[str, ...]:
        return self.columns

    @property
    def exclusion_reason(self) -> str:
        return "outside_band"

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        edges = self.edges(scores)
        inside_N = np.ones(scores.height, bool)
        off_N = np.zeros(scores.height)
        for name, (low, high) in edges.items():
            column = scores[name].fill_nan(None)
            value_N = floats(column)
            if self.unit == "value":
                off = np.abs(value_N - (self.low + self.high) / 2)
            else:
                middle = 0.5 if self.target_keep is not None else (self.low + self.high) / 2
                # in ranks, where both sides of the middle tie exactly; in shares they would not
                place_N = floats(column.rank("average")) - 0.5
                off = np.abs(place_N - middle * column.count()) / max(1, column.count())
            inside_N &= within(value_N, low, high)
            off_N = np.maximum(off_N, off)
        at = np.flatnonzero(inside_N)
        if len(edges) > 1 and len(at) < GUARD * scores.height:
            LOG.warning(
                "the bands of %s together keep %d of %d rows (%.0f %%): below %.0f %% the scores "
                "contradict each other; widen the bands or give target_keep.",
                " and ".join(edges),
                len(at),
                scores.height,
                100 * len(at) / max(1, scores.height),
                100 * GUARD,
            )
        near = pl.DataFrame({"id": scores["id"].gather(at), "score": -off_N[at]})
        return answer(at[best_first(near)])

    def edges(self, scores: pl.DataFrame) -> dict[str, tuple[float, float]]:
        """Lower and upper edge of each column's band, in the column's own values."""
        if self.unit == "value":
            return dict.fromkeys(self.columns, (self.low, self.high))
        values = {name: floats(scores[name]) for name in self.columns}
        low, high = self.low, self.high
        if self.target_keep is not None:
            low = symmetric(list(values.values()), self.target_keep)
            high = 1 - low
        return {name: quantiles(value_N, low, high) for name, value_N in values.items()}


def within(value_N: Floats, low: float, high: float) -> NDArray[np.bool_]:
    """Strictly between the edges; a value that is no finite number is in no band."""
    return np.isfinite(value_N) & (value_N > low) & (value_N < high)


def quantiles(value_N: Floats, low: float, high: float) -> tuple[float, float]:
    """Two quantiles of the finite values, by linear interpolation."""
    finite_N = value_N[np.isfinite(value_N)]
    if not len(finite_N):
        return math.nan, math.nan
    at_low, at_high = np.quantile(finite_N, [low, high])
    return float(at_low), float(at_high)


def symmetric(columns: Sequence[Floats], keep: float) -> float:
    """The q for which the bands (q, 1 - q) of all columns together keep `keep` of the rows.

    The share kept falls as q rises, in steps of a row; the q found keeps at least `keep` of them
    unless even the widest bands keep fewer.
    """

    def share(q: float) -> float:
        inside = [within(v, *quantiles(v, q, 1 - q)) for v in columns]
        return float(np.logical_and.reduce(inside).mean()) if len(columns[0]) else 0.0

    low, high = 0.0, 0.5
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) >= keep else (low, middle)
    return low


def centrality(value_N: Floats) -> Floats:
    """1 - |2 q - 1| with q = (rank - 1/2) / N: 1 in the middle, towards 0 at both ends.

    Equal values share their mean rank; NaN has none.
    """
    column = pl.Series(value_N, nan_to_null=True, dtype=pl.Float64)
    q_N = floats(pl.select(place(pl.lit(column))).to_series())
    centre: Floats = 1 - np.abs(2 * q_N - 1)
    return centre


def band_counts(scores: pl.DataFrame, band: Band) -> pl.DataFrame:
    """What falls out of each band: `column`, `low`, `high`, `below`, `inside`, `above`, `null`.

    The last row, `all`, tells how many rows are inside every band. A value on an edge is outside.
    """
    lines = []
    kept_N = np.ones(scores.height, bool)
    for name, (low, high) in band.edges(scores).items():
        value_N = floats(scores[name])
        finite_N = np.isfinite(value_N)
        inside_N = within(value_N, low, high)
        kept_N &= inside_N
        lines.append(
            {
                "column": name,
                "low": low,
                "high": high,
                "below": int((finite_N & (value_N <= low)).sum()),
                "inside": int(inside_N.sum()),
                "above": int((finite_N & (value_N >= high) & (value_N > low)).sum()),
                "null": int((~finite_N).sum()),
            }
        )
    lines.append({"column": "all", "inside": int(kept_N.sum())})
    types: dict[str, Any] = {"column": pl.String, "low": pl.Float64, "high": pl.Float64}
    ints = dict.fromkeys(("below", "inside", "above", "null"), pl.Int64)
    return pl.DataFrame(lines, schema=types | ints)
