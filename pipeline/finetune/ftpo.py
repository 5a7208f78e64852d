"""Final-token preference optimisation (Antislop): unlearn how over-used phrases begin.

A row is one place of an answer (`records.final_tokens`): after this prefix, prefer these tokens to
that one. Nothing but the logits at the place is trained, and the rest of the distribution is tied
to the reference model, so the model keeps what it knew. The loss is in `final_tokens`.
"""

from collections import Counter
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
from gristmill.pipeline.models.load import load, load_tokenizer, pick_device
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.records.final_tokens import merged
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Step, Store

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Ftpo:
    """Settings of a run; `lora=None` trains all weights.

    Rows of more tokens than `training.max_length` lose their beginning (or are skipped): the place
    that is trained is the end.

    Attributes:
        margin: how far above the rejected token a chosen one must come; the paper's.
        tether: strength of the tie of all other logits to the reference model; the paper's.
        involved_tether: the same of the chosen and rejected tokens, beyond `slack`; the paper's.
        slack: how far the logits of these may move for nothing; the paper's.
        least_chosen: rows with fewer chosen tokens are left out; the paper's.
        flatten_rejected: how far counts of rejected tokens are flattened, 0 to 1; the paper's.
        flatten_chosen: how far counts of chosen tokens are; the paper's.
        stop_at: training ends when this share of a step's chosen tokens are above the rejected
            one; 1 with a full batch hardly ever. None: it never ends early.
    """

    # rank and early end are those of the published recipe; the rate is ours, for rows by hundreds
    training: Training = field(
        default_factory=lambda: Training(epochs=1, learning_rate=1e-5, checkpoints="last")
    )
    lora: Lora | None = field(
        default_factory=lambda: Lora(rank=128, alpha=128.0, dropout=0.0, targets=("all-linear",))
    )
    margin: float = 2.0
    tether: float = 0.4
    involved_tether: float = 0.25
    slack: float = 1.0
    least_chosen: int = 4
    flatten_rejected: float = 0.8
    flatten_chosen: float = 0.2
    stop_at: float | None = 0.85

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ValueError(f"ftpo: margin is {self.margin}; give more than 0.")
        for name in ("tether", "involved_tether", "slack"):
            if not vars(self)[name] >= 0:
                raise ValueError(f"ftpo: {name} is {vars(self)[name]}; give 0 or more.")
        for name in ("flatten_rejected", "flatten_chosen"):
            if not 0 <= vars(self)[name] <= 1:
                raise ValueError(f"ftpo: {name} is {vars(self)[name]}; give a number from 0 to 1.")
        if self.least_chosen < 1:
            raise ValueError(f"ftpo: least_chosen is {self.least_chosen}; give at least 1.")
        if self.stop_at is not None and not 0 < self.stop_at <= 1:
            raise ValueError(f"ftpo: stop_at is {self.stop_at}; give a share above 0, up to 1.")


def train_ftpo(
    frame: pl.DataFrame,
    model: str,
    settings: Ftpo,
    store: Store,
    *,
    run: Run | None = None,
    allow_network: bool = False,
) -> Trained:
    """Train `model` on final-token pairs; equal work is found in the store, not repeated.

    Args:
        frame: the table of `records.final_tokens`, in any order.
        model: reference of the model to start from; it is the reference of the loss as well.
        settings: what the result depends on.
        store: where it is kept.
        run: device, progress, how often a state to resume from is saved.
        allow_network: the model may be fetched from the hub.
    """
    files = resolve(model, store, allow_network=allow_network)
    step = ftpo_step(frame, files, settings)
    run = run or Run()
    prepare = partial(job, frame, files, settings, run.device)
    return train(step, store, files, settings.training, prepare, run)


def ftpo_step(frame: pl.DataFrame, files: ModelFiles, settings: Ftpo) -> Step:
    """The step of the store that a run is.

    Raises:
        ValueError: the frame is not a table of final tokens, or not of this tokenizer.
    """
    rows = checked(frame, files)
    content = rows.select("id", "prefix_ids", "chosen_tokens", "rejected_token")
    return Step(
        name="ftpo",
        version=VERSION,
        settings=settings_of(settings),
        inputs={"rows": digest(content.rows()), "model": files.fingerprint},
    )


