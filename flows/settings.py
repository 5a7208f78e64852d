"""What the settings of every run are made of: unknown keys are refused, names have a form."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gristmill.pipeline.contracts import ROLES
from gristmill.pipeline.records.build import did_you_mean

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")]
Reference = Annotated[str, StringConstraints(min_length=1)]


class Settings(BaseModel):
    """A part of a run's settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class LimitsConfig(Settings):
    """Caps on one run: it stops cleanly there, and the same command goes on."""

    model_config = ConfigDict(extra="forbid", title="Limits")
    max_hours: float | None = Field(None, gt=0, description="from the start of the run")
    max_tokens: int | None = Field(
        None, ge=1, description="that models read and write: passes, training steps, answers"
    )
    max_money: float | None = Field(
        None, gt=0, description="for answers at their prices, and for the hours at theirs"
    )
    hour_price: float = Field(0.0, ge=0, description="money that an hour of this machine costs")

    @property
    def any(self) -> bool:
        """Whether there is a cap."""
        return (self.max_hours, self.max_tokens, self.max_money) != (None, None, None)


def known_roles(models: dict[str, Any]) -> dict[str, Any]:
    """The models bound to roles, if there are such roles."""
    unknown = [role for role in models if role not in ROLES]
    if unknown:
        told = [f"there is no role {r!r}{did_you_mean(r, ROLES)}" for r in unknown]
        raise ValueError(f"{' '.join(told)} The roles are {', '.join(ROLES)}")
    return models
