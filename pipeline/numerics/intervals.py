"""Bootstrap intervals over rows, with every draw keyed by (seed, id); bounds of a share."""

# N = rows, R = resamples

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def draws(ids: Sequence[str], resamples: int, seed: int) -> npt.NDArray[np.int64]:
    """How often each row is in each resample, N x R: the Poisson bootstrap.

    A row's counts depend on (seed, id) alone. So they do not move when rows come or go, two models
    asked about the same rows are resampled alike (a difference of two values per row is a paired
    comparison), and copies of a row are drawn together: they are one observation.
    """
    count_NR = np.empty((len(ids), resamples), dtype=np.int64)
    for n, ident in enumerate(ids):
        raw = hashlib.blake2b(f"{seed}\0bootstrap\0{ident}".encode(), digest_size=16).digest()
        count_NR[n] = np.random.default_rng(int.from_bytes(raw, "big")).poisson(1.0, resamples)
    return count_NR


def ratio(
    ids: Sequence[str],
    above: Sequence[float] | pl.Series,
    below: Sequence[float] | pl.Series | None = None,
    *,
    seed: int = 0,
    resamples: int = 1_000,
) -> Interval:
    """Sum of `above` over sum of `below`, which is 1 per row by default: then it is a mean.

    Raises:
        ValueError: there are no rows.
    """
    if not len(ids):
        raise ValueError("no row could be evaluated: look at the reasons in the table.")
    above_N = np.asarray(above, dtype=np.float64)
    below_N = np.ones_like(above_N) if below is None else np.asarray(below, dtype=np.float64)
    top_R, bottom_R = np.zeros(resamples), np.zeros(resamples)
    for at in range(0, len(ids), 4_096):
        part = slice(at, at + 4_096)
        count_NR = draws(ids[part], resamples, seed)
        top_R += above_N[part] @ count_NR
        bottom_R += below_N[part] @ count_NR
    drawn = bottom_R > 0  # a resample of few rows can be empty
    low, high = np.quantile(top_R[drawn] / bottom_R[drawn], (0.025, 0.975))
    value = float(above_N.sum() / below_N.sum())
    return Interval(value=value, low=float(low), high=float(high))


def lower_bound(successes: int, trials: int, *, level: float = 0.95) -> float:
    """The one-sided lower bound of a share, exact (Clopper and Pearson).

    Args:
        successes: found.
        trials: looked at.
        level: how surely the share lies above.
    """
    from scipy.stats import beta

    if not 0 <= successes <= trials or not trials:
        raise ValueError(f"{successes} of {trials} is not a share; give at least one trial.")
    if not successes:
        return 0.0
    return float(beta.ppf(1 - level, successes, trials - successes + 1))
