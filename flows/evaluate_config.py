"""The settings of an evaluation: a model, and what is asked of it."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from gristmill.flows.config import PassConfig
from gristmill.flows.settings import Name, Reference, Settings
from gristmill.flows.synthesis_config import AnswererConfig
from gristmill.flows.tasks_config import TasksConfig
from gristmill.pipeline.ingest.ingest import Source


class WinRateConfig(Settings):
    """A judge compares the model's answers with those of another."""

    model_config = ConfigDict(extra="forbid", title="Win rate")
    baseline: Reference = Field(description="model reference of the other model")
    judge: AnswererConfig
    max_tokens: int = Field(512, ge=16, description="longest answer of the two models")


class EvaluateConfig(Settings):
    """A model in, figures with their intervals out."""

    model_config = ConfigDict(extra="forbid", title="Evaluate")
    name: Name = Field(description="name of the evaluation, and of its folder")
    model: Reference = Field(description="reference of the model")
    held_out: list[Source] = Field(
        default_factory=list, description="rows, a set each: examples, documents or pairs"
    )
    tasks: TasksConfig | None = Field(None, description="benchmarks; null: none")
    win_rate: WinRateConfig | None = Field(
        None,
        description="how often a judge prefers its answers to another model's; null: not asked",
    )
    trained_on: list[Source] = Field(
        default_factory=list,
        description="what the model was trained on, e.g. a published folder: refused if measured",
    )
    reference_model: Reference | None = Field(
        None, description="the model that DPO was trained against, for the margins of pairs"
    )
    embedder: Reference | None = Field(
        None, description="finds rewordings of what was trained on too"
    )
    seed: int = Field(0, description="of the intervals")
    passes: PassConfig = PassConfig()
    out: str = Field("data/evaluations", description="folder of evaluations")
    store: str = Field("data/work", description="folder of the store, or s3://bucket/prefix")
    max_bad_share: float = Field(0.05, ge=0.0, le=1.0, description="share of bad rows that fails")
    allow_network: bool = Field(False, description="let models and data come from the hub")

    @model_validator(mode="after")
    def _asks(self) -> "EvaluateConfig":
        if not self.held_out and self.tasks is None:
            raise ValueError("give `held_out` rows or `tasks`: nothing is asked of the model")
        if self.win_rate is not None and not self.held_out:
            raise ValueError("give `held_out` rows: a win rate needs their prompts")
        names = [source_name(s) for s in self.held_out]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two sets of `held_out` are called {twice[0]}: give each its `name`")
        return self

    def limited(self, rows: int) -> Self:
        """The same evaluation on the first rows of every set and task, under another name."""
        held = [s.model_copy(update={"limit": rows}) for s in self.held_out]
        tasks = self.tasks and self.tasks.model_copy(update={"limit": rows})
        told = {"held_out": held, "tasks": tasks, "name": f"{self.name[:76]}-try"}
        return self.model_copy(update=told)


def source_name(source: Source) -> str:
    """What a set of held-out rows is called."""
    return source.name or source.path.rstrip("/").rpartition("/")[2].partition(".")[0]
