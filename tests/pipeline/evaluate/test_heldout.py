"""Evaluation: losses and margins against plain loops, intervals against closed forms."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from tolerances import log_probs
from toy_training import (
    answer_log_probs,
    chats,
    one_thread,  # noqa: F401  (a fixture)
    preferences,
    turn,
)
from transformers import AutoModelForCausalLM

from gristmill.pipeline.evaluate.heldout import by_target, held_out_loss
from gristmill.pipeline.evaluate.preference import preference_accuracy, reward_accuracy
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward, train_reward
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.models.load import load_tokenizer, loaded
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.numerics.intervals import draws, ratio

CPU = Passes(device="cpu", batch_tokens=300)
NATS = log_probs(128)  # the longest answer


@pytest.fixture
def model(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)


def tokens_of(frame, shape, tiny, store):
    return data.token_rows(frame, shape, load_tokenizer(resolve(str(tiny), store))).to_dicts()


# ---------------------------------------------------------------- held-out loss


def test_held_out_loss_is_that_of_a_plain_loop(tiny, store, model):
    frame = chats(9)
    found = held_out_loss(frame, str(tiny), store, passes=CPU)
    with torch.no_grad():
        each = [
            -answer_log_probs(model, r["input_ids"], r["labels"])
            for r in tokens_of(frame, "sequence", tiny, store)
        ]
    assert found.rows["id"].to_list() == frame["id"].to_list()
    assert found.rows["tokens"].to_list() == [len(e) for e in each]
    assert found.rows["nll"].to_list() == pytest.approx([float(e.sum()) for e in each], abs=NATS)
    assert found.per_token.value == pytest.approx(float(torch.cat(each).mean()), abs=NATS)
    rows = torch.stack([e.mean() for e in each])
    assert found.per_row.value == pytest.approx(float(rows.mean()), abs=NATS)
    for interval in (found.per_token, found.per_row):
        assert interval.low < interval.value < interval.high


def test_a_model_that_knows_nothing_loses_the_logarithm_of_its_vocabulary(tiny, store, tmp_path):
    blank = AutoModelForCausalLM.from_pretrained(tiny)
    for p in blank.parameters():
        torch.nn.init.zeros_(p)
    blank.save_pretrained(tmp_path / "blank")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "blank" / name).write_bytes((tiny / name).read_bytes())
    found = held_out_loss(chats(4), str(tmp_path / "blank"), store, passes=CPU)
    size = blank.config.vocab_size
    assert found.per_token.value == pytest.approx(math.log(size), abs=1e-5)
    assert found.per_token.high - found.per_token.low < 1e-5


def test_a_second_question_loads_nothing_and_keeps_the_order(tiny, store):
    frame = chats(8)
    first = held_out_loss(frame, str(tiny), store, passes=CPU)
    before = (len(loaded()), len(store.computed()))
    again = held_out_loss(frame.reverse(), str(tiny), store, passes=CPU)
    assert (len(loaded()), len(store.computed())) == before
    assert again.rows.equals(first.rows.reverse())
    assert again.per_token == first.per_token


def test_the_loss_of_a_source_is_that_of_its_rows_alone(tiny, store):
    frame = chats(9).with_columns(source=pl.Series(["b", "a", None] * 3))
    found = held_out_loss(frame, str(tiny), store, passes=CPU)
    assert found.sources["source"].to_list() == ["a", "b"]
    for line in found.sources.to_dicts():
        alone = held_out_loss(
            frame.filter(source=line["source"]), str(tiny), store, passes=CPU
        ).per_token
        part = found.rows.filter(frame["source"] == line["source"])
        assert (line["rows"], line["tokens"]) == (3, part["tokens"].sum())
        assert line["loss"] == pytest.approx(part["nll"].sum() / part["tokens"].sum())
        assert (line["loss"], line["low"], line["high"]) == pytest.approx(
            (alone.value, alone.low, alone.high), abs=NATS
        )
    both = by_target(
        {"maths": found, "plain": held_out_loss(chats(3), str(tiny), store, passes=CPU)}
    )
    assert both.select("target", "source").rows() == [
        ("maths", None), ("maths", "a"), ("maths", "b"), ("plain", None),
    ]  # fmt: skip
    whole = both.row(0, named=True)
    assert (whole["rows"], whole["loss"]) == (9, found.per_token.value)


def test_rows_without_a_loss_have_a_reason(tiny, store):
    frame = chats(4)
    messages = frame["messages"].to_list()
    messages[1] = [turn("user", "alone")]
    rows = held_out_loss(
        frame.with_columns(messages=pl.Series(messages)), str(tiny), store, passes=CPU
    ).rows
    assert rows["reason"].to_list() == [None, "no_assistant_turn", None, None]
    assert rows["loss"].is_null().to_list() == [False, True, False, False]
    silent = pl.DataFrame({"id": ["a"], "input_ids": [[5, 6, 7]], "labels": [[5, -100, -100]]})
    with pytest.raises(ValueError, match="no row could be evaluated"):
        held_out_loss(silent, str(tiny), store, passes=CPU)
    with pytest.raises(ValueError, match="held-out loss needs the columns"):
        held_out_loss(preferences(2), str(tiny), store, passes=CPU)


# ---------------------------------------------------------------- preferences


def test_margins_are_those_of_a_plain_loop(tiny, store, model, tmp_path):
    frame = preferences(8)
    other = make_tiny(tmp_path / "other", seed=1)
    rival = AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32)
    rows = tokens_of(frame, "pair", tiny, store)

    def sums(asked, side):
        each = [answer_log_probs(asked, r[f"{side}_ids"], r[f"{side}_labels"]) for r in rows]
        return np.array([float(logps.detach().sum()) for logps in each])

    w, b, rw, rb = (sums(m, side) for m in (model, rival) for side in ("chosen", "rejected"))
    plain = preference_accuracy(frame, str(tiny), store, passes=CPU)
    assert plain.rows["margin"].to_list() == pytest.approx(list(w - b), abs=NATS)
    assert plain.accuracy.value == pytest.approx(np.mean(w > b))
    tied = preference_accuracy(frame, str(tiny), store, reference=str(other), beta=0.5, passes=CPU)
    margins = 0.5 * ((w - rw) - (b - rb))
    assert tied.rows["margin"].to_list() == pytest.approx(list(margins), abs=NATS)
    assert tied.accuracy.value == pytest.approx(np.mean(margins > 0))
    assert tied.margin.value == pytest.approx(margins.mean(), abs=NATS)
    assert tied.size.value == pytest.approx(np.abs(margins).mean(), abs=NATS)
    none = preference_accuracy(frame, str(tiny), store, reference=str(tiny), passes=CPU)
    assert (none.size.value, none.accuracy.value) == (0.0, 0.0)  # equal counts as wrong


def test_pairs_that_cannot_be_shown_have_a_reason(tiny, store):
    frame = preferences(4)
    same = frame.with_columns(
        rejected=pl.when(pl.int_range(pl.len()) == 2).then("chosen").otherwise("rejected")
    )
    rows = preference_accuracy(same, str(tiny), store, passes=CPU).rows
    assert rows["reason"].to_list() == [None, None, "chosen_equals_rejected", None]
    assert rows["margin"].is_null().to_list() == [False, False, True, False]


def test_a_reward_model_is_asked_in_the_same_way(tiny, store):
    frame = preferences(32)
    training = Training(epochs=3, learning_rate=3e-3, batch_size=8, micro_batch=8)
    trained = train_reward(
        frame, str(tiny), Reward(training=training), store, run=Run(device="cpu")
    )
    found = reward_accuracy(frame, trained.reference, store, passes=CPU)
    assert found.accuracy.value == 1.0
    assert (found.rows["margin"] > 0).all()
    swapped = frame.rename({"chosen": "rejected", "rejected": "chosen"}).with_columns(
        id=pl.col("id") + "-swapped"
    )
    assert reward_accuracy(swapped, trained.reference, store, passes=CPU).accuracy.value == 0.0


# ---------------------------------------------------------------- intervals


def test_intervals_have_the_width_of_the_normal_theory():
    n = 900
    values = np.random.default_rng(0).normal(2.0, 3.0, n)
    ids = [f"row {i}" for i in range(n)]
    found = ratio(ids, values, seed=0, resamples=2_000)
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(n)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)
    assert (found.high + found.low) / 2 == pytest.approx(values.mean(), abs=0.1 * half)


def test_draws_are_keyed_by_seed_and_id():
    ids = ["a", "b", "c"]
    counts = draws(ids, 500, 0)
    assert (draws(ids[::-1], 500, 0)[::-1] == counts).all()
    assert (draws([*ids, "d"], 500, 0)[:3] == counts).all()
    assert (draws(ids, 500, 1) != counts).any()
    assert counts.mean() == pytest.approx(1.0, abs=0.1)  # Poisson of mean 1: sd of the mean .026
    values = [1.0, 5.0, 2.0]
    assert ratio(ids, values) == ratio(ids[::-1], values[::-1])
    # a ratio of equal sums is 1 in every resample; a constant has no spread
    assert ratio(ids, values, values).low == ratio(ids, values, values).high == 1.0
    with pytest.raises(ValueError, match="no row could be evaluated"):
        ratio([], [])
