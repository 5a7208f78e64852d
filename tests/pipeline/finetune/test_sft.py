"""Supervised fine-tuning: gradients against plain loops, resume to the bit, and bad input."""

import dataclasses
import json
import shutil
import signal

import numpy as np
import polars as pl
import pytest
import torch
import warm
from toy_training import (
    answer_log_probs,
    assert_close,
    chats,
    first_gradient,
    one_thread,  # noqa: F401  (a fixture)
    plain_gradient,
    turn,
    weights,
)
from transformers import AutoModelForCausalLM

from gristmill.pipeline.finetune import data, jobs
from gristmill.pipeline.finetune.checkpoints import COMPLETE, mark_of, publish, whole
from gristmill.pipeline.finetune.job import HISTORY, Run
from gristmill.pipeline.finetune.settings import Lora, Training, divisor
from gristmill.pipeline.finetune.sft import Sft, job, train_sft
from gristmill.pipeline.finetune.trainer import arguments, fit, newest
from gristmill.pipeline.models.checkpoint import moments, optimizer_state
from gristmill.pipeline.models.load import load, load_tokenizer, loaded
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.store import Store

CPU = Run(device="cpu")
FAST = Training(epochs=2, learning_rate=3e-3, batch_size=8, micro_batch=4)
STILL = dataclasses.replace(FAST, epochs=1, max_grad_norm=1e9)  # no clipping


@pytest.fixture
def files(tiny, store):
    return resolve(str(tiny), store)


@pytest.fixture
def rows(files):
    return data.token_rows(chats(8), "sequence", load_tokenizer(files))


def made(rows, files, training=STILL, lora=None):
    return job(rows, files, Sft(training=training, lora=lora), "cpu")


# ---------------------------------------------------------------- learning


def test_loss_falls_and_the_result_is_an_ordinary_model(tiny, store):
    trained = train_sft(chats(32), str(tiny), Sft(training=FAST), store, run=CPU)
    loss = trained.metrics["loss"]
    assert loss[-1] < 0.8 * loss[0]
    model = AutoModelForCausalLM.from_pretrained(trained.reference)
    start = AutoModelForCausalLM.from_pretrained(tiny)
    assert any(
        not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True)
    )
    role = load(resolve(trained.reference, store), device="cpu")
    assert role.chat.template == (tiny / "chat_template.jinja").read_text()
    assert (
        resolve(trained.reference, store).tokenizer_sha == resolve(str(tiny), store).tokenizer_sha
    )
    assert not list(trained.entry.path.rglob("*.pt")) + list(trained.entry.path.rglob("*.bin"))


def test_an_adapter_is_loaded_by_peft_and_goes_on(tiny, store):
    from peft import PeftModel

    settings = Sft(training=FAST, lora=Lora(rank=4, alpha=8))
    first = train_sft(chats(16), str(tiny), settings, store, run=CPU)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), first.reference)
    names = {n for n, _ in model.named_parameters() if "lora_" in n}
    assert set(optimizer_state(first.reference)) == names
    second = train_sft(chats(16), first.reference, settings, store, run=CPU)
    assert second.metrics["loss"][0] < first.metrics["loss"][0]
    assert weights(second.reference) != weights(first.reference)
    merged = train_sft(chats(16), first.reference, Sft(training=FAST), store, run=CPU)
    assert merged.metrics["loss"][0] == pytest.approx(second.metrics["loss"][0], rel=0.05)
    assert (merged.final.path / "model.safetensors").exists()
    with pytest.raises(ValueError, match="has rank 4 and alpha 8, the settings say 16 and 32"):
        train_sft(chats(16), first.reference, Sft(training=FAST, lora=Lora()), store, run=CPU)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("micro", [1, 2, 8])
def test_a_step_is_the_mean_over_the_tokens_of_its_whole_batch(rows, files, tiny, tmp_path, micro):
    training = dataclasses.replace(STILL, micro_batch=micro)
    found = first_gradient(made(rows, files, training), training, tmp_path)

    def loss(model):
        parts = [answer_log_probs(model, r["input_ids"], r["labels"]) for r in rows.to_dicts()]
        return -torch.cat(parts).mean()

    def mean_of_rows(model):
        parts = [answer_log_probs(model, r["input_ids"], r["labels"]) for r in rows.to_dicts()]
        return -torch.stack([p.mean() for p in parts]).mean()

    assert_close(found, plain_gradient(tiny, loss))
    with pytest.raises(AssertionError, match="off by"):  # the two differ: answers do in length
        assert_close(found, plain_gradient(tiny, mean_of_rows))


