"""DEITA: no near copy of a better row, digits over turns, ties, judges' own questions"""

import math

import numpy as np
import polars as pl
import pytest
from judged_frames import ANGLES, deita_pool, one_hot, vectors
from quality_runs import scored

from gristmill.pipeline.contracts import EncodingFacts, Frames
from gristmill.selectors.judged.deita import Deita, nearest_kept


@pytest.mark.parametrize(("threshold", "kept"), [(0.9, [0, 3]), (0.95, [0, 2, 3])])
def test_deita_keeps_what_no_better_kept_row_resembles(threshold, kept):
    near_N = nearest_kept(np.array(vectors(ANGLES)), threshold)
    assert np.flatnonzero(near_N <= threshold).tolist() == kept
    scorer = Deita(threshold=threshold, turns=1)
    rated = [[one_hot(d)] for d in (4, 3, 2, 1)]
    sure = [[one_hot(6)]] * 4
    out = scorer.score(deita_pool(scorer, rated, sure, ANGLES))
    assert out["score"].is_not_null().arg_true().to_list() == kept
    assert out["score_evol"].to_list() == [24.0, 18.0, 12.0, 6.0]
    dropped = out.filter(pl.col("score").is_null())["reason"].unique().to_list()
    assert dropped == ["near_a_better_row"]


def test_deita_expects_digits_and_sums_over_turns():
    scorer = Deita(turns=2)
    flat = [0.1] * 6
    complexity = [[flat, None], [one_hot(2), one_hot(5)], [one_hot(6), [0.0001] * 6], [None, None]]
    quality = [[one_hot(2), None], [one_hot(3), one_hot(4)], [one_hot(6), flat], [None, None]]
    pool = deita_pool(scorer, complexity, quality, [0, 1, 2, 3])
    out = scorer.score(pool)
    assert out["score"].to_list()[:2] == pytest.approx([7.0, 26.0])
    assert out["score_complexity"].to_list()[:2] == pytest.approx([3.5, 3.5])
    assert out["score_turns"].to_list()[:2] == [1, 2]
    assert out["reason"].to_list() == [None, None, "no_rating", None]
    mean = Deita(turns=2, over_turns="mean").score(pool)["score"].to_list()
    assert mean[:2] == pytest.approx([7.0, 13.0])


def test_deita_ties_go_to_the_smaller_id_and_order_does_not_matter():
    scorer = Deita(turns=1)
    pool = deita_pool(scorer, [[one_hot(3)]] * 3, [[one_hot(3)]] * 3, [0, 0.1, 2], ["c", "a", "b"])
    frame = pool.frame()
    out = scorer.score(pool).sort("id")
    assert out["score"].to_list() == [9.0, 9.0, None]
    turned = Frames(parts=(frame[2:], frame[:2]))
    assert scorer.score(turned).sort("id").equals(out)


def test_blocks_of_kept_rows_are_one_plain_loop(monkeypatch):
    from gristmill.selectors.judged import deita

    draw = np.random.default_rng(1).normal(size=(60, 3))
    unit_ND = draw / np.linalg.norm(draw, axis=1, keepdims=True)
    kept, want = [], []
    for row_D in unit_ND:
        near = max((float(k @ row_D) for k in kept), default=-math.inf)
        want.append(near)
        if near <= 0.8:
            kept.append(row_D)
    monkeypatch.setattr(deita, "BLOCK", 3)
    np.testing.assert_allclose(nearest_kept(unit_ND, 0.8), want, atol=1e-12)
    assert 5 < len(kept) < 40


def test_deita_asks_each_judge_its_own_question():
    scorer = Deita(turns=2, quality_role="reward", embedding="last_token")
    embedding, *asked = scorer.signals
    assert [s.role for s in asked] == ["judge", "judge", "reward", "reward"]
    assert embedding.role == "target"
    assert len({s.column for s in asked}) == 4
    with pytest.raises(ValueError, match="threshold is a cosine"):
        Deita(threshold=1.5)


def test_a_row_that_no_judge_or_embedder_could_read_says_so(tiny, tmp_path, store):
    """Not that it has no second turn, which no row is null for."""
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    scorer = Deita(turns=2, quality_question="{answer}" + "?" * 1_100)
    rows = [{"messages": messages}]
    found = scored(store, tmp_path, scorer, rows, judge=tiny, embedder=tiny)
    assert found["reason"][0].startswith("too_long: the question alone has")
    scorer = Deita(turns=1)
    embedding = scorer.signals[0]
    pool = deita_pool(scorer, [[one_hot(2)]], [[one_hot(2)]], [0.0]).frame()
    column = pl.Series(embedding.column, [None], dtype=pool.schema[embedding.column])
    fact = EncodingFacts(role="embedder", view=embedding.view).column
    told = {"tokens": None, "answer_tokens": 0, "cut": 0, "reason": "too_long: 9 tokens"}
    lost = pool.with_columns(column, pl.Series(fact, [told], dtype=EncodingFacts.dtype))
    out = scorer.score(Frames(parts=(lost,)))
    assert out["reason"].to_list() == ["no_embedding: too_long: 9 tokens"]
