"""Measures: what a trained model is asked on rows that nobody trained on, item by item.

Every measure gives the same table, `ITEMS`, in which a larger value is better, so that any of them
can be held against another arm's on the same items.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import polars as pl

from gristmill.pipeline.evaluate.heldout import held_out_loss
from gristmill.pipeline.evaluate.preference import preference_accuracy, reward_accuracy
from gristmill.pipeline.evaluate.tasks import TaskFile, evaluate_tasks
from gristmill.pipeline.finetune import data as training_rows
from gristmill.pipeline.models.context import RunContext

ITEMS = {"id": pl.String, "value": pl.Float64, "weight": pl.Float64}
# What an evaluation tells: of the aim, of the very rows that methods were shown, of all else.
Part = Literal["target", "query", "elsewhere"]


class Measure(Protocol):
    """How a model is asked."""

    @property
    def unit(self) -> str:
        """What a value is, with its unit."""

    @property
    def rows(self) -> pl.DataFrame | None:
        """The records that are asked, of which none may be trained on; None: it has no records."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """All that the values depend on, but for the models."""

    def items(self, context: RunContext, model: str) -> pl.DataFrame:
        """`ITEMS` of every row that could be asked."""


@dataclass(frozen=True, kw_only=True)
class LogLikelihood:
    """Held-out log-likelihood of answers; a token counts the same in a short as in a long one.

    Attributes:
        rows: examples or documents.
    """

    rows: pl.DataFrame
    unit: str = "log-likelihood, nats a token"

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"measure": "log_likelihood", "rows": training_rows.fingerprint(self.rows)}

    def items(self, context: RunContext, model: str) -> pl.DataFrame:
        found = held_out_loss(self.rows, model, context.store, passes=context.passes).rows
        fit = found.filter(pl.col("loss").is_not_null()).unique("id", keep="first").sort("id")
        return fit.select("id", value=-pl.col("loss"), weight=pl.col("tokens").cast(pl.Float64))


@dataclass(frozen=True, kw_only=True)
class PairAccuracy:
    """Share of held-out pairs whose chosen response a model ranks first.

    Attributes:
        rows: preference pairs.
        reference: the model that DPO's margins are against; None: by its own log-probabilities.
        reward: the models asked are reward models.
    """

    rows: pl.DataFrame
    reference: str | None = None
    reward: bool = False
    unit: str = "share of pairs ranked right"

    @property
    def facts(self) -> Mapping[str, Any]:
        kind = {"reward": self.reward, "against": self.reference is not None}
        return {"measure": "pair_accuracy", "rows": training_rows.fingerprint(self.rows), **kind}

    def items(self, context: RunContext, model: str) -> pl.DataFrame:
        store, passes = context.store, context.passes
        if self.reward:
            found = reward_accuracy(self.rows, model, store, passes=passes).rows
        else:
            found = preference_accuracy(
                self.rows, model, store, reference=self.reference, passes=passes
            ).rows
        fit = found.filter(pl.col("margin").is_not_null()).unique("id", keep="first").sort("id")
        right = (pl.col("margin") > 0).cast(pl.Float64)
        return fit.select("id", value=right, weight=pl.lit(1.0))


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """A benchmark of lm-evaluation-harness, by its first figure.

    Its items are no records: that no training row repeats them is decontamination's work.

    Attributes:
        task: which one.
        data: folder of its data file.
        limit: the first so many items; None: all.
        chat_template: prompts are turns of a chat.
        batch_size: of the harness.
    """

    task: TaskFile
    data: Path
    limit: int | None = None
    chat_template: bool = False
    batch_size: int = 1
    unit: str = "accuracy"

    @property
    def rows(self) -> None:
        return None

    @property
    def facts(self) -> Mapping[str, Any]:
        shape = {"limit": self.limit, "chat_template": self.chat_template}
        return {"measure": "task", "task": self.task.name, **shape, "batch_size": self.batch_size}

    def items(self, context: RunContext, model: str) -> pl.DataFrame:
        (found,) = evaluate_tasks(
            [str(self.task.config)],
            model,
            context.store,
            data=self.data,
            limit=self.limit,
            passes=context.passes,
            chat_template=self.chat_template,
            batch_size=self.batch_size,
        ).values()
        return found.scored().sort("id")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A measure, and what it tells of a selection.

    Attributes:
        measure: how models are asked.
        part: "target": what the selection aims at; "query": the rows that methods were shown, which
            they may fit without learning the target; "elsewhere": what it costs.
    """

    measure: Measure
    part: Part = "target"
