"""What the settings of every run are made of: unknown keys are refused, names have a form."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from gristmill.pipeline.contracts import ROLES
from gristmill.pipeline.records.build import did_you_mean

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")]
Reference = Annotated[str, StringConstraints(min_length=1)]


class Settings(BaseModel):
    """A part of a run's settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


def known_roles(models: dict[str, Any]) -> dict[str, Any]:
    """The models bound to roles, if there are such roles."""
    unknown = [role for role in models if role not in ROLES]
    if unknown:
        told = [f"there is no role {r!r}{did_you_mean(r, ROLES)}" for r in unknown]
        raise ValueError(f"{' '.join(told)} The roles are {', '.join(ROLES)}")
    return models
