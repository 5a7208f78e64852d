"""k-means: points to the nearest of k centroids, each the mean of the points that are its own."""

# N = points, D = dimensions, K = clusters

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.floating[Any]]
Centroids = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

ROUNDING = 1e-6  # of a sum over points in float32: runs that differ by less are equally tight


def kmeans(
    points_ND: Points,
    k: int,
    *,
    seed: int,
    iterations: int = 25,
    restarts: int = 1,
    init: Literal["random", "k-means++"] | Points = "random",
    spherical: bool = False,
) -> tuple[Centroids, Ints]:
    """Centroids, and for each point the number of the nearest one.

    All points are used, in float32. The result depends on their order: sort them first, by what the
    data itself decides (ids, draws).

    Args:
        points_ND: finite, and at least k.
        k: how many clusters; a centroid that loses all points takes half of another's.
        seed: of the first centroids.
        iterations: of a run.
        restarts: runs, of which the tightest is taken.
        init: the first centroids: "random" points; "k-means++", points drawn in proportion to the
            squared distance to those before, which gives fewer than k clusters if fewer points are
            distinct; or the centroids themselves, K x D.
        spherical: of unit vectors: centroids of length 1, and the nearest is that of the largest
            inner product.
    """
    assert 1 <= k <= len(points_ND), f"{k} clusters of {len(points_ND)} points"
    x_ND = np.ascontiguousarray(points_ND, dtype=np.float32)
    if k == 1:
        mean_1D = x_ND.mean(axis=0, dtype=np.float64)[None, :].astype(np.float32)
        if spherical:
            mean_1D /= np.linalg.norm(mean_1D) or np.float32(1)
        return mean_1D, np.zeros(len(x_ND), dtype=np.int64)
    if isinstance(init, str) and init == "random":
        return _run(x_ND, k, None, seed, iterations, spherical, redo=restarts)[1:]
    if not isinstance(init, str):
        assert restarts == 1, "equal starts have equal ends"
        return _run(x_ND, k, init, seed, iterations, spherical)[1:]
    runs = []
    for restart in range(restarts):
        start_KD = _spread_out(x_ND, k, np.random.default_rng([seed, restart]))
        runs.append(_run(x_ND, len(start_KD), start_KD, seed, iterations, spherical))
    least = min(apart for apart, _, _ in runs)
    return next(r for r in runs if r[0] <= least + ROUNDING * abs(least))[1:]


def _run(
    x_ND: Centroids,
    k: int,
    start_KD: Points | None,
    seed: int,
    iterations: int,
    spherical: bool,
    redo: int = 1,
) -> tuple[float, Centroids, Ints]:
    """What the centroids leave unexplained, the centroids, and the nearest one of each point."""
    import faiss

    machine = faiss.Kmeans(
        x_ND.shape[1],
        k,
        niter=iterations,
        nredo=redo,
        seed=seed,
        spherical=spherical,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x_ND),  # more would be sampled away
    )
    start = None if start_KD is None else np.ascontiguousarray(start_KD, dtype=np.float32)
    machine.train(x_ND, init_centroids=start)
    nearness_N1, nearest_N1 = machine.index.search(x_ND, 1)
    total = float(nearness_N1.sum(dtype=np.float64))
    return -total if spherical else total, np.asarray(machine.centroids), nearest_N1[:, 0]


def _spread_out(x_ND: Centroids, k: int, draw: np.random.Generator) -> Centroids:
    """k-means++: each start is drawn in proportion to its squared distance to the ones before."""
    chosen = [int(draw.integers(len(x_ND)))]
    nearest_N = np.full(len(x_ND), np.inf)
    while len(chosen) < k:
        apart_ND = x_ND.astype(np.float64) - x_ND[chosen[-1]]
        nearest_N = np.minimum(nearest_N, np.square(apart_ND).sum(1))
        total_N = np.cumsum(nearest_N)
        if total_N[-1] <= 0:  # fewer distinct points than clusters
            break
        chosen.append(int(np.searchsorted(total_N, draw.random() * total_N[-1], side="right")))
    return x_ND[chosen]
