"""Coverage: golden numbers, brute force, the bounds of the theorems, lazy = plain."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.numerics import coverage
from gristmill.pipeline.numerics.coverage import cosine, facility_location, k_center
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.selection import Budget, select
from gristmill.selectors.coverage.facility_location import FacilityLocation
from gristmill.selectors.coverage.kcenter import KCenter

LINE = np.array([0, 0.1, 5, 5.1, 10])
ROUNDING = 1e-5  # float32 similarities of unit vectors


def distances(points):
    points = np.asarray(points, float).reshape(len(points), -1)
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


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


def units(seed, rows, size=8):
    draw = np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)
    return draw / np.linalg.norm(draw, axis=1, keepdims=True)


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


def observed(unit_ND, order=None, parts=1, ids=None):
    names = ids or [f"{i:03d}" for i in range(len(unit_ND))]
    frame = pl.DataFrame(
        {"id": names, KCenter().signals[0].column: unit_ND},
        schema_overrides={KCenter().signals[0].column: pl.Array(pl.Float32, unit_ND.shape[1])},
    )
    frame = frame[order] if order is not None else frame
    size = -(-frame.height // parts)
    return Frames(parts=tuple(frame[i : i + size] for i in range(0, frame.height, size)))


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


def test_k_center_starts_where_its_seed_says():
    unit_ND = units(6, 30)
    firsts = set()
    for seed in range(8):
        scores = KCenter(picks=2, seed=seed).score(observed(unit_ND)).sort("score", nulls_last=True)
        first, second = scores["id"][1], scores["id"][0]
        firsts.add(first)
        far = distances(unit_ND)[int(first)]
        assert far[int(second)] == far.max()
        assert scores["score_distance"][0] == pytest.approx(far.max(), rel=1e-4)
        assert scores["score_distance"][1] is None
    assert len(firsts) > 2


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
