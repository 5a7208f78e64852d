"""Training on a device: bfloat16 follows float32 on the CPU, runs resume, memory runs out."""

import dataclasses

import pytest
import torch
from toy_training import chats, preferences

from gristmill.pipeline.finetune.dpo import Dpo, train_dpo
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward, train_reward
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.finetune.sft import Sft, job, train_sft
from gristmill.pipeline.finetune.trainer import fit
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.store import Store

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

FAST = Training(epochs=3, learning_rate=3e-3, batch_size=8, micro_batch=4, warmup=0.0)
BF16 = 0.03  # relative, of a loss: 8 bits of mantissa, a dozen steps


@pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8)], ids=["full", "lora"])
@pytest.mark.parametrize("stage", ["sft", "dpo", "reward"])
def test_bfloat16_on_the_device_follows_float32_on_the_cpu(tiny, tmp_path, stage, lora):
    train, settings, frame = {
        "sft": (train_sft, Sft(training=FAST, lora=lora), chats(32)),
        "dpo": (train_dpo, Dpo(training=FAST, lora=lora), preferences(32)),
        "reward": (train_reward, Reward(training=FAST, lora=lora), preferences(32)),
    }[stage]
    losses = {}
    for device in ("cpu", "cuda"):
        (tmp_path / device).mkdir()
        trained = train(
            frame, str(tiny), settings, Store(root=tmp_path / device), run=Run(device=device)
        )
        losses[device] = trained.metrics["loss"].to_list()
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=BF16, abs=BF16)
    assert losses["cuda"][-1] < losses["cuda"][0]


def test_weights_scale_gradients_on_the_device(tiny, store, tmp_path):
    files = resolve(str(tiny), store)
    still = dataclasses.replace(FAST, epochs=1, max_grad_norm=1e9, batch_size=4)
    norms = []
    for weight in (1.0, 0.25):
        frame = chats(4).with_columns(weight=weight)
        made = job(frame, files, Sft(training=still), "cuda")
        result = fit(made, still, tmp_path / str(weight), Run(device="cuda"))
        norms.append(result.state.log_history[0]["grad_norm"])
    assert norms[1] == pytest.approx(0.25 * norms[0], rel=1e-2)


def test_an_interrupted_run_resumes_to_nearly_the_same_weights(tiny, tmp_path):
    class Stop(BaseException):
        pass

    def stop(step, *_):
        if step == 7:
            raise Stop

    models = []
    for name, progress in (("whole", None), ("stopped", stop)):
        (tmp_path / name).mkdir()
        store = Store(root=tmp_path / name)
        run = Run(device="cuda", resume_seconds=0, progress=progress)
        if progress is not None:
            with pytest.raises(Stop):
                train_sft(chats(32), str(tiny), Sft(training=FAST), store, run=run)
        trained = train_sft(chats(32), str(tiny), Sft(training=FAST), store, run=Run(device="cuda"))
        models.append(load(resolve(trained.reference, store), device="cpu").model)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        # sums on the device have no fixed order, and Adam divides by their roots
        assert torch.allclose(a, b, atol=2e-3)


def test_a_device_that_is_too_small_gets_smaller_batches(tiny, store, tmp_path):
    long = chats(64)
    messages = long["messages"].to_list()
    for turns in messages:
        turns[-1]["content"] = "abc " * 240
    frame = long.with_columns(messages=messages)
    training = Training(
        epochs=1, learning_rate=1e-3, batch_size=64, micro_batch=64, max_length=1024
    )
    made = job(frame, resolve(str(tiny), store), Sft(training=training), "cuda")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 400e6 / total))  # about 6 MB a row is used
    said = []
    try:
        fit(made, training, tmp_path, Run(device="cuda", log=said.append))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("the micro-batch is halved to 32 rows" in s for s in said)
