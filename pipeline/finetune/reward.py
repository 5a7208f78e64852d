"""Reward models: a score for a response, by Bradley and Terry's -log sigma(r_chosen - r_rejected).

The base is a causal language model whose head is replaced by one linear score, read at the last
token of the whole dialogue (a base that is a reward model already goes on from its own score). The
result is an ordinary `AutoModelForSequenceClassification` folder, or an adapter with the score
among its saved modules; `load_reward` loads either and `rewards` asks it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.checkpoints import Trained
from gristmill.pipeline.finetune.job import Job, Run
from gristmill.pipeline.finetune.jobs import train
from gristmill.pipeline.finetune.models import peft_config, resume_adapter
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.models.damage import check_finite
from gristmill.pipeline.models.forward import batches
from gristmill.pipeline.models.load import (
    LoadedModel,
    load_tokenizer,
    loading,
    pick_device,
)
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.records.store import Step, Store

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Reward:
    """Settings of a run; `lora=None` trains all weights.

    The loss of a step is the mean over its pairs, each times its weight.

    Attributes:
        centre: coefficient of (r_chosen + r_rejected)^2, which keeps scores near zero
            (arXiv:2312.09244 recommends 0.01).
    """

    training: Training = field(default_factory=lambda: Training(epochs=1, learning_rate=1e-5))
    lora: Lora | None = None
    centre: float = 0.0


def train_reward(
    frame: pl.DataFrame,
    model: str,
    settings: Reward,
    store: Store,
    *,
    run: Run | None = None,
    allow_network: bool = False,
) -> Trained:
    """Train a reward model on the pairs of `frame`; arguments as those of `train_dpo`."""
    files = resolve(model, store, allow_network=allow_network)
    step = reward_step(frame, files, settings)
    run = run or Run()
    prepare = partial(job, frame, files, settings, run.device)
    return train(step, store, files, settings.training, prepare, run)


def reward_step(frame: pl.DataFrame, files: ModelFiles, settings: Reward) -> Step:
    """The step of the store that a run is."""
    data.check(frame, "pair", "reward")
    return Step(
        name="reward",
        version=VERSION,
        settings=settings_of(settings),
        inputs={"rows": data.fingerprint(frame), "model": files.fingerprint},
    )


def job(frame: pl.DataFrame, files: ModelFiles, settings: Reward, device: str) -> Job:
    """Rows and trainer of a run."""
    training = settings.training
    chat = load_tokenizer(files, limit=training.max_length, overlong=training.overlong)
    rows, told = data.trainable_rows(frame, "pair", chat, files.reference)

    def build(common: Mapping[str, Any]) -> Any:  # noqa: ANN401  (trl.RewardTrainer)
        from datasets import Dataset
        from trl import RewardConfig, RewardTrainer

        model = _scorer(files, pick_device(device), chat.pad_id, training.seed)
        if files.layout == "adapter" and settings.lora is not None:
            resume_adapter(model, settings.lora, files)
        elif files.layout == "adapter":
            model = model.merge_and_unload()
        if settings.lora is None:
            model.requires_grad_(True)
        return RewardTrainer(
            model=model,
            args=RewardConfig(
                **common, max_length=None, center_rewards_coefficient=settings.centre or None
            ),
            train_dataset=Dataset.from_list([{"chosen_ids": [0], "rejected_ids": [1]}]),
            processing_class=chat.tokenizer,
            peft_config=peft_config(model, files, settings.lora, "SEQ_CLS"),
        )

    return Job(
        rows=data.Rows.of(rows, training.seed),
        collate=partial(_batch, chat.pad_id),
        build=build,
        notes=told,
    )


def load_reward(files: ModelFiles, *, device: str = "auto") -> LoadedModel:
    """Load a reward model for asking, in float32."""
    if not _is_scorer(files):
        raise ValueError(
            f"model {files.reference!r} has no reward head: give one that train_reward made."
        )
    chat = load_tokenizer(files)
    model = _scorer(files, pick_device(device), chat.pad_id, seed=0)
    model.eval()
    model.requires_grad_(False)
    return LoadedModel(
        files=files, model=model, chat=chat, device=pick_device(device), dtype="float32"
    )


def rewards(rows: pl.DataFrame, scorer: LoadedModel, *, batch_tokens: int = 4_096) -> pl.DataFrame:
    """Rewards of token rows of pairs: `id`, `chosen`, `rejected`."""
    import torch

    ids = [*rows["chosen_ids"].to_list(), *rows["rejected_ids"].to_list()]
    reward_2N = np.zeros(len(ids), dtype=np.float64)
    for part in batches([len(i) for i in ids], batch_tokens):
        batch = [ids[i] for i in part]
        with torch.inference_mode():
            out = scorer.model(
                input_ids=data.pad(batch, scorer.chat.pad_id).to(scorer.device),
                attention_mask=data.pad([[1] * len(i) for i in batch], 0).to(scorer.device),
            )
        reward_2N[part] = out.logits[:, 0].double().cpu().numpy()
    chosen_N, rejected_N = reward_2N[: rows.height], reward_2N[rows.height :]
    return rows.select("id").with_columns(
        chosen=pl.Series(chosen_N), rejected=pl.Series(rejected_N)
    )


def _batch(pad_id: int, rows: Any) -> dict[str, Any]:  # noqa: ANN401
    batch = data.pairs(rows, pad_id=pad_id)
    del batch["completion_mask"]  # a reward model reads the last token, whatever carries loss
    return batch


def _scorer(files: ModelFiles, device: str, pad_id: int, seed: int) -> Any:  # noqa: ANN401
    import torch
    from transformers import AutoModelForSequenceClassification
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    from gristmill.pipeline.models.low_rank import from_folder, with_adapter

    root = files.base or files
    with loading(files, device), torch.random.fork_rng(devices=[]), suppress_seqcls_warning():
        torch.manual_seed(seed)  # of the new score, if the base has none
        model = from_folder(
            AutoModelForSequenceClassification, root.path, num_labels=1, dtype=torch.float32
        )
    model.config.get_text_config().pad_token_id = pad_id  # a batch's last tokens are found by it
    if files.base is not None:
        with loading(files, device):
            model = with_adapter(model, files.path)
    check_finite(files, model)
    return model.to(device)


def _is_scorer(files: ModelFiles) -> bool:
    if files.base is not None:
        config = json.loads((files.path / "adapter_config.json").read_text("utf-8"))
        return bool(config["task_type"] == "SEQ_CLS")
    config = json.loads((files.path / "config.json").read_text("utf-8"))
    return any(a.endswith("ForSequenceClassification") for a in config.get("architectures") or ())
