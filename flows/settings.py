"""What the settings of every run are made of: unknown keys are refused, names have a form.

A model's JSON schema is what the run form and an editor show: every setting has a title there, and
those that a model names under `FIRST` stand before the others.
"""

from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import CoreSchema

from gristmill.flows import choices
from gristmill.pipeline.contracts import ROLES
from gristmill.pipeline.records.build import did_you_mean

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")]
Reference = Annotated[str, StringConstraints(min_length=1)]


class Settings(BaseModel):
    """A part of a run's settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")
    FIRST: ClassVar[tuple[str, ...]] = ()
    NAMED: ClassVar[tuple[str, choices.Known] | None] = None  # whose `settings` it holds

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        made = handler(core)
        shown = handler.resolve_ref_schema(made)
        shown["title"] = cls.model_config.get("title") or in_words(cls.__name__)
        properties = shown.get("properties", {})
        order = [*cls.FIRST, *(name for name in properties if name not in cls.FIRST)]
        for name, setting in properties.items():
            setting.setdefault("title", in_words(name))
            setting["position"] = order.index(name)  # Prefect's form goes by it
        if cls.NAMED is not None:
            shown |= choices.fitting(*cls.NAMED)
        return made


def in_words(name: str) -> str:
    """The name of a setting or of its model, as a form shows it: "Max length", "Clean"."""
    spaced = "".join(f" {c}" if c.isupper() else c for c in name.removesuffix("Config"))
    return spaced.replace("_", " ").strip().capitalize()


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


_BOUND = [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}}]
# Model role -> reference, or references in order; a form shows a field a role.
Roles = Annotated[
    dict[str, Reference | list[Reference]],
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                role: {"title": in_words(role), "description": told, "anyOf": _BOUND}
                for role, told in ROLES.items()
            },
        }
    ),
]


def known_roles(models: dict[str, Any]) -> dict[str, Any]:
    """The models bound to roles, if there are such roles."""
    unknown = [role for role in models if role not in ROLES]
    if unknown:
        told = [f"there is no role {r!r}{did_you_mean(r, ROLES)}" for r in unknown]
        raise ValueError(f"{' '.join(told)} The roles are {', '.join(ROLES)}")
    return models
