"""Cells: one model trained on one draw of an arm with one seed, and what it says of test rows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.finetune.dpo import Dpo, dpo_step, train_dpo
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward, reward_step, train_reward
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.finetune.sft import Sft, sft_step, train_sft
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.reference import resolve

Stage = TypeVar("Stage", Sft, Dpo, Reward)


class Recipe(Protocol):
    """How every cell of a comparison is trained: a stage and a base model."""

    @property
    def base(self) -> str:
        """Reference of the model that every cell starts from."""

    @property
    def training(self) -> Training:
        """The settings that all stages share."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """All that a cell depends on, but for base, rows, seed and rate."""

    def train(self, context: RunContext, rows: pl.DataFrame, *, seed: int, rate: float) -> str:
        """Train on the rows; the model's reference."""

    def trained(self, context: RunContext, rows: pl.DataFrame, *, seed: int, rate: float) -> bool:
        """Whether the store has that model."""

    def fingerprint(self, context: RunContext, model: str) -> str:
        """Hash of a model's weights, which no path is part of."""


@dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """A fine-tuning stage as the recipe of all cells.

    Attributes:
        base: reference of the model that every cell starts from.
        stage: its settings; learning rate and seed are the cell's.
        reference: of the model in DPO's loss; None: the base.
    """

    base: str
    stage: Sft | Dpo | Reward
    reference: str | None = None

    @property
    def training(self) -> Training:
        return self.stage.training

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"stage": settings_of(self.stage), "reference": self.reference}

    def train(self, context: RunContext, rows: pl.DataFrame, *, seed: int, rate: float) -> str:
        store = context.store
        run = Run(device=context.passes.device, caps=context.caps)
        if isinstance(self.stage, Dpo):
            stage = _of_cell(self.stage, seed, rate)
            made = train_dpo(rows, self.base, stage, store, reference=self.reference, run=run)
        elif isinstance(self.stage, Reward):
            made = train_reward(rows, self.base, _of_cell(self.stage, seed, rate), store, run=run)
        else:
            made = train_sft(rows, self.base, _of_cell(self.stage, seed, rate), store, run=run)
        return made.reference

    def trained(self, context: RunContext, rows: pl.DataFrame, *, seed: int, rate: float) -> bool:
        files = resolve(self.base, context.store)
        if isinstance(self.stage, Dpo):
            rival = resolve(self.reference, context.store) if self.reference else None
            step = dpo_step(rows, files, _of_cell(self.stage, seed, rate), rival)
        elif isinstance(self.stage, Reward):
            step = reward_step(rows, files, _of_cell(self.stage, seed, rate))
        else:
            step = sft_step(rows, files, _of_cell(self.stage, seed, rate))
        return context.store.find(step) is not None

    def fingerprint(self, context: RunContext, model: str) -> str:
        return resolve(model, context.store).model_sha


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model of a comparison.

    Attributes:
        budget: of its arm.
        arm: its arm's name.
        draw: which draw of the arm; -1: the base model.
        seed: of the training.
        rate: peak learning rate; 0: the base model.
        model: hash of the model's weights.
        rows: how many rows it was trained on.
        tokens: of these rows, once each.
        items: `ITEMS` by evaluation.
    """

    budget: str
    arm: str
    draw: int
    seed: int
    rate: float
    model: str
    rows: int
    tokens: int
    items: Mapping[str, pl.DataFrame]


def _of_cell(stage: Stage, seed: int, rate: float) -> Stage:
    training = replace(
        stage.training, seed=seed, learning_rate=rate, checkpoints="last", optimizer_state=False
    )
    return replace(stage, training=training)
