"""Transport: published values, closed forms, brute force, and what must hold of any plan."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.synthesis import transport

MARGINAL = 2e-8  # what 500 x 10 scalings leave, as specified
IPOT_GAP = 3.5e-4  # ipot - exact over the specified shapes
DIGITS = 1e-6  # printed digits of the specified values


def test_point_masses_and_the_line():
    cost_11 = transport.costs(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    assert transport.distance(transport.exact(cost_11), cost_11) == pytest.approx(2**0.5)
    same_ND = np.random.default_rng(3).normal(size=(7, 4))
    cost_NN = transport.costs(same_ND, same_ND)
    assert transport.distance(transport.exact(cost_NN), cost_NN) == pytest.approx(0, abs=1e-12)
    # {0, 1, 2} to {0, 2}: half of the middle mass goes one step each way.
    line_NM = transport.costs(np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [2.0]]))
    assert transport.distance(transport.exact(line_NM), line_NM) == pytest.approx(1 / 3)


SHAPES = [(100, 10, 768), (100, 25, 768), (20, 20, 8), (100, 40, 64)]
SPECIFIED = {  # (exact, ipot) by shape
    "euclidean": (
        (1.376645, 1.376893),
        (1.365289, 1.365601),
        (0.880643,) * 2,
        (1.222534, 1.222633),
    ),
    "cosine": ((0.947716, 0.947884), (0.932125, 0.932365), (0.404295,) * 2, (0.748787, 0.748881)),
}


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_specified_values(metric):
    generator = np.random.default_rng(0)
    for (n, m, d), (truth, near) in zip(SHAPES, SPECIFIED[metric], strict=True):
        x_ND = transport.unit(generator.standard_normal((n, d)))
        y_MD = transport.unit(generator.standard_normal((m, d)))
        cost_NM = transport.costs(x_ND, y_MD, metric)
        best = transport.distance(transport.exact(cost_NM), cost_NM)
        plan_NM = transport.ipot(cost_NM, beta=1.0, outer=500, inner=10)
        value = transport.distance(plan_NM, cost_NM)
        assert best == pytest.approx(truth, abs=DIGITS)
        assert value == pytest.approx(near, abs=DIGITS)
        # a plan off its marginals by 2e-8 a point may undercut by that times points times cost
        assert -1e-6 <= value - best <= IPOT_GAP
        assert np.abs(plan_NM.sum(axis=0) - 1 / m).max() < MARGINAL
        assert np.abs(plan_NM.sum(axis=1) - 1 / n).max() < MARGINAL


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_exact_is_the_best_permutation(size, seed):
    cost_NN = np.random.default_rng(seed).random((size, size))
    brute = min(
        sum(cost_NN[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(size))
    )
    assert transport.distance(transport.exact(cost_NN), cost_NN) == pytest.approx(brute / size)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 10_000))
def test_assignment_and_linear_program_agree(n, m, seed):
    cost_NM = np.random.default_rng(seed).random((n, m))
    one, two = transport.exact(cost_NM), transport._linear_program(cost_NM)
    value = float(transport.distance(two, cost_NM))
    assert transport.distance(one, cost_NM) == pytest.approx(value)
    assert np.allclose(one.sum(axis=1), 1 / n)
    assert np.allclose(one.sum(axis=0), 1 / m)


def test_large_coprime_sizes_take_the_linear_program():
    generator = np.random.default_rng(1)
    x_N1, y_M1 = generator.normal(size=(53, 1)), generator.normal(size=(47, 1))
    cost_NM = transport.costs(x_N1, y_M1)
    from scipy.stats import wasserstein_distance  # the closed form on a line

    truth = wasserstein_distance(x_N1[:, 0], y_M1[:, 0])
    assert transport.distance(transport.exact(cost_NM), cost_NM) == pytest.approx(truth)


def test_a_batch_is_its_problems_one_by_one():
    cost_BNM = np.random.default_rng(2).random((4, 9, 5))
    plan_BNM = transport.ipot(cost_BNM, outer=40, inner=5)
    for cost_NM, plan_NM in zip(cost_BNM, plan_BNM, strict=True):
        assert np.allclose(plan_NM, transport.ipot(cost_NM, outer=40, inner=5), atol=1e-12)


def test_sinkhorn_bounds_exact_and_tightens():
    cost_NM = np.random.default_rng(4).random((12, 8))
    best = transport.distance(transport.exact(cost_NM), cost_NM)
    gaps = []
    for epsilon in (0.5, 0.05, 0.005):
        plan_NM = transport.sinkhorn(cost_NM, epsilon=epsilon, iterations=20_000)
        assert np.abs(plan_NM.sum(axis=1) - 1 / 12).max() < 1e-8
        assert np.allclose(plan_NM.sum(axis=0), 1 / 8)
        gap = float(transport.distance(plan_NM, cost_NM) - best)
        # Entropy of a plan lies within log(NM) of the product plan's: the bias is below that.
        assert -1e-9 <= gap <= epsilon * np.log(12 * 8)
        gaps.append(gap)
    assert gaps == sorted(gaps, reverse=True)


def test_sinkhorn_two_points_closed_form():
    # Cost [[0, 1], [1, 0]]: by symmetry T = [[p, q], [q, p]] / 2 with p / q = exp(1 / epsilon).
    epsilon = 0.3
    plan_22 = transport.sinkhorn(np.array([[0.0, 1.0], [1.0, 0.0]]), epsilon=epsilon)
    share = 1 / (1 + np.exp(1 / epsilon))
    assert plan_22[0, 1] == pytest.approx(share / 2)


def test_sinkhorn_does_not_underflow():
    # exp(-100 / 1e-3) is 0 in float64: a solver outside log space would divide by zero here.
    cost_NM = 100.0 + np.random.default_rng(5).random((6, 6))
    plan_NM = transport.sinkhorn(cost_NM, epsilon=1e-3, iterations=5_000)
    assert np.isfinite(plan_NM).all()
    assert plan_NM.sum() == pytest.approx(1.0)


def test_zero_vectors_have_a_finite_cosine_distance():
    cost_NM = transport.costs(np.zeros((1, 3)), np.eye(3), "cosine")
    assert np.array_equal(cost_NM, np.ones((1, 3)))


@pytest.mark.parametrize("far", [1.0, 30.0, 1e3, 1e5])
def test_far_sets_cost_what_they_are_far(far):
    """Embeddings that are not normalised: the kernel would be 0, and so would the cost."""
    generator = np.random.default_rng(0)
    x_ND = far * generator.normal(size=(20, 8))
    y_MD = far * (generator.normal(size=(7, 8)) + 3.0)
    cost_NM = transport.costs(x_ND, y_MD)
    truth = transport.distance(transport.exact(cost_NM), cost_NM)
    plan_NM = transport.ipot(cost_NM, outer=100, inner=5)
    assert transport.distance(plan_NM, cost_NM) == pytest.approx(truth, rel=0.02)
    assert plan_NM.sum() == pytest.approx(1.0, abs=1e-5)
    near_NM = cost_NM / cost_NM.max()
    both = transport.ipot(np.stack([near_NM, cost_NM]), outer=100, inner=5)
    assert np.allclose(both[0], transport.ipot(near_NM, outer=100, inner=5)), "each by its own size"
