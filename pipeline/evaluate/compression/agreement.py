"""Does an estimate of models' accuracy agree with the accuracy itself, and order models alike?"""

# M = models, R = resamples

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, rankdata

from gristmill.pipeline.numerics.intervals import Interval, draws

NEAR = 0.05  # of the models: how far a rank may move
RESAMPLES = 400

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of estimates with the truth, over some models.

    Attributes:
        rmse: root mean squared error, in points of a hundred.
        kendall: tau-b of the two orders.
        near: the share of models whose rank moves by at most 5 % of them.
    """

    rmse: Interval
    kendall: Interval
    near: Interval

    def row(self) -> dict[str, Any]:
        """As a line of a table: each figure, `<figure>_low`, `<figure>_high`."""
        found: dict[str, Any] = {}
        for name, interval in vars(self).items():
            found |= {name: interval.value, f"{name}_low": interval.low}
            found[f"{name}_high"] = interval.high
        return found


def agreement(models: list[str], estimate_M: Floats, whole_M: Floats, seed: int = 0) -> Agreement:
    """Figures with their 95 % bootstrap intervals over models, drawn by name."""
    figures = _figures(estimate_M, whole_M)
    count_MR = draws(models, RESAMPLES, seed)
    drawn = []
    for count_M in count_MR.T:
        at = np.repeat(np.arange(len(models)), count_M)
        if len(np.unique(at)) > 1:
            drawn.append(_figures(estimate_M[at], whole_M[at]))
    table = np.array(drawn) if drawn else np.full((1, 3), np.nan)
    low, high = np.nanquantile(table, (0.025, 0.975), axis=0)
    told = zip(("rmse", "kendall", "near"), figures, low, high, strict=True)
    return Agreement(
        **{n: Interval(value=v, low=float(lo), high=float(hi)) for n, v, lo, hi in told}
    )


def _figures(estimate_M: Floats, whole_M: Floats) -> tuple[float, float, float]:
    moved_M = np.abs(rankdata(estimate_M) - rankdata(whole_M))
    rmse = 100 * float(np.sqrt(((estimate_M - whole_M) ** 2).mean()))
    tau = float(kendalltau(estimate_M, whole_M).statistic)
    return rmse, tau, float((moved_M <= NEAR * len(moved_M)).mean())
