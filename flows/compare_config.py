"""The settings of a run that compares methods with one another and with random rows."""

from typing import Any, get_args

from pydantic import ConfigDict, Field, field_validator

from gristmill.flows.config import Budget, PoolConfig, ScorerConfig, each_once
from gristmill.flows.finetune_config import FinetuneConfig
from gristmill.flows.gate_config import ComparisonConfig
from gristmill.pipeline.compare.arms import Control


class CompareConfig(PoolConfig):
    """Methods and controls at several budgets, each trained and asked alike."""

    model_config = ConfigDict(extra="forbid", title="Compare", allow_inf_nan=False)
    scorers: list[ScorerConfig] = Field(
        min_length=1, description="methods, each an arm, by its own rule"
    )
    budgets: list[Budget] = Field(
        default_factory=lambda: ["10%"], min_length=1, description="10%, 500 or 20000tok"
    )
    controls: list[Control] = Field(
        default_factory=lambda: list[Control](get_args(Control)),
        description="what methods are held against",
    )
    finetune: FinetuneConfig = Field(
        default_factory=FinetuneConfig, description="the recipe of all cells"
    )
    comparison: ComparisonConfig = Field(description="rows that are asked, draws and seeds")
    root: str = Field("data/compared", description="folder of finished comparisons")

    @field_validator("scorers")
    @classmethod
    def _each_once(cls, scorers: list[ScorerConfig]) -> list[ScorerConfig]:
        return each_once(scorers)

    @field_validator("controls")
    @classmethod
    def _random(cls, controls: list[Any]) -> list[Any]:
        if "random" not in controls:
            raise ValueError("random is what all methods are held against: add it to controls")
        return controls
