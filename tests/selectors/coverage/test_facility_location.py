"""Coverage as a score: pick orders, ties, a reference set, outliers"""

import numpy as np
import polars as pl
import pytest
from embeddings import observed, units

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.selection import Budget, select
from gristmill.selectors.coverage.facility_location import FacilityLocation
from gristmill.selectors.coverage.kcenter import KCenter


@pytest.mark.parametrize("scorer", [KCenter(picks=0.25), FacilityLocation(picks=10)])
def test_scores_are_pick_orders_whatever_the_order_of_rows(scorer):
    unit_ND = units(5, 40)
    scores = scorer.score(observed(unit_ND))
    assert scores["score"].drop_nulls().sort(descending=True).to_list() == [
        -i for i in range(1, 11)
    ]
    assert scores.filter(pl.col("score").is_null())["reason"].unique().to_list() == ["not_reached"]
    assert scores.filter(pl.col("score").is_not_null())["reason"].null_count() == 10
    shuffled = np.random.default_rng(0).permutation(40)
    again = scorer.score(observed(unit_ND, shuffled, parts=3))
    assert again.sort("id").equals(scores.sort("id"))


def test_ties_go_to_the_smaller_id():
    twins = np.repeat(units(7, 3), 2, axis=0)
    names = ["b", "a", "d", "c", "f", "e"]
    scores = FacilityLocation(picks=3).score(observed(twins, ids=names))
    assert set(scores.filter(pl.col("score").is_not_null())["id"]) == {"a", "c", "e"}


def test_a_reference_set_is_what_gets_covered():
    axes = np.eye(8, dtype=np.float32)
    pool = np.concatenate([np.tile(axes[0], (20, 1)), axes[1:4]])
    target = axes[[2, 2, 3]]
    scores = FacilityLocation(picks=2).score(observed(pool), observed(target))
    kept = scores.filter(pl.col("score").is_not_null()).sort("score", descending=True)
    assert kept["id"].to_list() == ["021", "022"]
    assert kept["score_gain"].to_list() == [2.0, 1.0]
    crowd = (
        FacilityLocation(picks=2)
        .score(observed(pool))
        .sort("score", descending=True, nulls_last=True)
    )
    assert crowd["id"][0] == "000"


def test_rows_without_embedding_are_left_to_the_reason_of_the_pass():
    column = KCenter().signals[0].column
    (frame,) = observed(units(8, 10)).parts
    frame = frame.with_columns(pl.when(pl.col("id") != "004").then(column).alias(column))
    scores = KCenter(picks=1.0).score(Frames(parts=(frame,)))
    row = scores.row(by_predicate=pl.col("id") == "004", named=True)
    assert row["score"] is None
    assert row["reason"] is None
    assert scores["score"].null_count() == 1
    with pytest.raises(ValueError, match="nothing to cover"):
        KCenter().score(Frames(parts=(frame.filter(id="004"),)))
    with pytest.raises(ValueError, match=r"a share up to 1 or a number of rows from 2; found 1\.5"):
        KCenter(picks=1.5).score(Frames(parts=(frame,)))


def test_outliers_mislead_k_center_and_not_facility_location():
    rng = np.random.default_rng(9)
    crowd = units(9, 4)[rng.integers(0, 4, 200)] + 0.05 * rng.normal(size=(200, 8))
    pool = np.concatenate([crowd, units(10, 3)]).astype(np.float32)  # the last three are outliers
    reached = {}
    for scorer in (KCenter(picks=7), FacilityLocation(picks=4)):
        scores = scorer.score(observed(pool))
        reached[type(scorer)] = set(scores.filter(pl.col("score").is_not_null())["id"])
    outliers = {"200", "201", "202"}
    assert outliers <= reached[KCenter]
    assert not outliers & reached[FacilityLocation]


def test_top_takes_the_picks_in_their_order():
    scores = FacilityLocation(picks=0.2).score(observed(units(11, 50)))
    table = scores.select("id", "score", "reason").with_columns(
        source=pl.lit("s"), row=pl.int_range(pl.len()), kind=pl.lit("example"), tokens=pl.lit(5)
    )
    ledger = select(table, rule=Top(), budget=Budget(fraction=0.1))
    kept = ledger.filter(verdict="kept").sort("order")
    assert kept["score"].to_list() == [-1, -2, -3, -4, -5]
    reasons = dict(ledger.group_by("reason").len().rows())
    assert reasons == {None: 5, "below_budget": 5, "unscored: not_reached": 40}
