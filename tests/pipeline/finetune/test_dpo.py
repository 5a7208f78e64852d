"""Preference optimisation: each loss and its gradient against the formula, and bad input."""

import dataclasses
import math
from pathlib import Path

import polars as pl
import polars.testing
import pytest
import torch
import torch.nn.functional as F
from tolerances import LOG_PROB, log_probs
from toy_training import (
    answer_log_probs,
    assert_close,
    first_gradient,
    one_thread,  # noqa: F401  (a fixture)
    plain_gradient,
    preferences,
    turn,
    weights,
)
from transformers import AutoModelForCausalLM

from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.dpo import Dpo, job, train_dpo
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.finetune.trainer import fit
from gristmill.pipeline.models.checkpoint import optimizer_state
from gristmill.pipeline.models.load import load, load_tokenizer, loaded
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.records.store import Store

CPU = Run(device="cpu")
FAST = Training(epochs=2, learning_rate=3e-3, batch_size=8, micro_batch=4)
STILL = dataclasses.replace(FAST, epochs=1, max_grad_norm=1e9)
WEIGHT = [1.0, 0.0, 0.5, 3.0, 0.1, 1.0, 7.0, 0.2]

# per pair, from the sums of log-probabilities s, r and the lengths n of chosen (w) and rejected (b)
FORMULAS = {
    "sigmoid": lambda w, b, rw, rb, nw, nb: F.softplus(-0.1 * ((w - rw) - (b - rb))),
    "hinge": lambda w, b, rw, rb, nw, nb: F.relu(1 - 0.1 * ((w - rw) - (b - rb))),
    "ipo": lambda w, b, rw, rb, nw, nb: ((w - rw) / nw - (b - rb) / nb - 5.0) ** 2,
    "ipo_sum": lambda w, b, rw, rb, nw, nb: ((w - rw) - (b - rb) - 5.0) ** 2,
    "sigmoid_norm": lambda w, b, rw, rb, nw, nb: F.softplus(-0.1 * ((w - rw) / nw - (b - rb) / nb)),
    "simpo": lambda w, b, rw, rb, nw, nb: F.softplus(-(2.0 * w / nw - 2.0 * b / nb - 0.5)),
}


@pytest.fixture
def files(tiny, store):
    return resolve(str(tiny), store)


@pytest.fixture
def rows(files):
    return data.token_rows(preferences(8), "pair", load_tokenizer(files))


def test_ipo_of_sums_has_its_golden_value():
    assert FORMULAS["ipo_sum"](-40.0, -60.0, -41.0, -59.0, 7, 11) == pytest.approx(9.0)  # h = 2


def settings(loss="sigmoid", training=STILL, lora=None):
    if loss == "simpo":
        return Dpo(training=training, lora=lora, loss=loss, beta=2.0, gamma=0.5)
    return Dpo(training=training, lora=lora, loss=loss)


# ---------------------------------------------------------------- losses and gradients


@pytest.mark.parametrize("loss", FORMULAS)
def test_gradients_follow_the_formula_with_weights(loss, rows, files, tiny, store, tmp_path):
    other = make_tiny(tmp_path / "other", seed=1)
    rival = AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32)
    frame = rows.with_columns(weight=pl.Series(WEIGHT))
    chosen = settings(loss)
    tie = None if loss == "simpo" else resolve(str(other), store)
    found = first_gradient(job(frame, files, chosen, "cpu", tie), STILL, tmp_path / "state")

    def expected(model):
        total = 0.0
        for row, weight in zip(rows.to_dicts(), WEIGHT, strict=True):
            sides = [(row[f"{s}_ids"], row[f"{s}_labels"]) for s in ("chosen", "rejected")]
            logps = [answer_log_probs(model, *side) for side in sides]
            with torch.no_grad():
                ties = [answer_log_probs(rival, *side).sum() for side in sides]
            lengths = [len(part) for part in logps]
            total += weight * FORMULAS[loss](*(p.sum() for p in logps), *ties, *lengths)
        return total / len(WEIGHT)

    assert_close(found, plain_gradient(tiny, expected))