def test_a_mask_of_zeros_gives_a_zero_gradient(rows, files, tmp_path):
    batch = made(rows, files)
    empty = rows.with_columns(labels=pl.col("labels").list.eval(pl.lit(-100, pl.Int64)))
    silent = dataclasses.replace(batch, rows=data.Rows.of(empty, 0))
    found = first_gradient(silent, STILL, tmp_path)
    assert all(not g.any() for g in found.values())


def test_a_masked_row_adds_nothing(rows, files, tmp_path):
    labels = rows["labels"].to_list()
    labels[3] = [-100] * len(labels[3])
    masked = rows.with_columns(labels=pl.Series(labels))
    without = rows.filter(pl.int_range(pl.len()) != 3)
    a = first_gradient(made(masked, files), STILL, tmp_path / "a")
    b = first_gradient(made(without, files), STILL, tmp_path / "b")
    assert_close(a, b)


@pytest.mark.parametrize("weight", [0.0, 0.25, 2.0])
def test_a_weight_scales_the_gradient_of_its_row(rows, files, tmp_path, weight):
    one = rows.head(1)
    plain = first_gradient(made(one, files), STILL, tmp_path / "a")
    scaled = first_gradient(made(one.with_columns(weight=weight), files), STILL, tmp_path / "b")
    # products with powers of two are exact, so the two agree to the bit
    assert all(torch.equal(scaled[n], weight * g) for n, g in plain.items())


def test_weights_of_a_batch_are_those_of_its_rows(rows, files, tiny, tmp_path):
    weight = [0.0, 0.5, 1.0, 3.0, 0.1, 1.0, 7.0, 0.2]
    training = dataclasses.replace(STILL, micro_batch=2)
    frame = rows.with_columns(weight=pl.Series(weight))
    found = first_gradient(made(frame, files, training), training, tmp_path)

    def loss(model):
        parts = [answer_log_probs(model, r["input_ids"], r["labels"]) for r in rows.to_dicts()]
        tokens = sum(len(p) for p in parts)
        return -sum(w * p.sum() for w, p in zip(weight, parts, strict=True)) / tokens

    assert_close(found, plain_gradient(tiny, loss))


