"""Solve rates: what is solved at times is kept; votes of a judge"""

import json
import math

import numpy as np
import polars as pl
import pytest
from judged_frames import recorded
from rollout_frames import meta_pool

from gristmill.pipeline.contracts import Frames
from gristmill.selectors.judged.solve_rate_filter import SolveRateFilter

GOLDEN = 1e-5  # the figures have six digits


def test_solve_rates_keep_what_is_solved_at_times():
    scorer = SolveRateFilter(outcomes="right", votes=0)
    pool = meta_pool(
        {"right": [1, 1, 0, 0]},
        {"right": {"failures": 12, "n": 16}},
        {"right": [1, 1]},
        {"right": [0, 0]},
        {"right": 7},
    )
    out = scorer.score(pool)
    assert out["score"].to_list() == [1.0, 0.75, None, None, None]
    assert out["score_failures"].to_list() == [2, 12, 0, 2, None]
    assert out["score_rollouts"].to_list() == [4, 16, 2, 2, None]
    assert [r and r.split(":")[0] for r in out["reason"].to_list()] == [
        None,
        None,
        "always_right",
        "always_wrong",
        "bare_count",
    ]


@pytest.mark.parametrize(("q", "n", "keep"), [(0.05, 16, 0.559873), (0.5, 16, 0.999969)])
def test_simulated_rollouts_follow_the_curve(q, n, keep):
    assert 1 - q**n - (1 - q) ** n == pytest.approx(keep, abs=GOLDEN)
    draw = np.random.default_rng(0).uniform(size=(4_000, n)) < q
    pool = meta_pool(*({"right": row.tolist()} for row in draw))
    kept = SolveRateFilter(outcomes="right", votes=0).score(pool)["score"].is_not_null().mean()
    error = math.sqrt(keep * (1 - keep) / len(draw))
    assert kept == pytest.approx(keep, abs=4 * error + 1e-9)


def judged_pool(scorer, yes_no, outcomes=(1, 0)):
    (asked,) = scorer.signals
    frame = recorded({asked.column: yes_no}).frame()
    meta = pl.Series("meta", [json.dumps({"right": list(outcomes)})] * frame.height)
    return Frames(parts=(frame.with_columns(meta),))


def test_votes_need_nine_of_thirty_two():
    scorer = SolveRateFilter(outcomes="right", votes=16)
    sure, never, silent = [0.9, 0.0], [0.0, 0.9], [0.001, 0.001]
    out = scorer.score(judged_pool(scorer, [sure, never, silent]))
    assert out["reason"].to_list() == [None, "voted_invalid", "neither_yes_nor_no"]
    assert out["score_valid_votes"].to_list() == [16, 0, 0]
    assert out["score_votes"].to_list() == [16, 16, 0]
    (asked,) = scorer.signals
    unsure = [[0.28, 0.72]] * 200  # two judges, nine votes of 32 on the average
    frame = recorded({f"{asked.column}@{judge}": unsure for judge in (0, 1)}).frame()
    frame = frame.with_columns(meta=pl.lit('{"right": [1, 0]}'))
    out = scorer.score(Frames(parts=(frame,), weights={"judge": (0.5, 0.5)}))
    assert out["score_votes"].unique().to_list() == [32]
    valid, kept = out["score_valid_votes"], out["score"].is_not_null()
    assert {8, 9} <= set(valid)
    assert kept.to_list() == (valid >= 9).to_list()


def test_votes_fall_as_one_word_answers_would():
    scorer = SolveRateFilter(outcomes="right", votes=16)
    out = scorer.score(judged_pool(scorer, [[0.2, 0.6]] * 400))  # yes a quarter of the time
    share = out["score_valid_votes"].sum() / out["score_votes"].sum()
    assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 6_400))
    again = scorer.score(judged_pool(scorer, [[0.2, 0.6]] * 400))
    assert again.equals(out)
    assert out["score_valid_votes"].n_unique() > 5  # keyed by id, not one draw for all
