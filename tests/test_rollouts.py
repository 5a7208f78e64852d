"""Rollouts and what is made of them: golden numbers, keyed draws, outcomes that data carry."""

import json
import math

import numpy as np
import polars as pl
import pytest
from test_encoding import chat, record
from test_judged import recorded
from tolerances import LOG_PROB, log_probs

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.models.completion.requests import Failure
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.signals.rollouts import ROLLOUT, Rollouts, Task, given_outcomes, graded
from gristmill.selectors.judged._rollouts import Tries
from gristmill.selectors.judged.solve_rate_filter import SolveRateFilter
from gristmill.selectors.judged.uncertainty_consistency import (
    UncertaintyConsistency,
    online,
    point_biserial,
)

GOLDEN = 1e-5  # the figures have six digits


@pytest.fixture(scope="module")
def loaded(tiny, tmp_path_factory):
    from gristmill.pipeline.records.store import Store

    root = tmp_path_factory.mktemp("store")
    return load(resolve(str(tiny), Store(root=root)), device="cpu")


# ------------------------------------------------------------------------------- the rollouts


def test_a_task_is_all_before_the_last_answer():
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    shown = Task().encode(record(*turns), chat())
    assert shown.text.endswith("<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n")
    assert Task().encode(record(*turns[:3]), chat()).ids == shown.ids  # no answer: nothing to hide
    assert set(shown.turn) == {0}
    assert shown.reason is None
    assert Task().encode(record(("user", "x" * 80)), chat(limit=60)).reason.startswith("too_long")
    assert Task().encode(record(("assistant", "x")), chat()).reason == "empty_prompt"
    broken = Task().encode(record(("user", "x")), chat(template="{{ nope.x() }}"))
    assert broken.reason.startswith("template_error")


def test_draws_depend_on_the_prompt_and_the_seed_alone(loaded):
    signal = Rollouts(samples=3, max_tokens=12, seed=1)
    rows = [Task().encode(record(("user", f"Say {'x' * n}")), loaded.chat) for n in (1, 9, 30, 2)]
    together = signal.open(loaded)(rows)
    alone = [signal.open(loaded)([row])[0] for row in reversed(rows)][::-1]
    for one, two in zip(together, alone, strict=True):
        assert [r["text"] for r in one] == [r["text"] for r in two]
        np.testing.assert_allclose(
            [r["logprob"] for r in one], [r["logprob"] for r in two], atol=log_probs(12)
        )
    texts = {r["text"] for row in together for r in row}
    assert len(texts) > 9  # twelve draws, not four
    other = Rollouts(samples=3, max_tokens=12, seed=2).open(loaded)(rows)
    assert [r["text"] for r in other[0]] != [r["text"] for r in together[0]]
    assert all(r["whole"] == (r["tokens"] < 12) or r["tokens"] == 12 for r in together[0])


def test_log_probabilities_are_those_of_the_tokens_drawn(loaded):
    import torch

    (row,) = [Task().encode(record(("user", "Say")), loaded.chat)]
    (told,) = Rollouts(samples=2, max_tokens=1).open(loaded)([row])
    with torch.inference_mode():
        logits_V = loaded.model(input_ids=torch.tensor([list(row.ids)])).logits[0, -1]
    logp_V = logits_V.double().log_softmax(-1).numpy()
    for rollout in told:
        assert rollout["tokens"] == 1
        assert np.abs(logp_V - rollout["logprob"]).min() < LOG_PROB


def test_a_context_that_leaves_less_room_shortens_rollouts(loaded):
    row = Task().encode(record(("user", "x" * 940)), loaded.chat)
    (told,) = Rollouts(samples=1, max_tokens=5_000).open(loaded)([row])
    assert told[0]["tokens"] <= loaded.chat.limit - len(row.ids)


def test_a_row_that_the_device_cannot_hold_costs_itself_alone(loaded, monkeypatch):
    from gristmill.pipeline.models.completion.local import Local

    whole = Local.generate

    def failing(self, rows):
        found = whole(self, rows)
        return [Failure(reason="out_of_memory"), *found[1:]]

    monkeypatch.setattr(Local, "generate", failing)
    rows = [Task().encode(record(("user", text)), loaded.chat) for text in ("a", "b")]
    first, second = Rollouts(samples=2, max_tokens=2).open(loaded)(rows)
    assert first is None
    assert len(second) == 2


def test_settings_that_make_no_rollout_are_refused():
    with pytest.raises(ValueError, match="temperature above 0"):
        Rollouts(temperature=0)


# --------------------------------------------------------------------------------- the grading


def rollout(text, whole=True, logprob=-1.0, tokens=1):
    return {"text": text, "tokens": tokens, "logprob": logprob, "whole": whole}