@pytest.mark.parametrize(
    ("ratios", "loss", "coefficient"),
    # beta = .1 and m = beta (5 + 2) = .7: loss log(1 + e^-.7), coefficient -beta / (1 + e^.7);
    # swapped m = -.7
    [((5.0, -2.0), 0.40318605, -0.03318122), ((-2.0, 5.0), 1.10318605, -0.06681878)],
)
def test_by_hand_on_three_numbers(rows, files, tiny, tmp_path, ratios, loss, coefficient):
    assert loss == pytest.approx(math.log1p(math.exp(-0.1 * (ratios[0] - ratios[1]))), abs=1e-8)
    row = rows.to_dicts()[0]
    sides = [(row[f"{s}_ids"], row[f"{s}_labels"]) for s in ("chosen", "rejected")]
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    with torch.no_grad():
        logps = [answer_log_probs(model, *side) for side in sides]
    simpo = job(rows.head(1), files, Dpo(training=STILL, loss="simpo"), "cpu")

    def collate(batch):  # "simpo" reads its reference from the batch: one that gives these ratios
        ties = [float(p.sum()) - r * len(p) for p, r in zip(logps, ratios, strict=True)]
        named = {"ref_chosen_logps": ties[0], "ref_rejected_logps": ties[1]}
        return simpo.collate(batch) | {k: torch.tensor([v]) for k, v in named.items()}

    made = dataclasses.replace(simpo, collate=collate)
    found = first_gradient(made, STILL, tmp_path / "a")

    def difference(m):
        chosen, rejected = (answer_log_probs(m, *side).mean() for side in sides)
        return coefficient * (chosen - rejected)

    assert_close(found, plain_gradient(tiny, difference))
    history = fit(made, STILL, tmp_path / "b", CPU).state.log_history
    assert history[0]["loss"] == pytest.approx(loss, abs=LOG_PROB)


def test_equal_weights_are_plain_training_to_the_bit(rows, files, tmp_path):
    weighted = job(rows, files, settings(training=FAST), "cpu")

    def bare(batch):
        return {k: v for k, v in weighted.collate(batch).items() if k != "weight"}

    ours = fit(weighted, FAST, tmp_path / "a", CPU)
    plain = fit(dataclasses.replace(weighted, collate=bare), FAST, tmp_path / "b", CPU)
    for a, b in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8)], ids=["full", "lora"])
def test_the_reference_is_where_training_starts(tiny, store, lora):
    trained = train_dpo(
        preferences(16), str(tiny), settings(training=FAST, lora=lora), store, run=CPU
    )
    first, last = trained.metrics.head(1).to_dicts()[0], trained.metrics.tail(1).to_dicts()[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0.0, abs=0.1 * log_probs(64))
    assert last["loss"] < first["loss"]
    assert last["rewards/margins"] > 0
    assert optimizer_state(trained.reference)
    load(resolve(trained.reference, store), device="cpu")
    before = (len(loaded()), len(store.computed()))
    shuffled = preferences(16).sample(fraction=1, shuffle=True, seed=2)
    again = train_dpo(shuffled, str(tiny), settings(training=FAST, lora=lora), store, run=CPU)
    assert again.reference == trained.reference
    assert (len(loaded()), len(store.computed())) == before


def test_simpo_loads_one_model_and_reports_no_reward(tiny, store):
    before = len(loaded())
    trained = train_dpo(preferences(8), str(tiny), settings("simpo", FAST), store, run=CPU)
    assert len(loaded()) == before + 1
    assert trained.metrics["loss"][-1] < trained.metrics["loss"][0]
    assert not [c for c in trained.metrics.columns if c.startswith("rewards/")]


class Stop(BaseException):
    """As sudden as a kill, and cheaper: nothing of ours catches it."""


