"""The settings of a nightly run: a curate run over a pool that grows, and how far it may drift."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from gristmill.flows.config import CleanConfig, CurateConfig, NearConfig
from gristmill.flows.pause_config import PauseConfig
from gristmill.flows.settings import Settings


class DriftConfig(Settings):
    """How far a version may lie from the one before it; null: as far as it does."""

    model_config = ConfigDict(extra="forbid", title="Drift", allow_inf_nan=False)
    rows: float | None = Field(0.5, ge=0, description="share by which the number of rows changes")
    dropped: float | None = Field(0.3, ge=0, le=1, description="share of the rows before that go")
    mixture: float | None = Field(
        0.2, ge=0, le=1, description="share of the rows that move between sources"
    )
    score: float | None = Field(
        0.3,
        ge=0,
        le=1,
        description="distance (Kolmogorov-Smirnov) of each score's distribution, of kept rows and "
        "of the pool's new rows against its old ones; what chance explains is within",
    )
    new_sources: int | None = Field(None, ge=0, description="sources that come into the pool")
    then: Literal["alarm", "pause"] = Field(
        "alarm", description="beyond a limit: warn and go on, or wait until somebody has looked"
    )
    pause: PauseConfig = Field(
        default_factory=lambda: PauseConfig.model_validate({}), description="how it waits"
    )

    @property
    def limits(self) -> dict[str, Any]:
        """The limits alone."""
        return self.model_dump(exclude={"then", "pause"})


class NightlyConfig(CurateConfig):
    """A curate run that is made again and again over a pool that grows."""

    model_config = ConfigDict(extra="forbid", title="Nightly")
    clean: CleanConfig = CleanConfig.model_validate({"near": {}})
    against: Literal["all", "latest"] = Field(
        "all",
        description="a new row must not repeat what these versions of the dataset published: all, "
        "or the one that `latest` names; near duplicates too, unless clean.near is null",
    )
    drift: DriftConfig = Field(
        default_factory=lambda: DriftConfig.model_validate({}),
        description="how far a version may lie from the one before it",
    )

    @model_validator(mode="before")
    @classmethod
    def _near(cls, values: Any) -> Any:  # noqa: ANN401  (what a file holds)
        """Near duplicates are looked for, unless the settings say null."""
        if not isinstance(values, dict):
            return values
        clean = values.get("clean", {})
        if isinstance(clean, CleanConfig):
            clean = clean.model_dump(exclude_unset=True)
        if isinstance(clean, dict) and "near" not in clean:
            near = NearConfig.model_validate({}).model_dump()
            return {**values, "clean": {**clean, "near": near}}
        return values
