"""From answers to a subset to the accuracy on all items: through a curve, or by learned weights."""

# M = models, K = items of a subset

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.numerics.spline import Curve, fitted

PENALTIES = 10.0 ** np.arange(-3, 5)  # of the ridge regression

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The accuracy on all items, from answers to a subset: a curve of a weighted sum.

    Attributes:
        weight_K: of each item.
        intercept: what is added to their sum.
        curve: what the sum, cut to [0, 1], becomes.
        learned: whether weights were learned; else all are equal.
    """

    weight_K: Floats
    intercept: float
    curve: Curve
    learned: bool

    def __call__(self, value_MK: Floats) -> Floats:
        return self.curve(np.clip(value_MK @ self.weight_K + self.intercept, 0, 1))


def equal(value_MK: Floats, whole_M: Floats) -> Estimate:
    """Equal weights: the curve from the accuracy on the subset to that on all items."""
    weight_K = np.full(value_MK.shape[1], 1 / value_MK.shape[1])
    curve = fitted(value_MK @ weight_K, whole_M)
    return Estimate(weight_K=weight_K, intercept=0.0, curve=curve, learned=False)


def learned(value_MK: Floats, whole_M: Floats) -> Estimate:
    """Ridge regression of the whole accuracy on the answers; the penalty by leaving models out."""
    mean_K, mean = value_MK.mean(axis=0), float(whole_M.mean())
    x_MK, y_M = value_MK - mean_K, whole_M - mean
    left_MM, size_M, _ = np.linalg.svd(x_MK, full_matrices=False)
    errors = []
    for penalty in PENALTIES:
        hat_MM = (left_MM * (size_M**2 / (size_M**2 + penalty))) @ left_MM.T
        # the mean is fitted too: it takes 1 / M of each model's own part
        own_M = np.clip(hat_MM.diagonal() + 1 / len(y_M), None, 1 - 1e-9)
        errors.append(float((((y_M - hat_MM @ y_M) / (1 - own_M)) ** 2).mean()))
    penalty = PENALTIES[int(np.argmin(errors))]
    gram_MM = x_MK @ x_MK.T + penalty * np.eye(len(x_MK))
    weight_K = x_MK.T @ np.linalg.solve(gram_MM, y_M)
    straight = Curve(value_G=np.array([0.0, 1.0]))
    return Estimate(
        weight_K=weight_K, intercept=mean - float(mean_K @ weight_K), curve=straight, learned=True
    )