def checked(frame: pl.DataFrame, files: ModelFiles) -> pl.DataFrame:
    """The table, one row a place, if the model can be trained on it.

    Raises:
        ValueError: it cannot, and why.
    """
    rows = merged(frame)
    if rows.is_empty():
        raise ValueError("ftpo got no rows; give at least one.")
    empty = rows.filter(
        pl.any_horizontal(pl.col("id", "rejected_token", "prefix_ids").is_null())
        | (pl.col("prefix_ids").list.len() == 0)
    )
    if empty.height:
        raise ValueError(f"ftpo: row {empty['id'][0]} has no prefix or no rejected token; fill it.")
    other = rows.filter(pl.col("tokenizer").ne_missing(files.tokenizer_sha))
    if other.height:
        raise ValueError(
            f"ftpo: {other.height:,} of {rows.height:,} rows are of another tokenizer than that of "
            f"{files.reference}: make them with the model that is to be trained."
        )
    both = rows.filter(pl.col("chosen_tokens").list.contains(pl.col("rejected_token")))
    if both.height:
        raise ValueError(f"ftpo: row {both['id'][0]} both chooses and rejects a token; mend it.")
    return rows


def trainable_rows(
    frame: pl.DataFrame, files: ModelFiles, settings: Ftpo
) -> tuple[pl.DataFrame, Counter[str], int]:
    """Rows with their weights, why others are left out, and how many were shortened."""
    training, rows = settings.training, checked(frame, files)
    few = rows["chosen_tokens"].list.drop_nulls().list.len() < settings.least_chosen
    long = rows["prefix_ids"].list.len() > training.max_length
    skipped = long & ~few if training.overlong == "skip" else long & False
    reasons = Counter({"few_chosen_tokens": int(few.sum()), "too_long": int(skipped.sum())})
    left = rows.filter(~few & ~skipped)
    shortened = int((left["prefix_ids"].list.len() > training.max_length).sum())
    left = left.with_columns(pl.col("prefix_ids").list.tail(training.max_length))
    weight = flattened_weights(left, settings)
    return left.with_columns(weight=weight), +reasons, shortened


def flattened_weights(rows: pl.DataFrame, settings: Ftpo) -> pl.Series:
    """Weights of rows, by how often their tokens occur."""
    from gristmill.pipeline.finetune.final_tokens import flattened

    return flattened(rows, rejected=settings.flatten_rejected, chosen=settings.flatten_chosen)


def job(frame: pl.DataFrame, files: ModelFiles, settings: Ftpo, device: str) -> Job:
    """Rows and trainer of a run."""
    from gristmill.pipeline.finetune.final_token_trainer import SHARE, collate

    training = settings.training
    chat = load_tokenizer(files, limit=training.max_length)
    rows, reasons, shortened = trainable_rows(frame, files, settings)
    told = [
        f"{n:,} of {frame.height:,} rows are left out: {reason}."
        for reason, n in sorted(reasons.items())
    ]
    if shortened:
        told.append(
            f"{shortened:,} of {frame.height:,} rows exceed {training.max_length:,} tokens and "
            "lost their beginning."
        )
    if rows.is_empty():
        raise ValueError(
            f"none of the {frame.height} rows can be trained on: {' '.join(told)} Collect more "
            "alternatives a row, or lower least_chosen."
        )

    def build(common: Mapping[str, Any]) -> Any:  # noqa: ANN401  (a transformers Trainer)
        from transformers import TrainingArguments

        from gristmill.pipeline.finetune.final_token_trainer import FinalTokenTrainer

        loaded = trainable(files, settings.lora, device)
        model, rival = loaded.model, None
        fresh = peft_config(model, files, settings.lora, "CAUSAL_LM")
        if fresh is not None:
            from peft import get_peft_model

            model = get_peft_model(model, fresh)
        else:
            rival = load(files, device=pick_device(device), dtype="float32").model
        if fresh is not None and settings.training.activation_checkpointing:
            model.enable_input_require_grads()  # or nothing flows through the frozen layers
        trainer = FinalTokenTrainer(
            model=model,
            args=TrainingArguments(**common),
            train_dataset=[{"prefix_ids": [0]}],
            processing_class=chat.tokenizer,
        )
        trainer.rival, trainer.won = rival, []
        trainer.margin, trainer.slack = settings.margin, settings.slack
        trainer.tether, trainer.involved_tether = settings.tether, settings.involved_tether
        return trainer

    goal = settings.stop_at
    return Job(
        rows=data.Rows.of(
            rows.select("id", "prefix_ids", "chosen_tokens", "rejected_token", "weight"),
            training.seed,
        ),
        collate=partial(collate, pad_id=chat.pad_id),
        build=build,
        notes=told,
        stop=lambda logs: goal is not None and logs.get(SHARE, 0.0) >= goal,
        goal="" if goal is None else f"{goal:.0%} of a step's chosen tokens have won",
    )
