"""Rank statistics: places, Spearman's correlation, and the area under the ROC curve."""

# N = values

import math

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import rankdata


def place(value: pl.Expr) -> pl.Expr:
    """Share of the values that lie below, equals counted half: in 0 to 1, the median at 0.5.

    Equal values share their mean place; a null has none. NaN is a value, above all others.
    """
    return (value.rank("average") - 0.5) / value.count()


def spearman(x_N: npt.ArrayLike, y_N: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation over the places where both are finite; equals share their rank.

    Returns:
        None where it is not defined: fewer than two places, or one of the two does not vary.
    """
    x, y = np.asarray(x_N, dtype=np.float64), np.asarray(y_N, dtype=np.float64)
    both = np.isfinite(x) & np.isfinite(y)
    x, y = (rankdata(v[both]) - (both.sum() + 1) / 2 for v in (x, y))
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / norm if norm > 0 else None


def auc(above_N: npt.ArrayLike, below_N: npt.ArrayLike) -> float | None:
    """Chance that a value of the first lies above one of the second; equals count one half.

    Returns:
        None where one of the two holds no value.
    """
    above, below = np.asarray(above_N, dtype=np.float64), np.asarray(below_N, dtype=np.float64)
    n, m = len(above), len(below)
    if not n or not m:
        return None
    rank_N = rankdata(np.concatenate([above, below]))[:n]
    return float((rank_N.sum() - n * (n + 1) / 2) / (n * m))
