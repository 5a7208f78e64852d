"""What every rule is made of: the one ranking there is, and the walk that a budget takes."""

# N = candidates

import math
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
CHUNK = 65_536  # rows of the walk that are looked at together


def best_first(scores: pl.DataFrame) -> Ints:
    """Positions of the rows by `score` descending, then `id`; no nulls, and distinct ids.

    Comparing strings is dear. So only rows whose score is shared are compared by id, first by its
    first eight bytes as a number, and by the whole only where these are shared too.
    """
    key_N = -floats(scores["score"]) + 0.0  # one zero, not two
    at = np.argsort(key_N, kind="stable")
    tied_N = tied(key_N[at])
    rows = at[tied_N]
    names = scores["id"].gather(rows).str.pad_end(8, "\0").cast(pl.Binary).bin.slice(0, 8)
    head = names.bin.reinterpret(dtype=pl.UInt64, endianness="big").to_numpy()
    turn = np.argsort(head, kind="stable")
    turn = turn[np.argsort(key_N[rows[turn]], kind="stable")]
    rows = rows[turn]
    still = tied(key_N[rows], head[turn])
    twins = pl.DataFrame({"key": key_N[rows[still]], "row": rows[still]})
    twins = twins.with_columns(id=scores["id"].gather(twins["row"])).sort("key", "id")
    rows[still] = twins["row"].to_numpy()
    at[tied_N] = rows
    return at


def tied(*sorted_N: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of sorted columns equal a neighbour in all of them."""
    same_N = np.logical_and.reduce([c[1:] == c[:-1] for c in sorted_N])
    tied_N = np.zeros(len(sorted_N[0]), bool)
    tied_N[1:] |= same_N
    tied_N[:-1] |= same_N
    return tied_N


def fitting(cost_N: Ints, remaining: float) -> NDArray[np.bool_]:
    """Which rows of an order fit: walk it, and skip every row that would exceed `remaining`."""
    total_N = np.cumsum(cost_N)
    head = int(np.searchsorted(total_N, remaining, side="right"))
    taken_N = np.zeros(len(cost_N), bool)
    taken_N[:head] = True
    left = remaining - (int(total_N[head - 1]) if head else 0)
    for start in range(head, len(cost_N), CHUNK):
        chunk = cost_N[start : start + CHUNK]
        for i in np.flatnonzero(chunk <= left).tolist():
            if chunk[i] <= left:
                taken_N[start + i] = True
                left -= int(chunk[i])
    return taken_N


def answer(index: Ints, weight: Floats | None = None) -> pl.DataFrame:
    """What a rule answers: the rows it takes, in order, each with its weight."""
    return pl.DataFrame(
        {"index": index, "weight": np.ones(len(index)) if weight is None else weight}
    )


def floats(column: pl.Series) -> Floats:
    """A column as float64, with NaN for null."""
    return column.cast(pl.Float64).fill_null(math.nan).to_numpy()
