"""Columns: a ledger's columns as codes and bins, so that a count over all rows takes a moment."""

# N = rows, B = bins, V = values

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.explore.asked import NONE

BINS = 40
LISTED = 100  # values of a column, the commonest
_NAMED_ID = ": [0-9a-f]{32}$"  # the row that a reason names


@dataclass(frozen=True, kw_only=True)
class Values:
    """A column of few values.

    Attributes:
        names: the values, the commonest first; `NONE` stands for null.
        code_N: place of each row's value in `names`.
    """

    names: tuple[str, ...]
    code_N: NDArray[np.int64] = field(repr=False)

    def mask(self, wanted: Sequence[str]) -> NDArray[np.bool_]:
        """The rows that have one of these values."""
        chosen = frozenset(wanted)
        is_V = np.array([name in chosen for name in self.names], dtype=bool)
        return is_V[self.code_N]

    def counts(self, mask_N: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """How many rows have each value: in all, and of those in the mask."""
        size = len(self.names)
        all_V = np.bincount(self.code_N, minlength=size)
        now_V = np.bincount(self.code_N[mask_N], minlength=size)
        return [
            {"value": name, "rows": int(now_V[i]), "of": int(all_V[i])}
            for i, name in enumerate(self.names[:LISTED])
        ]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A column of numbers.

    Attributes:
        value_N: the numbers; NaN for null.
        low: the lowest; high: the highest.
        bin_N: place of each row's number among `BINS` equal bins; `BINS` for null.
        sorted_N: the numbers without nulls, rising.
    """

    value_N: NDArray[np.float64] = field(repr=False)
    low: float
    high: float
    bin_N: NDArray[np.int64] = field(repr=False)
    sorted_N: NDArray[np.float64] = field(repr=False)

    def mask(self, low: float, high: float) -> NDArray[np.bool_]:
        """The rows whose number lies within, both ends included; a null does not."""
        return (self.value_N >= low) & (self.value_N <= high)

    def counts(self, mask_N: NDArray[np.bool_]) -> dict[str, Any]:
        """Rows by bin: in all, and of those in the mask."""
        all_B = np.bincount(self.bin_N, minlength=BINS + 1)[:BINS]
        now_B = np.bincount(self.bin_N[mask_N], minlength=BINS + 1)[:BINS]
        return {"low": self.low, "high": self.high, "of": all_B.tolist(), "rows": now_B.tolist()}

    def place(self, value: float) -> tuple[int, int]:
        """1 + how many rows have a higher number, and how many have one at all."""
        above = len(self.sorted_N) - int(np.searchsorted(self.sorted_N, value, side="right"))
        return above + 1, len(self.sorted_N)


def values(column: pl.Series) -> Values:
    """A column by its values."""
    text = column.cast(pl.String).fill_null(NONE).str.replace(_NAMED_ID, "").alias("value")
    counted = text.value_counts(name="rows").sort("rows", "value", descending=[True, False])
    numbered = counted.select("value", code=pl.int_range(pl.len(), dtype=pl.Int64))
    coded = text.to_frame().join(numbered, on="value", how="left", maintain_order="left")
    return Values(names=tuple(counted["value"]), code_N=coded["code"].to_numpy())


def numbers(column: pl.Series) -> Numbers | None:
    """A column by its numbers; None: it has none."""
    value_N = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    known_N = np.isfinite(value_N)
    if not known_N.any():
        return None
    sorted_N = np.sort(value_N[known_N])
    low, high = float(sorted_N[0]), float(sorted_N[-1])
    width = (high - low) / BINS or 1.0
    bin_N = np.full(len(value_N), BINS)
    bin_N[known_N] = np.minimum((value_N[known_N] - low) / width, BINS - 1).astype(int)
    return Numbers(value_N=value_N, low=low, high=high, bin_N=bin_N, sorted_N=sorted_N)
