"""Rank statistics against all pairs, scipy, and what is not defined."""

import itertools

import numpy as np
import polars as pl
import pytest
from scipy import stats

from gristmill.pipeline.numerics.ranks import auc, place, spearman

DRAW = np.random.default_rng(0)
A, B = DRAW.integers(0, 6, 40).astype(float), DRAW.integers(0, 6, 30).astype(float)


def test_auc_is_the_share_of_pairs():
    pairs = [(x > y) + (x == y) / 2 for x, y in itertools.product(A, B)]
    assert auc(A, B) == pytest.approx(np.mean(pairs))
    assert auc(B, A) == pytest.approx(1 - auc(A, B))
    assert auc(A, B[:0]) is None


def test_spearman_is_scipys_and_odd():
    assert spearman(A[:30], B) == pytest.approx(stats.spearmanr(A[:30], B).statistic)
    assert spearman(-A[:30], B) == pytest.approx(-spearman(A[:30], B))
    assert spearman([1, 2, 3], [10, 30, 20]) == pytest.approx(0.5)


def test_spearman_reads_finite_places_and_says_when_it_is_not_defined():
    assert spearman([1, 2, 3, np.nan], [2, 4, 5, 1]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [5, 5, 5]) is None
    assert spearman([1], [1]) is None
    assert spearman([], []) is None


def test_a_place_counts_what_lies_below_and_half_of_what_is_equal():
    frame = pl.DataFrame({"x": [3.0, 1.0, None, 3.0, 5.0]})
    found = frame.select(place(pl.col("x")))["x"].to_list()
    assert found == [0.5, 0.125, None, 0.5, 0.875]
