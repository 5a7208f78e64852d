"""Asked: which rows a person wants to see, in which order; what is not known is refused."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

FACETS = ("verdict", "reason", "stage", "source", "change")
NONE = "(none)"  # the value of rows that have no reason, source ...


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about the rows of a ledger.

    Attributes:
        words: of the text, all of which a row must hold; "in quotes" a phrase; or the start of an
            id, or the user's own id.
        values: column -> the values of which a row has one.
        ranges: column -> the lowest and the highest value.
        around: a polygon on the map, x and y in turn.
        picked: row numbers; None: all.
        sort: a column; "": the order of rank.
        descending: whether the highest value comes first.
    """

    words: str = ""
    values: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ranges: tuple[tuple[str, float, float], ...] = ()
    around: tuple[float, ...] = ()
    picked: tuple[int, ...] | None = None
    sort: str = ""
    descending: bool = False

    def without(self, column: str) -> "Asked":
        """The same, whatever the values of one column are."""
        return replace(
            self,
            values=tuple(v for v in self.values if v[0] != column),
            ranges=tuple(r for r in self.ranges if r[0] != column),
        )

    def checked(self, columns: Mapping[str, pl.DataType]) -> "Asked":
        """Itself, if the ledger has what it names."""
        for name, _ in self.values:
            if name not in FACETS or name not in columns:
                raise ValueError(f"rows cannot be filtered by {name!r}; by {', '.join(FACETS)}.")
        for name in (*(r[0] for r in self.ranges), *([self.sort] if self.sort else ())):
            if name not in columns:
                raise ValueError(f"this ledger has no column {name!r}.")
        for name, low, high in self.ranges:
            if not columns[name].is_numeric() or not low <= high:
                raise ValueError(f"{name} from {low} to {high} is no range of numbers.")
        if len(self.around) % 2 or 0 < len(self.around) < 6:
            raise ValueError("a selection on the map needs three corners at least.")
        return self


def words_of(text: str) -> list[str]:
    """The words and phrases of a search, in lower case."""
    parts = text.lower().split('"')
    found = [word for outside in parts[::2] for word in outside.split()]
    return [*found, *(p.strip() for p in parts[1::2] if p.strip())]


def inside(xy_N2: NDArray[np.float32], around: Sequence[float]) -> NDArray[np.bool_]:
    """The points inside a polygon (even-odd rule); those without coordinates are outside."""
    corners_K2 = np.asarray(around, dtype=np.float64).reshape(-1, 2)
    x_N, y_N = xy_N2[:, 0], xy_N2[:, 1]
    found_N = np.zeros(len(xy_N2), dtype=bool)
    before = corners_K2[-1]
    for corner in corners_K2:
        (x0, y0), (x1, y1) = before, corner
        before = corner
        if y0 != y1:
            crosses_N = (y_N < y0) != (y_N < y1)
            found_N ^= crosses_N & (x_N < (x1 - x0) * (y_N - y0) / (y1 - y0) + x0)
    return found_N


def at_of(rows: Iterable[int], height: int) -> NDArray[np.bool_]:
    """A mask of row numbers.

    Raises:
        ValueError: one is no row of this ledger.
    """
    found_N = np.zeros(height, dtype=bool)
    for row in rows:
        if not 0 <= row < height:
            raise ValueError(f"this ledger has no row {row}.")
        found_N[row] = True
    return found_N
