"""Judged methods: golden numbers, a recorded judge, judges that do not answer."""

import math

import numpy as np
import polars as pl
import pytest
from test_encoding import chat

from gristmill.pipeline.contracts import Frames
from gristmill.selectors.judged.ask_llm import AskLlm
from gristmill.selectors.judged.deita import Deita, nearest_kept
from gristmill.selectors.judged.selectit import Selectit, sentence_scores, token_scores

GOLDEN = 1e-5  # the figures have six digits


def recorded(columns, ids=None, weights=None):
    """Observations of a judge whose answers are known: column -> one value a row."""
    rows = len(next(iter(columns.values())))
    frame = pl.DataFrame({"id": ids or [f"r{i}" for i in range(rows)]})
    for name, values in columns.items():
        series = pl.Series(name, values)
        if isinstance(next(v for v in values if v is not None), (list, tuple)):
            width = len(next(v for v in values if v is not None))
            series = pl.Series(name, values, dtype=pl.Array(pl.Float32, width))
        frame = frame.with_columns(series)
    return Frames(parts=(frame,), weights=weights or {})


# ------------------------------------------------------------------------------------- Ask-LLM


def test_ask_llm_takes_the_probability_of_yes():
    (signal,) = AskLlm().signals
    pool = recorded({signal.column: [[0.5, 0.3], [0.2, 0.1], [0.004, 0.003], None]})
    out = AskLlm().score(pool)
    assert out["score"].to_list() == pytest.approx([0.5, 0.2, None, None], nan_ok=True)
    assert out["score_mass"].to_list()[:3] == pytest.approx([0.8, 0.3, 0.007])
    assert out["score_unsure"].to_list() == [0.0, 1.0, 1.0, None]
    assert out["reason"].to_list() == [None, None, "neither_yes_nor_no", None]
    shares = AskLlm(normalise="answers").score(pool)["score"].to_list()
    assert shares[:2] == pytest.approx([0.625, 2 / 3])
    with pytest.raises(ValueError, match="least_mass is a probability"):
        AskLlm(least_mass=0)


def test_ask_llm_shows_its_cue_before_the_judge_answers():
    (signal,), (other,) = AskLlm().signals, AskLlm(cue="Verdict:").signals
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}]}
    assert signal.shown.encode(row, chat()).text.endswith("<|im_start|>assistant\nAnswer:")
    assert other.shown.encode(row, chat()).text.endswith("<|im_start|>assistant\nVerdict:")
    assert signal.column != other.column


# ------------------------------------------------------------------------------------ SelectIT

P = [0.05, 0.05, 0.1, 0.3, 0.5]
Q = [0.1, 0.1, 0.2, 0.2, 0.4]


def test_selectit_golden_numbers():
    assert token_scores(np.array([P, Q])).tolist() == pytest.approx(
        [0.410332, 0.267323], abs=GOLDEN
    )
    token_NK = token_scores(np.array([P, Q]))[None]
    assert sentence_scores(token_NK, 0.2)[0] == pytest.approx(0.334050, abs=GOLDEN)
    assert token_scores(np.eye(5)[4:])[0] == pytest.approx(1.278810, abs=GOLDEN)
    every = np.random.default_rng(0).dirichlet(np.full(5, 0.2), 500)
    assert token_scores(every).max() <= 1.278811


def test_selectit_normalises_what_the_judge_gives():
    scorer = Selectit(prompts=2)
    size, one, two = scorer.signals
    half = [p / 2 for p in P]  # the other half of its belief goes to other tokens
    pool = recorded({size.column: [7, 7], one.column: [P, P], two.column: [half, Q]})
    got = scorer.score(pool)["score"].to_list()
    assert got == pytest.approx([0.410332, 0.334050], abs=GOLDEN)
    token = Selectit(prompts=1).score(pool)["score"].to_list()
    assert token == pytest.approx([0.410332, 0.410332], abs=GOLDEN)


def test_selectit_weighs_judges_by_their_parameters():
    scorer = Selectit(prompts=1)
    size, rating = scorer.signals
    sure = [0.0, 0.0, 0.0, 0.0, 1.0]
    columns = {f"{size.column}@{s}": [n] for s, n in enumerate((7, 13, 70))}
    columns |= {f"{rating.column}@{s}": [p] for s, p in enumerate((P, Q, sure))}
    pool = recorded(columns, weights={"judge": (1 / 3, 1 / 3, 1 / 3)})
    out = scorer.score(pool)
    want = (7 * 0.410332 + 13 * 0.267323 + 70 * 1.278810) / 90
    assert out["score"][0] == pytest.approx(want, abs=GOLDEN)
    assert out["score_judge_1"][0] == pytest.approx(0.267323, abs=GOLDEN)


def test_a_row_without_a_rating_moves_no_other():
    scorer = Selectit(prompts=2)
    size, one, two = scorer.signals
    silent = [0.001] * 5
    pool = recorded(
        {
            size.column: [7, None, 7, 7],
            one.column: [P, None, P, P],
            two.column: [P, None, silent, Q],
        }
    )
    out = scorer.score(pool)
    assert out["reason"].to_list() == [None, None, "no_rating", None]
    assert out["score"].is_null().to_list() == [False, True, True, False]
    assert out["score"][3] == pytest.approx(0.334050, abs=GOLDEN)
    with pytest.raises(ValueError, match="number of wordings from 1 to 5"):
        Selectit(prompts=6)


# --------------------------------------------------------------------------------------- DEITA

ANGLES = (0.0, 0.2, 0.4, math.pi / 2)


def vectors(angles):
    return [[math.cos(a), math.sin(a)] for a in angles]


def one_hot(digit):
    return [float(i == digit) for i in range(1, 7)]


def deita_pool(scorer, complexity, quality, angles, ids=None):
    embedding, *asked = scorer.signals
    c, q = asked[: scorer.turns], asked[scorer.turns :]
    columns = {embedding.column: vectors(angles)}
    columns |= {s.column: [row[t] for row in complexity] for t, s in enumerate(c)}
    columns |= {s.column: [row[t] for row in quality] for t, s in enumerate(q)}
    return recorded(columns, ids=ids)


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
