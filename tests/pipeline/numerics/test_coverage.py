"""Coverage: golden numbers, brute force, the bounds of the theorems, lazy = plain."""

import itertools

import numpy as np
import pytest
from embeddings import distances, units
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.pipeline.numerics import coverage
from gristmill.pipeline.numerics.coverage import cosine, facility_location, k_center

LINE = np.array([0, 0.1, 5, 5.1, 10])


ROUNDING = 1e-5  # float32 similarities of unit vectors


def of(matrix):
    """The similarity that looks its values up: `matrix[j, i]`, candidate by covered row."""
    return lambda j, i: matrix[j][:, i]


def plain_k_center(similarity, picks, start):
    rows = [start]
    while len(rows) < picks:
        near = similarity[:, rows].max(axis=1)
        near[rows] = np.inf
        rows.append(int(np.argmin(near)))
    return rows


def plain_facility_location(similarity, picks):
    rows, cover = [], np.zeros(similarity.shape[1])
    while len(rows) < picks:
        gain = np.maximum(similarity - cover, 0).sum(axis=1)
        gain[rows] = -np.inf
        rows.append(int(np.argmax(gain)))
        cover = np.maximum(cover, similarity[rows[-1]])
    return rows


def cover_of(similarity, rows):
    return np.maximum(similarity[list(rows)], 0).max(axis=0).sum()


# Sixteenths add without rounding, so equal gains are equal however they are summed.
exact = st.integers(2, 12).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(-4, 16), min_size=n, max_size=n), min_size=n, max_size=n
    ).map(lambda rows: np.array(rows, float) / 16)
)


def test_golden_points_on_a_line():
    far = distances(LINE)
    near = facility_location(of(1 / (1 + far)), covered=5, candidates=5, picks=3)
    assert near.rows.tolist() == [2, 0, 4]
    np.testing.assert_allclose(near.worth, [2.411916, 1.572933, 0.833333], atol=1e-6)
    centers = k_center(of(-far), candidates=5, picks=3, start=0)
    assert centers.rows.tolist() == [0, 4, 2]
    assert far[:, centers.rows].min(axis=1).max() == pytest.approx(0.1)
    assert centers.worth.tolist() == [-np.inf, -10, -5]


@settings(max_examples=60, deadline=None)
@given(exact, st.integers(1, 12), st.booleans())
def test_lazy_facility_location_is_the_plain_one(similarity, picks, sparse):
    picks = min(picks, len(similarity))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "HELD", coverage.HELD if sparse else 0)
        patch.setattr(coverage, "BLOCK", 2 * len(similarity))  # two candidates at a time
        got = facility_location(
            of(similarity), covered=len(similarity), candidates=len(similarity), picks=picks
        )
    assert got.rows.tolist() == plain_facility_location(similarity, picks)
    assert (np.diff(got.worth) <= 0).all()  # submodular: gains never rise
    assert got.worth.sum() == cover_of(similarity, got.rows)


@settings(max_examples=60, deadline=None)
@given(exact, st.integers(1, 12), st.integers(1, 4))
def test_bounded_k_center_is_the_plain_one(similarity, picks, together):
    similarity = np.maximum(similarity, similarity.T)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "CENTERS", together)
        patch.setattr(coverage, "BLOCK", 3)
        got = k_center(of(similarity), candidates=len(similarity), picks=picks, start=1)
    assert got.rows.tolist() == plain_k_center(similarity, min(picks, len(similarity)), 1)
    assert (np.diff(got.worth) >= 0).all()  # picks come ever nearer to those before


@pytest.mark.parametrize("seed", range(6))
def test_bounds_against_brute_force(seed):
    points = np.random.default_rng(seed).normal(size=(12, 2))
    far = distances(points)
    similarity = 1 / (1 + far)
    for picks in (2, 3, 4):
        subsets = list(itertools.combinations(range(12), picks))
        best = max(cover_of(similarity, s) for s in subsets)
        got = facility_location(of(similarity), covered=12, candidates=12, picks=picks)
        assert (1 - 1 / np.e) * best <= got.worth.sum() <= best + 1e-12
        radius = min(far[:, s].min(axis=1).max() for s in subsets)
        centers = k_center(of(-far), candidates=12, picks=picks, start=0)
        assert radius - 1e-12 <= far[:, centers.rows].min(axis=1).max() <= 2 * radius + 1e-12


@pytest.mark.parametrize("held", [0, 40_000, 1 << 30])
def test_dense_sparse_and_late_sparse_agree_on_embeddings(held, monkeypatch):
    unit_ND = units(3, 300)
    monkeypatch.setattr(coverage, "HELD", held)
    monkeypatch.setattr(coverage, "BLOCK", 300 * 16)
    sweeps = []
    sweep = coverage._sweep
    monkeypatch.setattr(coverage, "_sweep", lambda *a: sweeps.append(sweep(*a)) or sweeps[-1])
    got = facility_location(cosine(unit_ND), covered=300, candidates=300, picks=60)
    similarity = (unit_ND @ unit_ND.T).astype(float)
    assert got.worth.sum() == pytest.approx(cover_of(similarity, got.rows), rel=ROUNDING)
    want = cover_of(similarity, plain_facility_location(similarity, 60))
    assert got.worth.sum() == pytest.approx(want, rel=ROUNDING)
    assert [s[1] is not None for s in sweeps][-1] == (held > 0)
    assert len(sweeps) == (2 if held == 40_000 else 1)


def test_only_blocks_are_asked_for(monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK", 1 << 12)
    monkeypatch.setattr(coverage, "CENTERS", 64)
    unit_ND, asked = units(4, 500), []

    def pairs(j, i):
        block = cosine(unit_ND)(j, i)
        asked.append(block.size)
        return block

    facility_location(pairs, covered=500, candidates=500, picks=20)
    k_center(pairs, candidates=500, picks=100, start=0)
    assert max(asked) <= 1 << 12
    with pytest.raises(ValueError, match=r"select fewer candidates in a first stage"):
        facility_location(pairs, covered=50_001, candidates=50_000, picks=5)
