"""Run to run: boards that are equal, moved by a known amount, and of other items."""

import numpy as np
import polars as pl
import pytest
from boards import SHARED, board

from gristmill.pipeline.compare import findings, movement
from gristmill.pipeline.compare.moved import MOVED, Tables, moved, news, read
from gristmill.pipeline.numerics.effects import Sides, change, effect

WORTH = {"better": 0.10, "same": 0.05, "worse": 0.10}


def tables(**settings):
    made = board(**{"worth": WORTH, **settings})
    return Tables(
        leaderboard=findings.leaderboard(made),
        cells=findings.cells(made),
        items=findings.items(made),
    )


@pytest.fixture(scope="module")
def first():
    return tables()


@pytest.fixture(scope="module")
def second():
    """Other models of the same arms on the same items: two arms have another worth."""
    return tables(worth={"better": 0.16, "same": 0.05, "worse": 0.02}, trained="again")


def test_equal_boards_have_not_moved(first):
    found = moved(first, first)
    assert found.schema == pl.Schema(MOVED)
    own = first.leaderboard.filter(~pl.col("arm").str.contains(":"))
    assert found.height == own["effect"].count()
    assert set(found.filter(arm="same")["against"]) >= {"length_matched", "compute_matched"}
    assert not found["moved"].any()
    assert set(found["difference"]) == {0.0}
    assert set(found["p_holm"]) == {1.0}
    assert news(first, first).is_empty()
    held = found.join(first.leaderboard, on=["evaluation", "budget", "arm", "against"])
    assert np.allclose(held["before"], held["effect"], atol=1e-12)
    assert np.allclose(held["after_low"], held["low_right"], atol=1e-12)


def test_what_moved_by_a_known_amount_is_found_and_covered(first, second):
    found = moved(first, second).filter(against="random")
    lines = {r["arm"]: r for r in found.iter_rows(named=True)}
    for arm, truth in {"better": 0.06, "same": 0.0, "worse": -0.08}.items():
        line = lines[arm]
        assert line["low"] < truth < line["high"]
        assert line["items"] == 10
        assert line["moved"] == (truth != 0)
        assert line["difference"] == pytest.approx(line["after"] - line["before"], abs=1e-12)
    assert set(news(first, second)["change"]) == {"retrained"}
    text = movement.leaderboards(first, second)
    assert "- better on maths at 10% moved surely: +0.0" in text
    assert "- same" not in text
    assert "| maths | 10% | same | random |" in text
    assert "Models that are retrained, by arm: balanced_random at 10% (12)," in text


def test_other_items_are_held_against_each_other_as_independent(first):
    other = tables(worth={**WORTH, "better": 0.2}, renamed="x", trained="again")
    bare = Tables(leaderboard=first.leaderboard, cells=first.cells)
    for old, new in ((first, other), (bare, other)):
        found = moved(old, new).filter(against="random")
        assert found["items"].is_null().all()
        line = found.row(by_predicate=pl.col("arm") == "better", named=True)
        assert line["low"] < 0.1 < line["high"]
        assert line["moved"]
        wide = [line[f"{n}_high"] - line[f"{n}_low"] for n in ("before", "after")]
        assert line["high"] - line["low"] == pytest.approx(np.hypot(*wide))
        assert "the two taken as independent" in movement.sentence(line)


def test_items_that_half_of_a_board_has_are_enough_to_pair(first):
    half = first.items.filter(pl.col("id").is_in(["0", "1", "2", "3", "4"]))
    fewer = Tables(leaderboard=first.leaderboard, cells=first.cells, items=half)
    assert set(moved(first, fewer)["items"]) == {5}
    some = first.items.with_columns(
        id=pl.when(pl.col("id") < "4").then("id").otherwise(pl.format("new {}", "id"))
    )
    others = Tables(leaderboard=first.leaderboard, cells=first.cells, items=some)
    assert moved(first, others)["items"].is_null().all()  # four of ten


