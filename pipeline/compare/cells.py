"""Cells: one model trained on one draw of an arm with one seed, and what it says of test rows."""

# N = items

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import polars as pl

from gristmill.pipeline.evaluate.heldout import held_out_loss
from gristmill.pipeline.evaluate.preference import preference_accuracy
from gristmill.pipeline.finetune.dpo import Dpo, train_dpo
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.models.context import RunContext

Stage = TypeVar("Stage", Sft, Dpo)
ITEMS = {"id": pl.String, "value": pl.Float64, "weight": pl.Float64}


class Recipe(Protocol):
    """How every cell of a comparison is trained and measured: a stage and a base model."""

    base: str

    def train(self, context: RunContext, rows: pl.DataFrame, *, seed: int, rate: float) -> str:
        """Train on the rows; the model's reference."""

    def measure(self, context: RunContext, model: str, test: pl.DataFrame) -> pl.DataFrame:
        """`ITEMS` of every test row that could be shown; a larger value is better."""

    def training(self) -> Training:
        """The settings that all stages share."""


@dataclass(frozen=True, kw_only=True)
class SftRecipe:
    """Supervised fine-tuning, measured by the held-out log-likelihood of answers.

    Attributes:
        base: reference of the model that every cell starts from.
        stage: its settings; learning rate and seed are the cell's.
    """

    base: str
    stage: Sft

    def training(self) -> Training:
        return self.stage.training

    def train(self, context: RunContext, rows: pl.DataFrame, *, seed: int, rate: float) -> str:
        stage = _of_cell(self.stage, seed, rate)
        return train_sft(rows, self.base, stage, context.store, run=_run(context)).reference

    def measure(self, context: RunContext, model: str, test: pl.DataFrame) -> pl.DataFrame:
        found = held_out_loss(test, model, context.store, passes=context.passes).rows
        fit = found.filter(pl.col("loss").is_not_null()).unique("id", keep="first")
        # a token counts the same in a short answer as in a long one
        return fit.select("id", value=-pl.col("loss"), weight=pl.col("tokens").cast(pl.Float64))


@dataclass(frozen=True, kw_only=True)
class DpoRecipe:
    """Preference optimisation, measured by the held-out share of pairs that are ranked right.

    Attributes:
        base: reference of the model that every cell starts from.
        stage: its settings; learning rate and seed are the cell's.
    """

    base: str
    stage: Dpo

    def training(self) -> Training:
        return self.stage.training

    def train(self, context: RunContext, rows: pl.DataFrame, *, seed: int, rate: float) -> str:
        stage = _of_cell(self.stage, seed, rate)
        return train_dpo(rows, self.base, stage, context.store, run=_run(context)).reference

    def measure(self, context: RunContext, model: str, test: pl.DataFrame) -> pl.DataFrame:
        found = preference_accuracy(
            test, model, context.store, reference=self.base, passes=context.passes
        ).rows
        fit = found.filter(pl.col("margin").is_not_null()).unique("id", keep="first")
        right = (pl.col("margin") > 0).cast(pl.Float64)
        return fit.select("id", value=right, weight=pl.lit(1.0))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model of a comparison.

    Attributes:
        arm: its arm's name.
        draw: which draw of the arm; -1: the base model.
        seed: of the training.
        rate: peak learning rate.
        model: reference of the trained model.
        rows: how many rows it was trained on.
        items: `ITEMS` by test set.
    """

    arm: str
    draw: int
    seed: int
    rate: float
    model: str
    rows: int
    items: Mapping[str, pl.DataFrame]


def _of_cell(stage: Stage, seed: int, rate: float) -> Stage:
    training = replace(
        stage.training, seed=seed, learning_rate=rate, checkpoints="last", optimizer_state=False
    )
    return replace(stage, training=training)


def _run(context: RunContext) -> Run:
    return Run(device=context.passes.device)
