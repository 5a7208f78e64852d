"""k-means against its definition: fixed points, planted groups, starts, restarts, few points."""

import numpy as np
import pytest

from gristmill.pipeline.numerics.kmeans import kmeans


def groups(clusters: int, each: int, spread: float, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    centre = 10 * draw.normal(size=(clusters, 5))
    return np.repeat(centre, each, axis=0) + spread * draw.normal(size=(clusters * each, 5))


def loss(x, centroid, cluster) -> float:
    return float(np.square(x - centroid[cluster]).sum())


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_a_fixed_point_of_lloyds_iteration(init):
    x = np.random.default_rng(1).normal(size=(300, 4))
    centroid, cluster = kmeans(x, 6, seed=3, iterations=200, init=init)
    apart = np.square(x[:, None] - centroid[None]).sum(2)
    assert (apart.argmin(1) == cluster).all()
    means = np.stack([x[cluster == k].mean(0) for k in range(6)])
    assert np.allclose(means, centroid, atol=1e-5)
    again = kmeans(x, 6, seed=3, iterations=200, init=init)
    assert (again[0] == centroid).all()
    assert (again[1] == cluster).all()
    assert not np.array_equal(kmeans(x, 6, seed=4, init=init)[0], centroid)


def test_planted_groups_are_found_by_spread_out_starts():
    x = groups(8, 20, 0.1)
    for seed in range(5):
        _, cluster = kmeans(x, 8, seed=seed, restarts=5, init="k-means++")
        assert [len(set(part)) for part in cluster.reshape(8, 20).tolist()] == [1] * 8
        assert len(set(cluster.tolist())) == 8


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_of_several_runs_the_tightest_is_taken(init):
    x = groups(12, 8, 1.0)
    seeds = range(8)
    one = [loss(x, *kmeans(x, 12, seed=s, init=init)) for s in seeds]
    many = [loss(x, *kmeans(x, 12, seed=s, restarts=8, init=init)) for s in seeds]
    # the first of the runs is the one of a single run
    assert all(m <= o * (1 + 1e-5) for o, m in zip(one, many, strict=True))
    assert max(many) < max(one)


def test_given_centroids_are_where_it_begins():
    x = np.array([[0.0, 0], [0.1, 0], [0.2, 0], [9, 9], [9.1, 9], [9.2, 9]])
    for start, expected in (([0, 3], [0, 0, 0, 1, 1, 1]), ([5, 0], [1, 1, 1, 0, 0, 0])):
        centroid, cluster = kmeans(x, 2, seed=0, init=x[start])
        assert cluster.tolist() == expected
        assert np.allclose(centroid[cluster[0]], [0.1, 0])
    assert np.array_equal(kmeans(x, 2, seed=0, iterations=1, init=x[[0, 1]])[0][0], x[0])


@pytest.mark.parametrize("spherical", [False, True])
def test_one_cluster_is_the_mean(spherical):
    x = np.random.default_rng(0).normal(size=(20, 3)) + 1
    centroid, cluster = kmeans(x, 1, seed=0, spherical=spherical)
    mean = x.mean(0, keepdims=True)
    assert np.allclose(centroid, mean / np.linalg.norm(mean) if spherical else mean, atol=1e-6)
    assert cluster.tolist() == [0] * 20
    assert (kmeans(np.zeros((2, 3)), 1, seed=0, spherical=spherical)[0] == 0).all()


def test_spherical_centroids_have_length_one_and_the_largest_product():
    x = np.random.default_rng(0).normal(size=(200, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    centroid, cluster = kmeans(x, 5, seed=1, spherical=True, restarts=3, init="k-means++")
    assert np.allclose(np.linalg.norm(centroid, axis=1), 1, atol=1e-6)
    assert ((x @ centroid.T).argmax(1) == cluster).all()


def test_fewer_distinct_points_than_clusters():
    x = np.repeat(np.eye(3), 4, axis=0)
    centroid, cluster = kmeans(x, 5, seed=0, init="k-means++")
    assert len(centroid) == 3
    assert (centroid[cluster] == x).all()
    assert kmeans(np.ones((6, 2)), 3, seed=0, init="k-means++")[1].tolist() == [0] * 6
    _, random = kmeans(x, 5, seed=0)
    assert set(random.tolist()) <= set(range(5))