@pytest.mark.parametrize("kind", ["full", "continued adapter"])
def test_an_interrupted_run_resumes_to_the_same_bytes(tiny, tmp_path, kind):
    lora = None if kind == "full" else Lora(rank=4, alpha=8)
    chosen = settings(training=dataclasses.replace(FAST, optimizer_state=False), lora=lora)
    found = []
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        store = Store(root=tmp_path / name)
        start = str(tiny)
        if lora is not None:  # its reference is a frozen copy of the adapter
            start = train_dpo(preferences(8), start, chosen, store, run=CPU).reference

        def stop(step, *_, at=3 if name == "stopped" else 0):
            if step == at:
                raise Stop

        run = Run(device="cpu", resume_seconds=0, progress=stop)
        if name == "stopped":
            with pytest.raises(Stop):
                train_dpo(preferences(16), start, chosen, store, run=run)
        result = train_dpo(preferences(16), start, chosen, store, run=CPU)
        found.append((weights(result.reference), result.metrics))
    assert found[0][0] == found[1][0]
    pl.testing.assert_frame_equal(found[0][1], found[1][1], check_exact=True)
    assert found[0][1]["rewards/margins"][0] == pytest.approx(0.0, abs=0.1 * log_probs(64))


# ---------------------------------------------------------------- data and bad input


def test_only_the_response_carries_loss(files):
    chat = load_tokenizer(files)
    prompt = [turn("user", "one"), turn("assistant", "uno"), turn("user", "two")]
    row = {"id": "a", "prompt": prompt, "chosen": [turn("assistant", "dos")]}
    frame = pl.DataFrame([{**row, "rejected": [turn("assistant", "deux")]}])
    (pair,) = data.token_rows(frame, "pair", chat).to_dicts()
    for side, answer in (("chosen", "dos"), ("rejected", "deux")):
        spoken = [t for t in pair[f"{side}_labels"] if t != -100]
        assert chat.tokenizer.decode(spoken) == f"{answer}<|im_end|>"
        kept = [i for i, t in enumerate(pair[f"{side}_labels"]) if t != -100]
        assert [pair[f"{side}_ids"][i] for i in kept] == spoken


def test_equal_responses_are_left_out_and_said(tiny, store):
    frame = preferences(8)
    same = frame.with_columns(
        rejected=pl.when(pl.int_range(pl.len()) < 3).then("chosen").otherwise("rejected")
    )
    trained = train_dpo(same, str(tiny), settings(training=FAST), store, run=CPU)
    assert "3 of 8 rows are left out: chosen_equals_rejected." in trained.notes
    # what differs only beyond the limit is equal too
    long = frame.with_columns(
        chosen=pl.Series([[turn("assistant", "x" * 90 + "a")]] * 8),
        rejected=pl.Series([[turn("assistant", "x" * 90 + "b")]] * 8),
    )
    short = settings(training=dataclasses.replace(FAST, max_length=64))
    with pytest.raises(ValueError, match=r"none of the 8 rows can be trained on.*equals_rejected"):
        train_dpo(long, str(tiny), short, store, run=CPU)


def test_bad_input_is_one_sentence(tiny, store):
    examples = pl.DataFrame({"id": ["a"], "messages": [[turn("user", "q")]]})
    with pytest.raises(ValueError, match=r"dpo needs the columns id, chosen_ids.*use sft"):
        train_dpo(examples, str(tiny), settings(), store, run=CPU)
    with pytest.raises(ValueError, match="gamma is read by the loss simpo alone, not by hinge"):
        Dpo(loss="hinge", gamma=1.0)
    with pytest.raises(ValueError, match="label_smoothing is read by robust and exo_pair alone"):
        Dpo(label_smoothing=0.1)
    with pytest.raises(ValueError, match="beta is 0"):
        Dpo(beta=0.0)
    with pytest.raises(ValueError, match="simpo has no reference model"):
        train_dpo(preferences(4), str(tiny), settings("simpo"), store, reference=str(tiny), run=CPU)
    with pytest.raises(ValueError, match="is not here"):
        train_dpo(preferences(4), str(Path(tiny) / "none"), settings(), store, run=CPU)
