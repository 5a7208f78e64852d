"""The settings of further ways to build pairs: fused answers, avoided phrases, users, choice."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from gristmill.flows.settings import Name, Reference, Settings
from gristmill.flows.synthesis_config import AnswererConfig


class FuseConfig(Settings):
    """A writer that makes one answer of those that the writers before it wrote."""

    model_config = ConfigDict(extra="forbid", title="Fusion")
    most_tokens: int = Field(
        16_384, ge=1, description="of its prompt; the longest candidates leave until it fits"
    )


class AvoidConfig(Settings):
    """A writer that takes over-used phrases back, and keeps the tokens that began them."""

    model_config = ConfigDict(extra="forbid", title="Avoided phrases")
    phrases: list[str] = Field(default_factory=list, description="that may not be said")
    table: str | None = Field(None, description="file that `gristmill phrases --out` wrote")
    most: int = Field(50, ge=1, description="phrases of the table, the most over-used first")
    alternatives: int = Field(20, ge=1, description="chosen tokens of a place, at most")
    min_p: float = Field(
        0.01, gt=0, le=1, description="least probability of one, as a share of the likeliest one's"
    )
    attempts: int = Field(20, ge=1, description="tokens tried at a place until a phrase may stand")
    patience: int = Field(4, ge=1, description="tokens drawn for one answer, times max_tokens")

    @model_validator(mode="after")
    def _some(self) -> "AvoidConfig":
        if not self.phrases and self.table is None:
            raise ValueError("name `phrases`, or the `table` that holds them")
        return self


class PersonasConfig(Settings):
    """Simulated users who prefer differently: pairs with examples of one user in the prompt."""

    model_config = ConfigDict(extra="forbid", title="Personas")
    users: dict[Name, str] | int = Field(
        description="name -> who the user is; or a number of users that the writer invents"
    )
    writer: AnswererConfig | None = Field(
        None, description="invents users, and adds facts where a user does not decide"
    )
    rounds: int = Field(4, ge=0, description="facts that a user is given at most")
    outliers: float = Field(
        2.0, gt=0, description="standard deviations of disagreement from which a user is renewed"
    )
    shots: int = Field(8, ge=1, description="examples in a prompt")
    both: bool = Field(False, description="show the answer that was not preferred as well")
    describe: Literal["other", "own"] | None = Field(
        None, description="answers begin with a description of the user: rejected ones with whose"
    )
    most_tokens: int = Field(8_192, ge=1, description="of a prompt; the oldest examples leave")

    @model_validator(mode="after")
    def _invented(self) -> "PersonasConfig":
        if isinstance(self.users, int) and (self.users < 1 or self.writer is None):
            raise ValueError("a number of users, from 1, wants a `writer` that invents them")
        if not self.users:
            raise ValueError("users: name at least one")
        return self


class LabelConfig(Settings):
    """Which prompts are judged, where not all can be."""

    model_config = ConfigDict(extra="forbid", title="Labels")
    choose: Literal["uncertainty", "gradients", "random"] = Field(
        description="uncertainty of reward models, gradients of the target, or a draw"
    )
    budget: int = Field(ge=1, description="prompts that are judged")
    models: list[Reference] = Field(
        default_factory=list, description="reward models whose differences are uncertainty"
    )

    @model_validator(mode="after")
    def _several(self) -> "LabelConfig":
        if (self.choose == "uncertainty") != bool(self.models):
            raise ValueError("`models` are the reward models of `choose: uncertainty`, and of that")
        if self.models and len(self.models) < 2:
            raise ValueError("one reward model differs from nothing: name at least two `models`")
        return self
