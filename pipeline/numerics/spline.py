"""A smooth curve through points: a penalised B-spline of one variable in [0, 1]."""

# N = points, S = splines

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline

SPLINES, SMOOTHING, DEGREE = 25, 5.0, 3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The curve by its values on an even grid of [0, 1]; between them it is straight."""

    value_G: Floats

    def __call__(self, x: npt.ArrayLike) -> Floats:
        grid_G = np.linspace(0, 1, len(self.value_G))
        return np.interp(np.asarray(x, dtype=np.float64), grid_G, self.value_G)


def fitted(x_N: Floats, y_N: Floats, smoothing: float = SMOOTHING, grid: int = 1_001) -> Curve:
    """Least squares with a penalty on second differences of the splines' heights.

    A straight line costs no penalty, so it is met exactly, and beyond the points the curve is one.

    Args:
        x_N: in [0, 1].
        y_N: the heights there.
        smoothing: the weight of the penalty.
        grid: on how many places the curve is kept.
    """
    step = 1 / (SPLINES - DEGREE)
    knots = np.arange(-DEGREE, SPLINES + 1) * step

    def splines(x: Floats) -> Floats:
        inside = np.clip(x, 0, 1)
        found: Floats = BSpline.design_matrix(inside, knots, DEGREE).toarray()
        return found

    bend = np.sqrt(smoothing) * np.diff(np.eye(SPLINES), 2, axis=0)
    left = np.concatenate([splines(x_N), bend])
    right = np.concatenate([y_N, np.zeros(len(bend))])
    height_S = np.linalg.lstsq(left, right, rcond=None)[0]
    return Curve(value_G=splines(np.linspace(0, 1, grid)) @ height_S)
