"""Cover over a graph as a score: like the exact method where the graph holds everything"""

import numpy as np
import pytest
from embeddings import observed, units

from gristmill.selectors.coverage.facility_location import FacilityLocation
from gristmill.selectors.coverage.facility_location_knn import FacilityLocationKnn

ROUNDING = 1e-5  # float32 similarities of unit vectors


def test_pick_orders_are_the_exact_ones_on_a_small_pool():
    unit_ND = units(5, 40)
    scores = FacilityLocationKnn(picks=10).score(observed(unit_ND))
    exact = FacilityLocation(picks=10).score(observed(unit_ND))
    assert scores.drop("score_gain").equals(exact.drop("score_gain"))
    gains = scores["score_gain"].drop_nulls().to_numpy()
    np.testing.assert_allclose(gains, exact["score_gain"].drop_nulls().to_numpy(), rtol=ROUNDING)


def test_order_and_sharding_change_nothing():
    unit_ND = units(6, 90)
    scorer = FacilityLocationKnn(picks=0.2, neighbours=5)
    scores = scorer.score(observed(unit_ND)).sort("id")
    assert scores["score"].count() == 18
    shuffled = np.random.default_rng(0).permutation(90)
    assert scorer.score(observed(unit_ND, shuffled, parts=4)).sort("id").equals(scores)


def test_details_set_the_objective_beside_the_exact_one():
    unit_ND = units(7, 300)
    told = FacilityLocationKnn(picks=0.1, neighbours=8).details(observed(unit_ND))
    row = told.row(0, named=True)
    assert (row["rows"], row["picks"]) == (300, 30)
    exact = FacilityLocation(picks=0.1).score(observed(unit_ND))["score_gain"].sum() / 300
    assert row["exact"] == pytest.approx(exact, rel=ROUNDING)
    assert row["ratio"] == pytest.approx(row["objective"] / row["exact"])
    assert 0.97 < row["ratio"] < 1.03
    with pytest.raises(ValueError, match=r"neighbours must be at least 1; found 0\."):
        FacilityLocationKnn(neighbours=0)
