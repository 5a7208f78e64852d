"""The settings that comparisons share, and those of a gate in a curate run."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from gristmill.flows.settings import Name, Settings
from gristmill.flows.tasks_config import TasksConfig
from gristmill.pipeline.compare.arms import Control
from gristmill.pipeline.ingest.ingest import Source

Evaluated = dict[Name, Annotated[list[Source], Field(min_length=1)]]


class ComparisonConfig(Settings):
    """What every cell of a comparison shares: rows that are asked, controls, draws and seeds."""

    tests: Evaluated = Field(
        min_length=1,
        description="held-out rows by name; the first decides. Nobody trains on them",
    )
    elsewhere: Evaluated = Field(
        default_factory=dict, description="held-out rows of other kinds: what a selection costs"
    )
    tasks: TasksConfig | None = Field(
        None, description="benchmarks, as further evaluations of the target"
    )
    validation: list[Source] = Field(
        default_factory=list,
        description="rows on which each arm's learning rate is chosen; needs `rates`",
    )
    rates: list[float] = Field(
        default_factory=list, description="learning rates to choose from; default: the recipe's"
    )
    draws: int = Field(5, ge=2, description="draws of each control that is drawn")
    seeds: list[int] = Field(
        default_factory=lambda: [0, 1, 2], min_length=3, description="training seeds, 3 or more"
    )
    level: float = Field(0.95, gt=0.5, lt=1.0, description="of intervals")

    @model_validator(mode="after")
    def _fits(self) -> "ComparisonConfig":
        if bool(self.validation) != (len(self.rates) > 1):
            raise ValueError(
                "validation rows choose among rates: give `validation:` and two `rates:` or more, "
                "or neither"
            )
        twice = sorted(set(self.tests) & set(self.elsewhere))
        if twice:
            raise ValueError(f"{twice[0]} is among tests and elsewhere: give one another name")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed stands twice among seeds")
        if any(not rate > 0 for rate in self.rates):
            raise ValueError("rates are numbers above 0")
        return self


class GateConfig(ComparisonConfig):
    """The selection is published, and promoted only if it beats a control on held-out rows.

    It is trained on under `finetune:`, as often as there are seeds, and so are the controls.
    """

    model_config = ConfigDict(extra="forbid", title="Gate", allow_inf_nan=False)
    against: Literal["random", "balanced_random", "length_matched", "token_matched"] = Field(
        "random", description="the control whose interval decides"
    )
    controls: list[Control] = Field(
        default_factory=lambda: list[Control](("random", "canary", "zero_shot")),
        description="what else is trained and shown; the one that decides always is",
    )

    @property
    def held_against(self) -> list[Control]:
        """All controls, each once: the one that decides first, and random always."""
        return list(dict.fromkeys([self.against, "random", *self.controls]))
