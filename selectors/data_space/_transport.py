"""Transport to a target: how much probability each neighbour of each query gets (method `tsds`)."""

# M = queries, K = neighbours fetched of each, in order of their distance

import heapq

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def probabilities(distance_MK: Floats, density_MK: Floats, alpha: float, scale: float) -> Floats:
    """The share of the whole mass that each neighbour gets from each query, M x K; it adds up to 1.

    Queries spread over neighbours at one common level s: a neighbour of density rho takes
    1 / (M s rho), the nearest first, the last one what is left of 1 / M. The level rises until
    spreading farther would cost more than it adds in diversity:
    alpha / scale * sum_j (d_{j, k+1} s - sum_{i <= k} d_ji / rho_ji) >= (1 - alpha) M.

    Args:
        distance_MK: of each query's neighbours, in ascending order.
        density_MK: of the same; 1 for a row without near copies.
        alpha: the weight of closeness: 1 takes the nearest alone, 0 spreads evenly.
        scale: of distances.
    """
    queries, most = distance_MK.shape
    mass_MK = 1 / density_MK
    spent_MK = np.cumsum(distance_MK * mass_MK, axis=1)
    level_MK = np.cumsum(mass_MK, axis=1)
    used_M = np.zeros(queries, dtype=np.int64)
    cost_M = np.zeros(queries)
    level, total = 0.0, 0.0
    heap = [(float(level_MK[j, 0]), j, 1) for j in range(queries)]
    heapq.heapify(heap)
    while heap:
        level, j, k = heapq.heappop(heap)
        if k == most:  # it has no farther neighbour: it spreads over all of its own
            used_M[j] = most
            continue
        cost = float(distance_MK[j, k] * level - spent_MK[j, k - 1])
        total += cost - cost_M[j]
        cost_M[j] = cost
        if alpha / scale * total >= (1 - alpha) * queries:
            break
        used_M[j] = k
        heapq.heappush(heap, (float(level_MK[j, k]), j, k + 1))
    share_MK = np.zeros_like(mass_MK)
    for j, used in enumerate(used_M.tolist()):
        own = min(level, float(level_MK[j, -1]))
        share_MK[j, :used] = mass_MK[j, :used] / (queries * own)
        if used < most:
            share_MK[j, used] = max(0.0, 1 / queries - float(share_MK[j, :used].sum()))
    return share_MK
