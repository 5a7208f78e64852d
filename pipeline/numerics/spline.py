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


def fitted(x_N: Floats, y_N: Floats, smoothing: float = SMOOTHING, grid: int = 201) -> Curve:
    """Least squares with a penalty on second differences of the splines' heights.

    A straight line costs no penalty, so it is met exactly, and beyond the points the curve is one.

    Args:
        x_N: in [0, 1].
        y_N: the heights there.
        smoothing: the weight of the penalty.
        grid: on how many places the curve is kept.
    """
    height_S1 = _heights(x_N, y_N[:, None], smoothing)
    return Curve(value_G=(_splines(np.linspace(0, 1, grid)) @ height_S1)[:, 0])


def slopes(x_N: Floats, y_NC: Floats, smoothing: float = SMOOTHING) -> tuple[Floats, Floats]:
    """Curves through many columns, at the points themselves: their heights, and their slopes.

    Args:
        x_N: in [0, 1].
        y_NC: the heights there, a curve a column.
        smoothing: the weight of the penalty.
    """
    height_SC = _heights(x_N, y_NC, smoothing)
    return _splines(x_N) @ height_SC, _splines(x_N, slope=True) @ height_SC


def _heights(x_N: Floats, y_NC: Floats, smoothing: float) -> Floats:
    bend = np.sqrt(smoothing) * np.diff(np.eye(SPLINES), 2, axis=0)
    left = np.concatenate([_splines(x_N), bend])
    right_C = np.concatenate([y_NC, np.zeros((len(bend), y_NC.shape[1]))])
    found: Floats = np.linalg.lstsq(left, right_C, rcond=None)[0]
    return found


def _splines(x_N: Floats, *, slope: bool = False) -> Floats:
    """Each spline at each point, N x S; or its slope there."""
    knots = np.arange(-DEGREE, SPLINES + 1) / (SPLINES - DEGREE)
    inside_N = np.clip(x_N, 0, 1)
    if slope:
        return np.asarray(BSpline(knots, np.eye(SPLINES), DEGREE).derivative()(inside_N))
    return np.asarray(BSpline.design_matrix(inside_N, knots, DEGREE).toarray())
