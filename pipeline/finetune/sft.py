"""Supervised fine-tuning: raise the likelihood of the answers, given what stands before them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.checkpoints import Trained
from gristmill.pipeline.finetune.job import Job, Run
from gristmill.pipeline.finetune.jobs import train
from gristmill.pipeline.finetune.models import peft_config, trainable
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.records.store import Step, Store

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Sft:
    """Settings of a run; `lora=None` trains all weights.

    The loss of a step is the sum over the labelled tokens of its whole batch, each times its row's
    weight, divided by their number: a token counts the same in a short answer as in a long one,
    however the batch is cut into micro-batches.
    """

    training: Training = field(default_factory=Training)
    lora: Lora | None = None


def train_sft(
    frame: pl.DataFrame,
    model: str,
    settings: Sft,
    store: Store,
    *,
    run: Run | None = None,
    allow_network: bool = False,
) -> Trained:
    """Fine-tune `model` on the rows of `frame`; equal work is found in the store, not repeated.

    Args:
        frame: examples or documents (records), or token rows (`id`, `input_ids`, `labels`), in any
            order; with `weight` per row, and for records `token_mask` (one boolean per token:
            which of the answers' tokens carry loss), if wanted.
        model: reference of the base; an adapter goes on training, or is merged without `lora`.
        settings: what the result depends on.
        store: where it is kept.
        run: device, progress, how often a state to resume from is saved.
        allow_network: the model may be fetched from the hub.
    """
    files = resolve(model, store, allow_network=allow_network)
    step = sft_step(frame, files, settings)
    run = run or Run()
    prepare = partial(job, frame, files, settings, run.device)
    return train(step, store, files, settings.training, prepare, run)


def sft_step(frame: pl.DataFrame, files: ModelFiles, settings: Sft) -> Step:
    """The step of the store that a run is."""
    data.check(frame, "sequence", "sft")
    return Step(
        name="sft",
        version=VERSION,
        settings=settings_of(settings),
        inputs={"rows": data.fingerprint(frame), "model": files.fingerprint},
    )


def job(frame: pl.DataFrame, files: ModelFiles, settings: Sft, device: str) -> Job:
    """Rows and trainer of a run."""
    training = settings.training
    chat = load_tokenizer(files, limit=training.max_length, overlong=training.overlong)
    rows, told = data.trainable_rows(frame, "sequence", chat, files.reference)
    if not rows["labels"].explode().ne(data.IGNORED).any():
        raise ValueError(
            f"sft: none of the {rows.height} rows has a token to train on; the labels (or the "
            "token_mask) leave nothing but -100."
        )

    def build(common: Mapping[str, Any]) -> Any:  # noqa: ANN401  (trl.SFTTrainer)
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        loaded = trainable(files, settings.lora, device)
        return SFTTrainer(
            model=loaded.model,
            args=SFTConfig(**common, dataset_kwargs={"skip_prepare_dataset": True}),
            train_dataset=Dataset.from_list([{"input_ids": [0, 0], "labels": [0, 0]}]),
            data_collator=partial(data.sequences, pad_id=chat.pad_id),
            processing_class=chat.tokenizer,
            peft_config=peft_config(loaded.model, files, settings.lora, "CAUSAL_LM"),
        )

    return Job(
        rows=data.Rows.of(rows, training.seed),
        collate=partial(data.sequences, pad_id=chat.pad_id),
        build=build,
        notes=told,
    )
