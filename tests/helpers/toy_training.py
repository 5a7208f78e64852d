"""Helpers of the fine-tuning tests: toy rows, gradients of a first step, plain loops to compare."""

from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from gristmill.pipeline.finetune.trainer import assemble
from gristmill.pipeline.records.schema import content_id

ROUNDING = 2e-5  # float32 sums in another order, relative to the largest entry


@pytest.fixture(autouse=True)
def one_thread():
    """The models are too small for threads, and sums then have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def turn(role, content):
    return {"role": role, "content": content, "extra": None}


def chats(n=32):
    rows = []
    for i in range(n):
        messages = [turn("user", f"say {i}"), turn("assistant", "abc" * (1 + i % 5))]
        rows.append({"id": content_id("example", {"messages": messages}), "messages": messages})
    return pl.DataFrame(rows)


def preferences(n=32):
    rows = []
    for i in range(n):
        content = {
            "prompt": [turn("user", f"say {i}")],
            "chosen": [turn("assistant", "abc" * (1 + i % 4))],
            "rejected": [turn("assistant", "xyz!" * (1 + i % 3))],
        }
        rows.append({"id": content_id("pair", content), **content})
    return pl.DataFrame(rows)


def first_gradient(job, training, state, micro=None):
    """Gradient by parameter name that the first optimizer step would use."""
    found = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            for name, p in model.named_parameters():
                if p.requires_grad:
                    found[name] = torch.zeros_like(p) if p.grad is None else p.grad.clone()
            control.should_training_stop = True

    trainer = assemble(job, training, Path(state), "cpu", micro or training.micro_batch)
    trainer.add_callback(Catch())
    trainer.train()
    return found


def plain_gradient(model_path, loss):
    """Gradient of `loss(model)` by one plain backward pass."""
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    loss(model).backward()
    return {n: p.grad for n, p in model.named_parameters()}


def answer_log_probs(model, ids, labels):
    """Log-probabilities of the labelled tokens of one row."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
    target = torch.tensor(labels)[1:]
    kept = target != -100
    return torch.log_softmax(logits[kept], -1).gather(1, target[kept][:, None])[:, 0]


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    scale = max(float(g.abs().max()) for g in expected.values())
    assert scale > 0
    for name, gradient in expected.items():
        error = float((found[name] - gradient).abs().max()) / scale
        assert error < ROUNDING, f"{name}: off by {error:.1e}"


def weights(folder):
    """The bytes of a checkpoint's weights."""
    (path,) = (
        Path(folder) / n
        for n in ("model.safetensors", "adapter_model.safetensors")
        if (Path(folder) / n).exists()
    )
    return path.read_bytes()