def test_arms_that_came_and_went_are_named(first):
    shared = {k: v for k, v in SHARED.items() if k != "canary"}
    other = tables(worth={"same": 0.05, "new | one": 0.1}, shared=shared)
    came = news(first, other)
    assert set(came.filter(change="gone")["arm"]) >= {"better", "worse", "canary"}
    assert came.filter(arm="new | one").row(0) == ("10%", "new | one", "new", 3)
    found = moved(first, other)
    assert set(found["arm"]) == {"same", "random", "balanced_random", "full", "zero_shot"}
    assert r"`new \| one` at 10% (3)" in movement.leaderboards(first, other)
    nothing = movement.leaderboards(first, tables(budgets=("5%",)))
    assert "no effect in common" in nothing


def test_a_leaderboard_is_read_from_its_folder(first, tmp_path):
    with pytest.raises(ValueError, match=r"holds no leaderboard.parquet: give the folder"):
        read(tmp_path)
    first.leaderboard.write_parquet(tmp_path / "leaderboard.parquet")
    first.cells.write_parquet(tmp_path / "cells.parquet")
    assert read(tmp_path).items is None
    first.items.write_parquet(tmp_path / "items.parquet")
    assert read(tmp_path).items.equals(first.items)


def facts(effect, wide, **other):
    told = {
        "sentence": f"Promoted: it is {effect}", "evaluation": "maths", "unit": "nats",
        "against": "random", "effect": effect, "low": effect - wide, "high": effect + wide,
        "level": 0.95,
    }  # fmt: skip
    return {**told, **other}


def test_two_versions_are_held_against_each_other_by_what_their_gates_said():
    rows = pl.DataFrame({"change": ["added"], "reason": ["new in the pool"], "rows": [1200]})
    text = movement.versions(facts(0.1, 0.03), facts(0.2, 0.04), rows)
    assert "moved surely: +0.1000 [+0.0500, +0.1500] at 95%" in text  # 3, 4, 5
    assert "| added | new in the pool | 1,200 |" in text
    assert "- Before: " in text
    assert "not shown to have moved" in movement.versions(facts(0.1, 0.1), facts(0.2, 0.1), rows)
    none = movement.versions(None, facts(0.2, 0.1), rows.clear())
    assert "- Before: no gate judged it." in none
    assert "No row changed." in none
    assert "moved" not in none
    other = movement.versions(facts(0.1, 0.03), facts(0.2, 0.03, unit="share"), rows)
    assert "not of one thing: unit nats, then share." in other
    assert "moved" not in other


def test_a_level_of_its_own_widens_a_published_interval():
    wide = movement.versions(facts(0.1, 0.03), facts(0.2, 0.04), pl.DataFrame(), level=0.99)
    assert "+0.1000 [+0.0343, +0.1657] at 99%" in wide  # 0.05 times 2.5758 / 1.9600


def test_intervals_of_changes_cover_the_truth():
    rng, covered, narrower = np.random.default_rng(0), 0, 0
    ids = [str(i) for i in range(30)]
    for _ in range(60):
        level_N = rng.normal(size=30)

        def side(worth, level_N=level_N):
            def one(worth, draws):
                own = rng.normal(scale=0.1, size=(draws, 1, 1)) + rng.normal(scale=0.1, size=(3, 1))
                return worth * level_N + own + rng.normal(scale=0.2, size=(draws, 3, 30))

            return Sides(arm_DSN=one(worth, 5), control_DSN=one(0.0, 5))

        before, after = side(1.0), side(1.0)
        found = change(before, after, ids, resamples=200)
        alone = [
            effect(s.arm_DSN, s.control_DSN, ids, resamples=200).error for s in (before, after)
        ]
        covered += found.low <= 0.0 <= found.high
        narrower += found.error < np.hypot(*alone)
    assert covered >= 53  # of 60: 57 expected
    assert narrower == 60  # the items differ alike in both
