"""Does an estimate of models' accuracy agree with the accuracy itself, and order models alike?"""

# M = models, R = resamples

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
    count_MR = draws(models, RESAMPLES, seed).astype(np.float64)
    count_MR = count_MR[:, (count_MR > 0).sum(axis=0) > 1]
    count_MR = np.concatenate([np.ones((len(models), 1)), count_MR], axis=1)
    figures = {}
    for name, value_R in figures_of(estimate_M, whole_M, count_MR).items():
        low, high = np.quantile(value_R, (0.025, 0.975))
        figures[name] = Interval(value=float(value_R[0]), low=float(low), high=float(high))
    return Agreement(**figures)


def figures_of(estimate_M: Floats, whole_M: Floats, count_MR: Floats) -> dict[str, Floats]:
    """The figures where each model stands there so many times, a resample a column.

    Where all estimates are equal they tell no order: Kendall's tau is 0.
    """
    total_R = count_MR.sum(axis=0)
    square_M = (estimate_M - whole_M) ** 2
    one_MM, other_MM = (np.sign(v[:, None] - v[None]) for v in (estimate_M, whole_M))

    def pairs(weight_MM: Floats) -> Floats:
        return np.asarray((count_MR * (weight_MM @ count_MR)).sum(axis=0))

    untied_R = np.sqrt(pairs(np.abs(one_MM)) * pairs(np.abs(other_MM)))
    ranks = [
        (sign_MM > 0) @ count_MR + ((sign_MM == 0) @ count_MR + 1) / 2
        for sign_MM in (one_MM, other_MM)
    ]
    near_MR = np.abs(ranks[0] - ranks[1]) <= NEAR * total_R
    return {
        "rmse": 100 * np.sqrt(square_M @ count_MR / total_R),
        "kendall": pairs(one_MM * other_MM) / np.where(untied_R > 0, untied_R, 1),
        "near": (near_MR * count_MR).sum(axis=0) / total_R,
    }
