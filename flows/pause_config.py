"""The settings of a pause: a run waits before publication, until somebody has looked."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from gristmill.flows.settings import Settings


class PauseConfig(Settings):
    """A sample for approval, before anything is published."""

    model_config = ConfigDict(extra="forbid", title="Pause")
    by: Literal["review"] = Field("review", description="who lets it go on: a person who looks")
    sample: int = Field(
        40, ge=1, le=500, description="rows to look at, drawn from every source and score"
    )
    hours: float | None = Field(
        None, gt=0, description="wait so long and no longer; null: until somebody decides"
    )
    then: Literal["reject", "publish"] = Field(
        "reject", description="what happens once these hours are over"
    )


def _written_short(value: object) -> object:
    """`pause: review` for a pause with its defaults."""
    if isinstance(value, str):
        short: dict[str, Any] = {"by": value}
        return short
    return value


# The schema names both: a deployment's parameters are held against it before they come here.
Pause = Annotated[
    PauseConfig,
    BeforeValidator(_written_short, json_schema_input_type=PauseConfig | Literal["review"]),
]
