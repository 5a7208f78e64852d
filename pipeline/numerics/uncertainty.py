"""Uncertainty of preferences: how far several rewards differ, and what no pick has determined."""

# N = pairs, K = picks or reward models, D = features

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.numerics.coverage import Picks

Doubles = NDArray[np.float64]


def ensemble(margin_NK: Doubles) -> Doubles:
    """How far reward models differ on pairs: 1 where half of them prefer either side.

    Scales of reward models differ, so each model's margins are divided by their root mean square.
    The uncertainty of a pair is the spread of its margins over the spread and their mean together:
    std^2 / (std^2 + mean^2), which no scale changes; 0 where all agree on one number.
    """
    rms_K = np.sqrt((margin_NK**2).mean(axis=0))
    scaled_NK = np.divide(margin_NK, rms_K, out=np.zeros_like(margin_NK), where=rms_K > 0)
    spread_N = scaled_NK.var(axis=1)
    whole_N = spread_N + scaled_NK.mean(axis=1) ** 2
    # all margins zero: the models say nothing, which is as uncertain as can be
    found_N: Doubles = np.divide(spread_N, whole_N, out=np.ones_like(whole_N), where=whole_N > 0)
    return found_N


def most_uncertain(phi_ND: Doubles, picks: int, ridge: float = 1.0) -> Picks:
    """Greedy argmax of phi' V^-1 phi; worth is its value when picked, ties go to the lowest index.

    V^-1 is never formed: with each pick, phi' V^-1 phi falls by the square of its row of the
    incremental Cholesky factor of ridge + Gram, over the rows still there.
    """
    width_N = np.einsum("nd,nd->n", phi_ND, phi_ND) / ridge
    picks = min(picks, len(phi_ND))
    factor_KN = np.zeros((picks, len(phi_ND)))
    free_N = np.ones(len(phi_ND), bool)
    rows, worth = [], []
    for k in range(picks):
        best = int(np.argmax(np.where(free_N, width_N, -np.inf)))
        rows.append(best)
        worth.append(float(width_N[best]))
        free_N[best] = False
        # one dot product a row: the same bits in whatever order the rows stand
        gram_N = np.einsum("nd,d->n", phi_ND, phi_ND[best]) / ridge
        gram_N -= factor_KN[:k].T @ factor_KN[:k, best]
        factor_KN[k] = gram_N / np.sqrt(1.0 + width_N[best])
        width_N = np.maximum(width_N - factor_KN[k] ** 2, 0.0)
    return Picks(rows=np.array(rows, np.int64), worth=np.array(worth))
