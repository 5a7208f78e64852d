"""Bands: the rows in the middle of one score, or of several at once."""

# N = candidates

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.blocks import Blocks, Measured, Preference, Resorted, measure
from gristmill.pipeline.numerics.keys import ordered, values
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
        inside_N = np.ones(scores.height, bool)
        off_N = np.zeros(scores.height)
        for name, edges in self.edges(scores).items():
            column = scores[name].fill_nan(None)
            value_N = floats(column)
            ranked = self.unit == "quantile"
            rank_N = floats(column.rank("average")) if ranked else None
            inside_N &= within(value_N, *edges)
            off_N = np.maximum(off_N, self._off(value_N, rank_N, column.count()))
        at = np.flatnonzero(inside_N)
        self._warn(len(at), scores.height)
        near = pl.DataFrame({"id": scores["id"].gather(at), "score": -off_N[at]})
        return answer(at[best_first(near)])

    @property
    def measures(self) -> tuple[str, ...]:
        return self.columns

    def streamed(self, rows: Blocks, remaining: float) -> Preference:
        if self.unit == "value":
            return Preference(rows=rows.resorted(self._inside(rows, {}, self._between())))
        seen = {name: rows.measured(name) for name in self.columns}
        low, high = self.low, self.high
        if self.target_keep is not None:
            low = bisected(lambda q: self._share(rows, seen, q), self.target_keep)
            high = 1 - low
        edges = {name: _quantiles(m, low, high) for name, m in seen.items()}
        return Preference(rows=rows.resorted(self._inside(rows, seen, edges)))

    def _inside(
        self, rows: Blocks, seen: Mapping[str, Measured], edges: Mapping[str, tuple[float, float]]
    ) -> Iterator[Resorted]:
        """The rows in the band, by their distance from its middle."""
        ranks = {name: m.ranks() for name, m in seen.items()}
        kept = 0
        for block in rows:
            inside_N = np.ones(len(block), bool)
            off_N = np.zeros(len(block))
            for name, ends in edges.items():
                value_N = block.floats(name)
                rank_N = next(ranks[name]) if name in ranks else None
                known = seen[name].known if name in seen else 0
                inside_N &= within(value_N, *ends)
                off_N = np.maximum(off_N, self._off(value_N, rank_N, known))
            kept += int(inside_N.sum())
            yield Resorted(keys=(ordered(off_N), *block.id_keys), taken_N=inside_N)
        self._warn(kept, rows.rows)

    def _share(self, rows: Blocks, seen: Mapping[str, Measured], q: float) -> float:
        """The share of the rows that are inside the bands (q, 1 - q) of all columns."""
        edges = {name: _quantiles(m, q, 1 - q) for name, m in seen.items()}
        kept = 0
        for part in rows.unordered([measure(name) for name in edges]):
            inside = [within(values(part[measure(n)]), *e) for n, e in edges.items()]
            kept += int(np.logical_and.reduce(inside).sum())
        return kept / rows.rows if rows.rows else 0.0

    def _off(self, value_N: Floats, rank_N: Floats | None, known: int) -> Floats:
        """How far rows are from the middle of the band: in values, or in shares of the rows."""
        if rank_N is None:
            return np.abs(value_N - (self.low + self.high) / 2)
        middle = 0.5 if self.target_keep is not None else (self.low + self.high) / 2
        # in ranks, where both sides of the middle tie exactly; in shares they would not
        off_N: Floats = np.abs(rank_N - 0.5 - middle * known) / max(1, known)
        return off_N

    def _warn(self, kept: int, rows: int) -> None:
        if len(self.columns) > 1 and kept < GUARD * rows:
            LOG.warning(
                "the bands of %s together keep %d of %d rows (%.0f %%): below %.0f %% the scores "
                "contradict each other; widen the bands or give target_keep.",
                " and ".join(self.columns),
                kept,
                rows,
                100 * kept / max(1, rows),
                100 * GUARD,
            )

    def _between(self) -> dict[str, tuple[float, float]]:
        return dict.fromkeys(self.columns, (self.low, self.high))

    def edges(self, scores: pl.DataFrame) -> dict[str, tuple[float, float]]:
        """Lower and upper edge of each column's band, in the column's own values."""
        if self.unit == "value":
            return self._between()
        columns = {name: floats(scores[name]) for name in self.columns}
        low, high = self.low, self.high
        if self.target_keep is not None:
            low = symmetric(list(columns.values()), self.target_keep)
            high = 1 - low
        return {name: quantiles(value_N, low, high) for name, value_N in columns.items()}


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


def _quantiles(column: Measured, low: float, high: float) -> tuple[float, float]:
    """What `quantiles` gives, to the bit."""
    if not column.finite:
        return math.nan, math.nan
    return _quantile(column, low), _quantile(column, high)


def _quantile(column: Measured, q: float) -> float:
    at = (column.finite - 1) * q
    below, part = math.floor(at), at - math.floor(at)
    a, b = column.at(below), column.at(min(below + 1, column.finite - 1))
    return a + (b - a) * part if part < 0.5 else b - (b - a) * (1 - part)


def symmetric(columns: Sequence[Floats], keep: float) -> float:
    """The q for which the bands (q, 1 - q) of all columns together keep `keep` of the rows.

    The share kept falls as q rises, in steps of a row; the q found keeps at least `keep` of them
    unless even the widest bands keep fewer.
    """

    def share(q: float) -> float:
        inside = [within(v, *quantiles(v, q, 1 - q)) for v in columns]
        return float(np.logical_and.reduce(inside).mean()) if len(columns[0]) else 0.0

    return bisected(share, keep)


def bisected(share: Callable[[float], float], keep: float) -> float:
    """The largest q in 0 to 1/2 for which `share(q)`, which falls in q, is at least `keep`."""
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
