"""TSDS: the printed optimum, its limits, exact neighbours in blocks, copies that share a mass."""

import math

import numpy as np
import polars as pl
import pytest

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.selection.rules import rule_named
from gristmill.selectors.data_space import tsds
from gristmill.selectors.data_space._transport import probabilities
from gristmill.selectors.data_space.tsds import Tsds

COLUMN = Tsds().signals[0].column


def pool(row_ND, parts=1, ids=None):
    array = pl.Series(COLUMN, np.float32(row_ND), dtype=pl.Array(pl.Float32, len(row_ND[0])))
    ids = ids or [f"{i:04d}" for i in range(len(row_ND))]
    frame = pl.DataFrame({"id": ids}).with_columns(array)
    return Frames(parts=tuple(frame.iter_slices(-(-len(ids) // parts))))


def units(seed, rows, size):
    draw = np.random.default_rng(seed).normal(size=(rows, size))
    return draw / np.linalg.norm(draw, axis=1, keepdims=True)


def line(rows=200):
    """A query at 0 and rows at .1, .2, ... from it, on a line."""
    at = np.arange(1, rows + 1)[:, None] / 10 * np.array([[1.0, 0.0]])
    return pool(at), pool(np.zeros((1, 2)), ids=["q"])


@pytest.mark.parametrize(
    ("alpha", "rows"), [(0.5, 10), (1 - 1e-12, 1), (1, 1), (1e-12, 20), (0, 20)]
)
def test_the_printed_optimum_and_its_limits(alpha, rows):
    """Ten rows of .1 each at the printed alpha; the nearest alone; all 20 that are fetched."""
    found = Tsds(alpha=alpha, sigma=0).score(*line())
    mass = found["score_probability"].to_numpy()
    assert mass == pytest.approx([1 / rows] * rows + [0] * (200 - rows))
    assert found["score"].to_list()[:rows] == pytest.approx([-math.log(rows)] * rows)
    assert found["score"][rows:].null_count() == 200 - rows
    assert set(found["reason"][rows:]) == {"no_mass"}


def test_a_wider_scale_spreads_farther():
    # cost(k) = .05 k (k + 1) reaches 2 * 5 at k = 14, where it is 10.5
    mass = Tsds(scale=10, sigma=0).score(*line())["score_probability"].to_numpy()
    assert (mass > 0).sum() == 14


def by_hand(distance_MK, density_MK, alpha, scale):
    """The level is raised step by step over all queries, without a heap."""
    M, K = distance_MK.shape
    levels = np.cumsum(1 / density_MK, axis=1)
    used = [0] * M
    for s in sorted(levels[:, :-1].ravel()):
        reached = [int((levels[j, :-1] <= s).sum()) for j in range(M)]
        cost = sum(
            distance_MK[j, k] * levels[j, k - 1] - (distance_MK[j, :k] / density_MK[j, :k]).sum()
            for j, k in enumerate(reached)
            if k
        )
        if alpha / scale * cost >= (1 - alpha) * M:
            break
        used = reached
    share = np.zeros((M, K))
    for j, k in enumerate(used):
        share[j, :k] = 1 / (M * s * density_MK[j, :k])
        share[j, k] = 1 / M - share[j].sum()
    return share


@pytest.mark.parametrize("seed", range(4))
def test_many_queries_share_one_level(seed):
    draw = np.random.default_rng(seed)
    distance = np.sort(draw.random((5, 30)), axis=1)
    density = 1 + draw.gamma(1, size=(5, 30))
    found = probabilities(distance, density, 0.6, 0.5)
    np.testing.assert_allclose(found, by_hand(distance, density, 0.6, 0.5), atol=1e-12)
    assert found.sum() == pytest.approx(1)
    assert (found > 0).sum() < 150


def test_copies_share_the_mass_of_one_row():
    """Two directions at the same distance from the query, one of them nine times over."""
    near = [[math.cos(a), math.sin(a), 0] for a in (0.5, -0.5)]
    rows = np.array([near[0]] * 9 + [near[1]] + [[-1, 0, 0], [0, 0, 1]] * 90)
    target = pool([[1.0, 0, 0]], ids=["q"])
    settings = {"alpha": 0.99, "scale": 1.0, "sigma": 0.3}
    mass = Tsds(**settings).score(pool(rows), target)["score_probability"].to_numpy()
    assert mass[:9].sum() == pytest.approx(mass[9], rel=1e-6)
    alone = Tsds(**{**settings, "sigma": 0.0}).score(pool(rows), target)
    assert alone["score_probability"][:9].sum() > 0.7


def test_blocks_and_order_change_no_bit(monkeypatch):
    rows, target = units(0, 300, 16), units(1, 7, 16)
    rows[40:60] = rows[20:40]  # ties, which the id decides
    base = Tsds().score(pool(rows), pool(target))
    ids = [f"{i:04d}" for i in range(300)]
    turned = pool(rows[::-1], parts=7, ids=ids[::-1])
    assert Tsds().score(turned, pool(target)).equals(base)
    monkeypatch.setattr(tsds, "TOGETHER", 64)
    assert Tsds().score(pool(rows), pool(target[::-1], ids=ids[6::-1])).equals(base)
    assert base["score_probability"].sum() == pytest.approx(1)


def test_neighbours_are_the_nearest_whatever_the_blocks(monkeypatch):
    rows, target = units(2, 200, 8), units(3, 3, 8)
    monkeypatch.setattr(tsds, "TOGETHER", 3 * 17)
    swept = tsds._Rows.of(pool(rows, parts=3), COLUMN)
    square, place = swept.nearest(tsds._on_grid(np.float32(target)), 20)
    apart = np.linalg.norm(np.float32(target)[:, None] - np.float32(rows)[None], axis=-1)
    np.testing.assert_array_equal(place, np.argsort(apart, axis=1, kind="stable")[:, :20])
    np.testing.assert_allclose(np.sqrt(square), np.sort(apart, axis=1)[:, :20], atol=1e-5)


def test_rows_without_an_embedding_are_nobodys_neighbours():
    rows = units(4, 40, 8)
    broken = rows.copy()
    broken[3, 2] = np.nan
    frame = pool(broken).frame()
    holes = frame.with_columns(pl.when(pl.col("id") != "0007").then(COLUMN).alias(COLUMN))
    target = pool(rows[[3, 7]])
    found = Tsds(alpha=0).score(Frames(parts=(holes[:7], holes[7:8], holes[8:])), target)
    left = Tsds(alpha=0).score(
        Frames(parts=(frame.filter(~pl.col("id").is_in(["0003", "0007"])),)), target
    )
    assert found.filter(pl.col("id").is_in(["0003", "0007"])).drop("id").rows() == [(None,) * 3] * 2
    assert found.filter(~pl.col("id").is_in(["0003", "0007"])).equals(left)
    none = Tsds().score(Frames(parts=(holes[7:8],)), target)
    assert none["score"].to_list() == [None]
    with pytest.raises(ValueError, match="no row of the reference set has an embedding"):
        Tsds().score(pool(rows), Frames(parts=(holes[7:8],)))
    with pytest.raises(ValueError, match=r"alpha is from 0 to 1, .* found 2, 5.0 and 0.75"):
        Tsds(alpha=2)


# ------------------------------------------------------------------------------------- the draw


def drawn(score, remaining, cost=1, **settings):
    scores = pl.DataFrame(
        {"id": [f"{i:02d}" for i in range(len(score))], "score": score, "cost": cost}
    )
    return rule_named("multinomial", settings).order(scores, remaining)


def test_a_draw_with_replacement_weighs_rows_by_their_draws():
    shares = [0.5, 0.3, 0.2, 1e-9]
    found = drawn(np.log(shares), 9_000)
    assert found["weight"].sum() == 9_000
    assert found["index"].to_list()[:3] == [0, 1, 2]
    got = found["weight"].to_numpy()[:3] / 9_000
    assert got == pytest.approx(shares[:3], abs=4 * math.sqrt(0.25 / 9_000))
    assert drawn(np.log(shares), math.inf)["weight"].sum() == 4
    assert drawn([0.0], 5).rows() == [(0, 5.0)]
    assert drawn([], 5).height == 0


def test_a_budget_of_tokens_is_spent_draw_by_draw_and_never_exceeded():
    cost = [3, 50, 7]
    for seed in range(5):
        found = drawn([0.0, 0.0, 0.0], 1_000, cost, seed=seed)
        spent = sum(cost[i] * w for i, w in found.rows())
        assert 950 < spent <= 1_000
    assert drawn([0.0], 2, [3]).height == 0
    assert drawn([0.0], 2, [0]).height == 1, "rows that cost nothing do not go on for ever"
    with pytest.raises(ValueError, match="the temperature must be above 0; found 0"):
        rule_named("multinomial", {"temperature": 0})