def test_rollouts_are_held_against_the_records_own_answer():
    row = {**record(("user", "2+2?"), ("assistant", "2+2=4\n#### 4")), "meta": None}
    row["r"] = [
        rollout("it is 4"),
        rollout("it is 4, so", whole=False),  # cut: no end
        rollout(r"\boxed{4} and", whole=False),  # marked before the cut
        rollout("5"),
    ]
    assert graded(row, "r", "final") == ([True, False, True, False], None)
    assert graded(row, "r", "number") == ([True, True, True, False], None)
    assert graded({**row, "meta": '{"gold": {"a": 5}}'}, "r", "final", "gold.a")[0] == [
        False,
        False,
        False,
        True,
    ]
    essay = record(("user", "?"), ("assistant", "An essay of many words without any end to it."))
    assert graded({**essay, "r": row["r"], "meta": None}, "r", "final")[1] == "no_verifiable_answer"
    assert graded({**row, "r": None}, "r", "final") == (None, None)


@pytest.mark.parametrize(
    ("value", "right", "reason"),
    [
        ([1, 0, True], [True, False, True], None),
        ({"failures": 3, "n": 4}, [True, False, False, False], None),
        (3, None, "bare_count: give failures and n, or a list of 0 and 1"),
        ({"failures": 5, "n": 4}, None, "outcomes_unreadable: x"),
        ([], None, "outcomes_unreadable: x"),
        ([0.5], None, "outcomes_unreadable: x"),
        (None, None, "no_outcomes: x"),
    ],
)
def test_outcomes_that_data_carry(value, right, reason):
    assert given_outcomes(json.dumps({"x": value}), "x") == (right, reason)


# --------------------------------------------------------------------- uncertainty consistency

U = [1.0, 2.0, 3.0, 4.0]
R = [True, True, False, False]


def test_golden_correlations_and_advantages():
    swapped = [not r for r in R]
    assert point_biserial(U, R) == pytest.approx(-0.894427, abs=GOLDEN)
    assert point_biserial(U, swapped) == pytest.approx(0.894427, abs=GOLDEN)
    assert point_biserial(U, R) == pytest.approx(np.corrcoef(U, R)[0, 1], abs=1e-12)
    assert online(U, R, 0.1) == pytest.approx(0.360417, abs=GOLDEN)
    assert online(U, swapped, 0.1) == pytest.approx(0.108333, abs=GOLDEN)
    draw = np.random.default_rng(0)
    u, r = draw.uniform(1, 9, 8), draw.uniform(size=8) < 0.4
    assert point_biserial(u, r) == pytest.approx(np.corrcoef(u, r)[0, 1], abs=1e-12)


def meta_pool(*metas):
    ids = [f"r{i}" for i in range(len(metas))]
    return Frames(parts=(pl.DataFrame({"id": ids, "meta": [json.dumps(m) for m in metas]}),))


def test_uncertainty_consistency_from_meta():
    scorer = UncertaintyConsistency(outcomes="right", perplexities="ppl")
    assert scorer.signals == ()
    pool = meta_pool(
        {"right": R, "ppl": U},
        {"right": [1, 1, 1, 1], "ppl": U},
        {"right": R, "ppl": [2, 2, 2, 2]},
        {"right": R, "ppl": U[:3]},
        {"ppl": U},
    )
    out = scorer.score(pool)
    assert out["score"][0] == pytest.approx(0.894427, abs=GOLDEN)
    assert out["score"].null_count() == 4
    assert out["reason"].to_list() == [
        None,
        "one_sided",
        "no_spread",
        "perplexities_unreadable: ppl",
        "no_outcomes: right",
    ]
    form = UncertaintyConsistency(outcomes="right", perplexities="ppl", form="online")
    assert form.score(pool)["score"][0] == pytest.approx(0.360417, abs=GOLDEN)
    with pytest.raises(ValueError, match="come together"):
        UncertaintyConsistency(outcomes="right")


def test_uncertainty_consistency_from_rollouts():
    scorer = UncertaintyConsistency(rollouts=Tries(samples=4))
    told = [
        rollout(text, logprob=-3 * math.log(u), tokens=3)
        for text, u in zip(("4", "it is 4", "3", "5"), U, strict=True)
    ]
    frame = pl.DataFrame(
        {"id": ["a", "b"], "meta": [None, None]}, schema={"id": pl.String, "meta": pl.String}
    ).with_columns(
        messages=pl.Series([record(("user", "2+2?"), ("assistant", "4"))["messages"]] * 2),
        **{scorer.signals[0].column: pl.Series([told, None], dtype=pl.List(ROLLOUT))},
    )
    out = scorer.score(Frames(parts=(frame,)))
    assert out["score"].to_list() == pytest.approx([0.894427, None], abs=GOLDEN)
    assert out["score_perplexity"][0] == pytest.approx(2.5)
    two = Frames(parts=(frame,), weights={"target": (0.5, 0.5)})
    with pytest.raises(ValueError, match="rollouts of one model are scored"):
        scorer.score(two)


# ----------------------------------------------------------------------------- solve-rate filter


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
