"""Which arms are alike: distances of clusters, and the weights with which they share their news."""

# A = arms, D = features

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


def gaps(mean_AD: Array, std_AD: Array) -> Array:
    """G_ij = |mu_i - mu_j|^2 + sum_d (sigma_id - sigma_jd)^2: Frechet for diagonal Gaussians.

    The released script takes element-wise roots of full covariances inside a trace, which is this;
    the distance of the full Gaussians is larger.
    """
    gap_AA = np.zeros((len(mean_AD), len(mean_AD)))
    for part_AD in (mean_AD, std_AD):
        # Centring first keeps digits in |x|^2 + |y|^2 - 2xy; NaN (no spread) spreads by itself.
        x_AD = part_AD - np.nan_to_num(part_AD).mean(axis=0)
        square_A = (x_AD**2).sum(axis=1)
        gap_AA += np.maximum(square_A[:, None] + square_A[None, :] - 2.0 * x_AD @ x_AD.T, 0.0)
    return gap_AA


def mutual(gap_AA: Array, neighbours: int) -> Array:
    """Sharing weights: exp(-G / h) between arms in each other's nearest lists, 1 with oneself.

    h is the median G over all nearest-neighbour edges. One-sided lists are not used: a hub, near
    to many arms, would collect everybody's bad news.
    """
    arms = len(gap_AA)
    k = min(neighbours, arms - 1)
    if k < 1:
        return np.eye(arms)
    other_AA = gap_AA + np.where(np.eye(arms, dtype=bool), np.inf, 0.0)
    near = np.argsort(other_AA, axis=1, kind="stable")[:, :k]
    listed_AA = np.zeros((arms, arms), dtype=bool)
    np.put_along_axis(listed_AA, near, True, axis=1)
    h = max(float(np.median(np.take_along_axis(gap_AA, near, axis=1))), 1e-12)
    weight_AA = np.where(listed_AA & listed_AA.T, np.exp(-gap_AA / h), 0.0)
    np.fill_diagonal(weight_AA, 1.0)
    return weight_AA