def test_equal_weights_are_plain_trl_to_the_bit(files, tiny, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    chat = load_tokenizer(files)
    rows = data.token_rows(chats(20), "sequence", chat)
    training = dataclasses.replace(FAST, epochs=1)  # 20 rows: two steps of 8 rows and one of 4
    ours = made(rows.with_columns(weight=1.0), files, training)
    result = fit(ours, training, tmp_path / "ours", CPU)
    order = [ours.rows[i] for i in range(20)]
    plain = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32),
        args=SFTConfig(
            **arguments(training, 20, tmp_path / "plain", "cpu", 4),
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list([{k: r[k] for k in data.SEQUENCE} for r in order]),
        processing_class=chat.tokenizer,
    )
    plain.train()
    losses = [[r["loss"] for r in t.state.log_history if "loss" in r] for t in (plain, result)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3
    for (name, a), b in zip(plain.model.named_parameters(), result.model.parameters(), strict=True):
        assert torch.equal(a, b), name


# ---------------------------------------------------------------- order, keys, the store


def test_the_order_is_keyed_by_id_and_epoch(rows):
    ids = data.Rows.of(rows, 0).ids(0, 8)
    shuffled = data.Rows.of(rows.sample(fraction=1, shuffle=True, seed=1), 0)
    assert shuffled.ids(0, 8) == ids
    shuffled.set_epoch(1)
    assert shuffled.ids(0, 8) != ids
    assert sorted(shuffled.ids(0, 8)) == sorted(ids)
    fewer = data.Rows.of(rows.filter(pl.col("id") != ids[2]), 0)
    assert fewer.ids(0, 7) == ids[:2] + ids[3:]
    assert data.Rows.of(rows, 1).ids(0, 8) != ids
    twice = data.Rows.of(pl.concat([rows, rows]), 0).ids(0, 16)
    assert [i for n, i in enumerate(twice) if i not in twice[:n]] == ids or len(set(twice)) == 8
    assert any(a != b for a, b in zip(twice[::2], twice[1::2], strict=True))  # not side by side


def test_shuffled_input_gives_the_same_weights(tiny, tmp_path):
    frame = chats(20)
    found = []
    for name, rows in (("a", frame), ("b", frame.sample(fraction=1, shuffle=True, seed=3))):
        (tmp_path / name).mkdir()
        trained = train_sft(
            rows, str(tiny), Sft(training=FAST), Store(root=tmp_path / name), run=CPU
        )
        found.append((trained.entry.key, trained.entry.content))
    assert found[0] == found[1]  # every file, optimizer and metrics included


def test_a_second_run_loads_no_model(tiny, store):
    settings = Sft(training=FAST)
    first = train_sft(chats(16), str(tiny), settings, store, run=CPU)
    before = (len(loaded()), len(store.computed()))
    again = train_sft(chats(16).reverse(), str(tiny), settings, store, run=CPU)
    assert (len(loaded()), len(store.computed())) == before
    assert again.reference == first.reference
    assert again.notes == first.notes


def test_the_key_follows_content_settings_and_base(rows, files, tiny, tmp_path):
    key = data.fingerprint(rows)
    assert data.fingerprint(rows.reverse()) == key
    assert data.fingerprint(rows.drop("weight")) == key  # weight 1 is no weight
    changed = rows["labels"].to_list()
    changed[0][next(t for t, label in enumerate(changed[0]) if label != -100)] = -100
    for other in (
        rows.with_columns(labels=pl.Series(changed)),
        rows.with_columns(weight=2.0),
        rows.head(7),
        rows.with_columns(id=pl.col("id") + "x"),
    ):
        assert data.fingerprint(other) != key
    record = pl.DataFrame(
        {"id": ["mine"], "messages": [[turn("user", "a"), turn("assistant", "b")]]}
    )
    edited = record.with_columns(messages=pl.Series([[turn("user", "a"), turn("assistant", "c")]]))
    assert data.fingerprint(record) != data.fingerprint(edited)


def test_checkpoints_have_names_rates_and_adams_moments(rows, files, tiny, store, tmp_path):
    training = dataclasses.replace(STILL, epochs=2, batch_size=4, schedule="linear", warmup=0.0)
    trained = train_sft(rows, str(tiny), Sft(training=training), store, run=CPU)
    assert [c.name for c in trained.checkpoints] == ["step-000002", "step-000004"]
    assert trained.at(epoch=1).step == 2
    assert trained.at(step=4) == trained.final
    rate = training.learning_rate
    assert trained.metrics["learning_rate"].to_list() == pytest.approx(
        [rate, 0.75 * rate, 0.5 * rate, 0.25 * rate]
    )
    assert trained.at(epoch=1).learning_rate == pytest.approx(0.875 * rate)
    assert trained.final.learning_rate == pytest.approx(0.375 * rate)
    with pytest.raises(ValueError, match=r"no checkpoint at step 3.*step 2 \(epoch 1\)"):
        trained.at(step=3)
    every = dataclasses.replace(training, checkpoints=1)
    steps = train_sft(rows, str(tiny), Sft(training=every), store, run=CPU)
    gradient = first_gradient(made(rows, files, every), every, tmp_path / "g")
    state = optimizer_state(steps.at(step=1).path)
    assert state.keys() == gradient.keys()
    for name, g in gradient.items():  # one step of Adam from zero
        assert state[name]["step"] == 1
        assert torch.allclose(state[name]["exp_avg"], 0.1 * g, rtol=1e-5, atol=1e-12)
        assert torch.allclose(state[name]["exp_avg_sq"], 0.001 * g * g, rtol=1e-4, atol=1e-16)
    assert {s["step"] for s in optimizer_state(steps.final.path).values()} == {4}
    adam = moments(steps.at(step=1).path)
    assert (adam.step, adam.beta1, adam.beta2, adam.eps) == (1, 0.9, 0.999, 1e-8)
    assert all(torch.equal(adam.second[n], state[n]["exp_avg_sq"]) for n in gradient)
    assert weights(steps.final.path) == weights(trained.final.path)
    bare = dataclasses.replace(training, optimizer_state=False, checkpoints="last")
    last = train_sft(rows, str(tiny), Sft(training=bare), store, run=CPU)
    assert len(last.checkpoints) == 1
    with pytest.raises(ValueError, match="holds no optimizer state"):
        optimizer_state(last.reference)


def test_metrics_are_a_table_and_tensorboard_events(tiny, store):
    from tensorboardX.proto.event_pb2 import Event

    seen = []
    run = dataclasses.replace(CPU, progress=lambda *told: seen.append(told))
    trained = train_sft(chats(16), str(tiny), Sft(training=FAST), store, run=run)
    assert [(s, n) for s, n, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [m["loss"] for _, _, m in seen] == trained.metrics["loss"].to_list()
    (file,) = (store.root / "tensorboard").rglob("events*")
    raw, at, logged = file.read_bytes(), 0, []
    while at < len(raw):  # records: length (8), its checksum (4), event, checksum (4)
        size = int.from_bytes(raw[at : at + 8], "little")
        event = Event.FromString(raw[at + 12 : at + 12 + size])
        logged += [v.simple_value for v in event.summary.value if v.tag == "loss"]
        at += size + 16
    assert np.allclose(logged, trained.metrics["loss"], rtol=1e-6)


# ---------------------------------------------------------------- faults

KILLED = """
import os, signal, sys
from pathlib import Path
import polars as pl
import torch
from gristmill.pipeline.finetune import trainer
from gristmill.pipeline.finetune.jobs import HISTORY, Run
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.records.store import Store

torch.set_num_threads(1)
rows, model, root, kind, at = sys.argv[1:]
lora = Lora(rank=4, alpha=8, dropout=0.3) if kind == "lora" else None
training = Training(epochs=2, learning_rate=3e-3, batch_size=8, micro_batch=4)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

run = Run(device="cpu", resume_seconds=0)
if at == "saving":  # in the middle of the third checkpoint
    saves, write = [], trainer.write_text
    trainer.write_text = lambda *a: die() if saves.append(a) or len(saves) == 3 else write(*a)
else:
    run = Run(device="cpu", resume_seconds=0, progress=lambda s, n, m: s == int(at) and die())
train_sft(
    pl.read_parquet(rows), model, Sft(training=training, lora=lora), Store(root=Path(root)), run=run
)
"""


@pytest.mark.parametrize(("kind", "at"), [("full", "4"), ("lora", "saving")])
@pytest.mark.fault("killed: training, between and within checkpoints")
def test_a_killed_run_resumes_to_the_same_bytes(tiny, tmp_path, kind, at):
    chats(20).write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "killed").mkdir()
    child = warm.Child(KILLED, tmp_path / "rows.parquet", tiny, tmp_path / "killed", kind, at)
    _, error = child.communicate()
    assert child.returncode == -signal.SIGKILL, error
    (state,) = (tmp_path / "killed" / "sft").glob(".work-*/.training")
    resumed_from = newest(state)
    assert resumed_from is not None
    settings = Sft(
        training=FAST, lora=Lora(rank=4, alpha=8, dropout=0.3) if kind == "lora" else None
    )
    found = []
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir(exist_ok=True)
        store, steps = Store(root=tmp_path / name), []
        run = Run(device="cpu", progress=lambda step, *_, steps=steps: steps.append(step))
        trained = train_sft(chats(20), str(tiny), settings, store, run=run)
        found.append((trained.entry.content, steps))
    assert found[0][0] == found[1][0]  # weights, moments and metrics, byte for byte
    assert found[1][1] == [1, 2, 3, 4, 5, 6]
    assert found[0][1] == list(range(int(resumed_from.name.rpartition("-")[2]) + 1, 7))


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json", "model.safetensors"])
def test_a_state_that_was_damaged_meanwhile_is_not_gone_on_from(tiny, tmp_path, name):
    """A cut or flipped state costs the steps since the one before it, and changes no byte."""
    found = []
    for place in ("damaged", "whole"):
        (tmp_path / place).mkdir()
        store, steps = Store(root=tmp_path / place), []

        def stop(step, *_):
            if step == 5:
                raise KeyboardInterrupt

        settings = Sft(training=dataclasses.replace(FAST, checkpoints=2))
        if place == "damaged":
            run = Run(device="cpu", resume_seconds=0, progress=stop)
            with pytest.raises(KeyboardInterrupt):
                train_sft(chats(20), str(tiny), settings, store, run=run)
            (state,) = (tmp_path / place / "sft").glob(".work-*/.training")
            *_, good, last = sorted(state.glob("checkpoint-*"))
            assert newest(state) == last
            victim = last / name
            raw = bytearray(victim.read_bytes())
            raw[len(raw) // 2] ^= 1
            victim.write_bytes(raw[: len(raw) // 2] if name.endswith("json") else raw)
        run = Run(device="cpu", progress=lambda step, *_, steps=steps: steps.append(step))
        trained = train_sft(chats(20), str(tiny), settings, store, run=run)
        found.append((trained.entry.content, steps))
    assert found[0][0] == found[1][0]
    assert found[0][1] == list(range(int(good.name.rpartition("-")[2]) + 1, 7)) != []
    assert found[0][1][0] > 1
    assert found[1][1] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", None])
def test_a_history_that_was_damaged_is_taken_from_the_last_state(tiny, tmp_path, monkeypatch, raw):
    def train():
        return train_sft(chats(20), str(tiny), Sft(training=FAST), Store(root=tmp_path), run=CPU)

    def stop(*_):
        raise KeyboardInterrupt

    first = train().entry
    before = {f["path"]: f["sha256"] for f in first.files}
    shutil.rmtree(first.path)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_metrics", stop)
        with pytest.raises(KeyboardInterrupt):
            train()
    (history,) = (tmp_path / "sft").glob(f".work-*/.training/{HISTORY}")
    history.unlink() if raw is None else history.write_bytes(raw)
    assert {f["path"]: f["sha256"] for f in train().entry.files} == before


def test_a_checkpoint_to_publish_is_trained_again_if_it_went_bad(tmp_path):
    """The ones after it cannot bring it back, so they go too."""
    for step in (2, 4, 6):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / COMPLETE).write_text(mark_of(folder))
    (tmp_path / "checkpoint-4" / "model.safetensors").write_bytes(b"weighty")
    assert not whole(tmp_path / "checkpoint-4")
    with pytest.raises(ValueError, match=r"checkpoint-4 was damaged .* run the same command again"):
        publish(tmp_path / "checkpoint-4", tmp_path / "out", None)
    assert newest(tmp_path, {4, 6}) == tmp_path / "checkpoint-2"
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def poisoned(batch, step, harm):
    """The job, with `harm(module, args, kwargs)` before every forward pass from `step` on."""
    calls = []

    def build(common):
        trainer = batch.build(common)

        def before(module, args, kwargs):
            calls.append(None)
            if len(calls) >= step:
                harm(module, args, kwargs)

        trainer.model.register_forward_pre_hook(before, with_kwargs=True)
        return trainer

    return dataclasses.replace(batch, build=build)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(rows, files, tmp_path):
    training = dataclasses.replace(STILL, micro_batch=4, batch_size=4, epochs=3, checkpoints=1)

    def ruin(module, args, kwargs):
        with torch.no_grad():
            next(module.parameters()).fill_(float("nan"))

    batch = poisoned(made(rows, files, training), 4, ruin)
    batch.rows.set_epoch(1)
    suspects = batch.rows.ids(4, 8)
    with pytest.raises(ValueError, match="training stopped at step 4: loss nan") as error:
        fit(batch, training, tmp_path, CPU)
    assert f"kept in {tmp_path / 'checkpoint-3'}" in str(error.value)
    assert suspects[0] in str(error.value)
    assert newest(tmp_path) == tmp_path / "checkpoint-3"
    good = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-3")
    assert all(p.isfinite().all() for p in good.parameters())
    assert not (tmp_path / "checkpoint-4").exists()
    fit(made(rows, files, training), training, tmp_path, CPU)  # and from there it goes on
    assert newest(tmp_path) == tmp_path / "checkpoint-6"
    history = json.loads((tmp_path / HISTORY).read_text())
    steps = []
    run = dataclasses.replace(CPU, progress=lambda step, *_: steps.append(step))
    fit(made(rows, files, training), training, tmp_path, run)  # killed after the last step
    assert steps == []
    assert json.loads((tmp_path / HISTORY).read_text()) == history


def test_too_little_memory_halves_the_batch_and_says_so(rows, files, tmp_path):
    training = dataclasses.replace(STILL, micro_batch=8)

    def small(module, args, kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    said = []
    run = dataclasses.replace(CPU, log=said.append)
    result = fit(poisoned(made(rows, files, training), 1, small), training, tmp_path / "a", run)
    assert [s for s in said if "halved" in s] == [
        "out of memory: the micro-batch is halved to 4 rows.",
        "out of memory: the micro-batch is halved to 2 rows.",
    ]
    told = json.loads((tmp_path / "a" / HISTORY).read_text())
    assert told["notes"] == said
    two = dataclasses.replace(training, micro_batch=2)
    direct = fit(made(rows, files, two), two, tmp_path / "b", CPU)
    for a, b in zip(result.model.parameters(), direct.model.parameters(), strict=True):
        assert torch.equal(a, b)

    def tiny_device(module, args, kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ValueError, match="too little memory for one row"):
        fit(poisoned(made(rows, files, two), 1, tiny_device), two, tmp_path / "c", CPU)


# ---------------------------------------------------------------- bad input


def test_bad_input_is_one_sentence(tiny, store, rows):
    settings = Sft(training=FAST)

    def refuse(frame, match):
        with pytest.raises(ValueError, match=match):
            train_sft(frame, str(tiny), settings, store, run=CPU)

    pairs = pl.DataFrame({"id": ["a"], "prompt": ["p"], "chosen": ["c"], "rejected": ["r"]})
    refuse(pairs, r"sft needs the columns id, input_ids, labels, or id, messages, or id, text")
    refuse(pairs, "These are preference pairs: use dpo")
    refuse(chats(4).drop("id"), r"found: \['messages'\]")
    refuse(chats(4).head(0), "sft got no rows")
    refuse(
        rows.with_columns(labels=None), r"row \w+ has a null in one of \('input_ids', 'labels'\)"
    )
    for weight in (-1.0, float("nan"), None):
        refuse(rows.with_columns(weight=pl.lit(weight, pl.Float64)), "weights are numbers from 0")
    refuse(
        rows.with_columns(labels=pl.col("labels").list.eval(pl.lit(-100, pl.Int64))),
        "none of the 8 rows has a token to train on",
    )
    refuse(rows.with_columns(labels=pl.col("labels").list.head(2)), "one label per token")
    silent = chats(4).with_columns(messages=pl.col("messages").list.head(1))
    refuse(silent, "none of the 4 rows can be trained on: 4 of 4 rows are left out: no_assistant")
    assert not [line for line in store.computed() if line["step"] == "sft"]


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"batch_size 16 is not a multiple of micro_batch 5.*=4"):
        Training(micro_batch=5)
    for bad in ({"epochs": 0}, {"warmup": 1.0}, {"learning_rate": 0.0}, {"checkpoints": 0}):
        with pytest.raises(ValueError, match=f"training: {next(iter(bad))} is"):
            Training(**bad)
    assert [divisor(12, n) for n in (1, 5, 6, 11, 40)] == [1, 4, 6, 6, 12]


def test_a_token_mask_decides_which_answer_tokens_carry_loss(files):
    chat = load_tokenizer(files)
    frame = chats(2)
    whole = data.token_rows(frame, "sequence", chat)
    masks = [[i % 2 == 0 for i in range(len(r))] for r in whole["input_ids"]]
    masked = data.token_rows(frame.with_columns(token_mask=pl.Series(masks)), "sequence", chat)
    for a, b, mask in zip(whole["labels"], masked["labels"], masks, strict=True):
        assert b.to_list() == [t if m else -100 for t, m in zip(a, mask, strict=True)]
    with pytest.raises(ValueError, match="and a token_mask of 1"):
        data.token_rows(frame.with_columns(token_mask=pl.lit([True])), "sequence", chat)


def test_long_rows_are_cut_and_rows_without_answer_left_out_and_both_said(tiny, store):
    long = chats(8).with_columns(
        messages=pl.Series(
            [[turn("user", "q" * 5), turn("assistant", "a" * (10 + 10 * i))] for i in range(7)]
            + [[turn("user", "q" * 90), turn("assistant", "a")]]
        )
    )
    training = dataclasses.replace(FAST, max_length=64)
    trained = train_sft(long, str(tiny), Sft(training=training), store, run=CPU)
    assert "1 of 8 rows are left out: answer_cut." in trained.notes
    cut = next(s for s in trained.notes if "exceed 64 tokens" in s)
    assert cut.endswith("rows exceed 64 tokens and were cut at the end.")
    assert trained.notes[-1].startswith("7 rows, 2 epochs, 2 steps of 8 rows; learning rate 0.003")


def test_a_model_without_a_template_is_trained_and_kept_with_a_plain_one(tmp_path, store):
    from gristmill.pipeline.models.chat_tokenizer import TULU_TEMPLATE
    from gristmill.pipeline.models.tiny import make_tiny

    bare = make_tiny(tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    trained = train_sft(chats(8), str(bare), Sft(training=FAST), store, run=CPU)
    assert any("has no chat template: a plain one is used" in s for s in trained.notes)
    assert (trained.final.path / "chat_template.jinja").read_text() == TULU_TEMPLATE
