"""Reward models: Bradley and Terry's gradient, learning, loading, and bad input."""

import dataclasses

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from tolerances import LOG_PROB
from toy_training import (
    assert_close,
    first_gradient,
    one_thread,  # noqa: F401  (a fixture)
    preferences,
    weights,
)
from transformers import AutoModelForSequenceClassification

from gristmill.pipeline.finetune import data, reward
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward, load_reward, rewards, train_reward
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import resolve

CPU = Run(device="cpu")
FAST = Training(epochs=3, learning_rate=3e-3, batch_size=8, micro_batch=4)
STILL = dataclasses.replace(FAST, epochs=1, max_grad_norm=1e9)
WEIGHT = [1.0, 0.0, 0.5, 3.0, 0.1, 1.0, 7.0, 0.2]


@pytest.fixture
def files(tiny, store):
    return resolve(str(tiny), store)


@pytest.fixture
def rows(files):
    return data.token_rows(preferences(8), "pair", load_tokenizer(files))


@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_the_gradient_is_bradley_and_terrys(rows, files, store, tmp_path, centre):
    # one step at a vanishing rate: an ordinary reward model, whose head the test then knows
    start = dataclasses.replace(STILL, learning_rate=1e-12, optimizer_state=False)
    begun = train_reward(rows, files.reference, Reward(training=start), store, run=CPU).reference
    frame = rows.with_columns(weight=pl.Series(WEIGHT))
    settings = Reward(training=STILL, centre=centre)
    made = reward.job(frame, resolve(begun, store), settings, "cpu")
    found = first_gradient(made, STILL, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(begun, dtype=torch.float32)

    def ask(ids):  # one row, no padding
        return model(input_ids=torch.tensor([ids])).logits[0, 0].double()

    total = 0.0
    for row, w in zip(rows.to_dicts(), WEIGHT, strict=True):
        good, bad = ask(row["chosen_ids"]), ask(row["rejected_ids"])
        total += w * (F.softplus(bad - good) + centre * (good + bad) ** 2)
    (total / 8).backward()
    assert_close(found, {n: p.grad for n, p in model.named_parameters()})


@pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8)], ids=["full", "lora"])
def test_it_learns_and_is_asked_again(rows, files, store, lora):
    frame = preferences(32)
    settings = Reward(training=FAST, lora=lora)
    trained = train_reward(frame, files.reference, settings, store, run=CPU)
    assert trained.metrics["loss"][-1] < trained.metrics["loss"][0]
    scorer = load_reward(resolve(trained.reference, store), device="cpu")
    asked = rewards(rows, scorer)
    assert (asked["chosen"] > asked["rejected"]).all()
    alone = pl.concat([rewards(rows[i], scorer, batch_tokens=1) for i in range(8)])
    for side in ("chosen", "rejected"):  # padding and company change nothing
        assert asked[side].to_list() == pytest.approx(alone[side].to_list(), abs=LOG_PROB)
    if lora is None:
        model = AutoModelForSequenceClassification.from_pretrained(trained.reference)
        assert model.config.num_labels == 1
    further = train_reward(frame, trained.reference, settings, store, run=CPU)
    assert further.metrics["loss"][0] < trained.metrics["loss"][0]
    assert weights(further.reference) != weights(trained.reference)


def test_the_seed_makes_the_new_score(rows, files, store):
    scores = []
    for seed in (0, 0, 1):
        training = dataclasses.replace(STILL, learning_rate=1e-12, seed=seed)
        trained = train_reward(rows, files.reference, Reward(training=training), store, run=CPU)
        model = AutoModelForSequenceClassification.from_pretrained(trained.reference)
        scores.append(model.score.weight.detach())
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2])


def test_bad_input_is_one_sentence(tiny, files, store):
    with pytest.raises(ValueError, match="has no reward head"):
        load_reward(files)
    examples = pl.DataFrame({"id": ["a"], "text": ["t"]})
    with pytest.raises(ValueError, match=r"reward needs the columns id, chosen_ids"):
        train_reward(examples, str(tiny), Reward(), store, run=CPU)
    same = preferences(3).with_columns(rejected="chosen")
    with pytest.raises(ValueError, match="3 of 3 rows are left out: chosen_equals_rejected"):
        train_reward(same, str(tiny), Reward(), store, run=CPU)
