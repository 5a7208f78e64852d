"""Optimal transport between two clouds of points: how far is one set from another?

W = min_T sum_nm T_nm C_nm over the plans T >= 0 with row sums 1/N and column sums 1/M: every point
weighs the same. Three solvers of the same problem: `exact` (the truth, slowest), `ipot` (near-exact
upper bound, batched over bandit arms), `sinkhorn` (entropic, smooth, stable in log space).
"""

# N, M = points of the two clouds, D = features, B = problems solved side by side

import math
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Metric = Literal["euclidean", "cosine"]
_LARGEST_ASSIGNMENT = 2_000  # above it the assignment is slower than the linear program
_FARTHEST = 2.0  # distance of two unit vectors
_FLOOR = 1e-8  # of the published IPOT script; it also keeps empty scalings finite


def costs(x_ND: Array, y_MD: Array, metric: Metric = "euclidean") -> Array:
    """Pairwise distances C_NM; "cosine" is 1 - cos, and a zero vector is at distance 1 of all."""
    if metric == "cosine":
        return 1.0 - unit(x_ND) @ unit(y_MD).T
    # The expansion |x|^2 + |y|^2 - 2xy loses half the digits for near points; this one does not.
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(x_ND, y_MD), dtype=np.float64)


def unit(x_ND: Array) -> Array:
    """Rows scaled to length 1; a zero row stays zero."""
    norm_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    return np.asarray(x_ND / np.where(norm_N1 > 0, norm_N1, 1.0), dtype=np.float64)


def exact(cost_NM: Array) -> Array:
    """An optimal plan.

    With uniform weights the problem is an assignment once each row is split into lcm/N and each
    column into lcm/M equal parts (Birkhoff-von Neumann); where lcm is large, a linear program.
    """
    n, m = cost_NM.shape
    parts = math.lcm(n, m)
    if parts > _LARGEST_ASSIGNMENT:
        return _linear_program(cost_NM)
    from scipy.optimize import linear_sum_assignment

    row_of, column_of = np.arange(parts) // (parts // n), np.arange(parts) // (parts // m)
    left, right = linear_sum_assignment(cost_NM[np.ix_(row_of, column_of)])
    plan_NM = np.zeros((n, m))
    np.add.at(plan_NM, (row_of[left], column_of[right]), 1.0 / parts)
    return plan_NM


def _linear_program(cost_NM: Array) -> Array:
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    n, m = cost_NM.shape
    marginals = vstack(
        [kron(eye_array(n), np.ones((1, m))), kron(np.ones((1, n)), eye_array(m))], format="csr"
    )
    weights = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    answer = linprog(cost_NM.ravel(), A_eq=marginals, b_eq=weights, method="highs")
    assert answer.status == 0, f"the transport program did not solve: {answer.message}"
    return np.asarray(answer.x, dtype=np.float64).reshape(n, m)


def ipot(cost_BNM: Array, *, beta: float = 1.0, outer: int = 500, inner: int = 10) -> Array:
    """Inexact proximal point plans (Xie et al. 2018, arXiv:1802.04307), one per problem.

    No stopping test: `outer` x `inner` scalings always, so that cost is known and results are
    reproducible. Accepts one problem (N, M) or a batch (B, N, M).

    `beta` is for distances of unit vectors, 2 at most. Larger costs are scaled down to that, which
    moves no plan: exp(-C / beta) of far points would fall below the floor, and mass be lost.
    """
    if cost_BNM.ndim == 2:
        plan_NM: Array = ipot(cost_BNM[None], beta=beta, outer=outer, inner=inner)[0]
        return plan_NM
    n, m = cost_BNM.shape[1:]
    scale_B11: Array = np.maximum(1.0, cost_BNM.max(axis=(1, 2), keepdims=True) / _FARTHEST)
    kernel_BNM: Array = np.exp(-cost_BNM / (beta * scale_B11))
    plan_BNM = np.full_like(kernel_BNM, 1.0 / (n * m))
    v_BM1 = np.ones((len(cost_BNM), m, 1))
    for _ in range(outer):
        q_BNM = kernel_BNM * plan_BNM
        qt_BMN = q_BNM.transpose(0, 2, 1)
        for _ in range(inner):
            u_BN1 = (1.0 / n) / (q_BNM @ v_BM1 + _FLOOR)
            v_BM1 = (1.0 / m) / (qt_BMN @ u_BN1 + _FLOOR)
        plan_BNM = u_BN1 * q_BNM * v_BM1.transpose(0, 2, 1)
    return plan_BNM


def sinkhorn(
    cost_NM: Array, *, epsilon: float = 0.05, iterations: int = 1_000, tolerance: float = 1e-9
) -> Array:
    """The entropic plan, by log-domain scalings (Cuturi 2013, arXiv:1306.0895).

    Minimises <T, C> - epsilon H(T). Potentials stay in log space, so a small epsilon costs
    iterations but never underflows. Stops when the row sums are within `tolerance`.
    """
    n, m = cost_NM.shape
    scaled_NM = -cost_NM / epsilon
    f_N, g_M = np.zeros(n), np.zeros(m)
    for _ in range(iterations):
        f_N = -math.log(n) - _logsumexp(scaled_NM + g_M[None, :], axis=1)
        g_M = -math.log(m) - _logsumexp(scaled_NM + f_N[:, None], axis=0)
        plan_NM: Array = np.exp(scaled_NM + f_N[:, None] + g_M[None, :])
        if np.abs(plan_NM.sum(axis=1) - 1.0 / n).max() < tolerance:
            break
    return plan_NM


def _logsumexp(x: Array, axis: int) -> Array:
    top = x.max(axis=axis, keepdims=True)
    total: Array = np.log(np.exp(x - top).sum(axis=axis)) + top.squeeze(axis)
    return total


def distance(plan: Array, cost: Array) -> Array:
    """W = sum T * C over the last two axes: a number, or one per problem of a batch."""
    return np.asarray((plan * cost).sum(axis=(-2, -1)), dtype=np.float64)
