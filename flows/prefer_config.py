"""The settings of a run that builds preference pairs: prompts in, a published dataset out."""

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from gristmill.flows import choices
from gristmill.flows.config import PassConfig, checked
from gristmill.flows.constructions_config import (
    AvoidConfig,
    FuseConfig,
    LabelConfig,
    PersonasConfig,
)
from gristmill.flows.followed import demand_curation, demand_prices
from gristmill.flows.settings import LimitsConfig, Name, Reference, Settings
from gristmill.flows.synthesis_config import AnswererConfig
from gristmill.pipeline.ingest.ingest import Source

PERSONAS = "personas"  # what a run calls the model that writes of users
TAKEN = ("judge", "target", PERSONAS)  # what models of a run are called that write no candidates


class WriterConfig(AnswererConfig):
    """Who writes candidates: a model in memory, an endpoint, recorded answers, or rows."""

    model_config = ConfigDict(extra="forbid", title="Writer")
    sources: list[Source] = Field(
        default_factory=list, description="rows that answer the prompts: examples or pairs"
    )
    rating: str | None = Field(
        None, description="column of `sources` with a number: how good the answer is"
    )
    samples: int = Field(1, ge=1, description="answers a prompt; several want a temperature")
    temperature: float = Field(0.0, ge=0, description="0: the likeliest answer")
    top_p: float = Field(1.0, gt=0, le=1, description="tokens are drawn from so much probability")
    max_tokens: int = Field(512, ge=1, description="longest answer; one that reaches it is none")
    system: str | None = Field(None, description="told before the prompt, and no part of the pair")
    on_policy: bool = Field(False, description="the model that is to be trained")
    price_in: float = Field(0.0, ge=0, description="money per million prompt tokens")
    price_out: float = Field(0.0, ge=0, description="money per million answer tokens")
    fuses: FuseConfig | None = Field(
        None, description="writes one answer of those of the writers before it; {}: as it stands"
    )
    avoids: AvoidConfig | None = Field(
        None, description="takes over-used phrases back; its plain answers are `<role>:plain`"
    )

    @model_validator(mode="after")
    def _special(self) -> "WriterConfig":
        if self.fuses is not None and self.avoids is not None:
            raise ValueError("a writer fuses or avoids: make two of it")
        if self.fuses is not None and (self.sources or self.samples > 1 or self.system):
            raise ValueError(
                "a writer that fuses is a model with one answer a prompt, and no system text of "
                "yours: leave `sources`, `samples` and `system` out"
            )
        if self.avoids is not None and (self.model is None or self.url or self.system):
            raise ValueError(
                "a writer that avoids reads the tokens of a model in memory: give `model` without "
                "`url`, and leave `system` out"
            )
        return self

    @model_validator(mode="after")
    def _one(self) -> "WriterConfig":
        given = [self.recorded is not None, self.model is not None, bool(self.sources)]
        if sum(given) != 1:
            raise ValueError(
                "give exactly one of `model` (with or without `url`), `recorded` and `sources`"
            )
        if self.sources:
            asked = {"samples", "temperature", "top_p", "max_tokens", "system"}
            if useless := sorted(asked & self.model_fields_set):
                raise ValueError(f"{useless[0]} changes nothing where answers stand in `sources`")
        elif self.rating is not None:
            raise ValueError("rating is a column of `sources`, and there are none")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"{self.samples} samples at temperature 0 are one answer repeated: give a "
                "temperature"
            )
        return self


# What a judge may be told, by how it judges; all may have a price and say who they are.
_ASKED = {"max_tokens", "distribution", "least_mass", "canaries", "price_in", "price_out"}
_OF_JUDGES: dict[str, set[str]] = {
    "pairwise": {*_ASKED, "votes", "temperature", "band"},
    "pointwise": {*_ASKED, "aspects", "grades"},
    "reward": set(),
    "labels": set(),
}


class JudgeConfig(AnswererConfig):
    """Who decides what no known answer does."""

    model_config = ConfigDict(extra="forbid", title="Judge")
    by: Literal["pairwise", "pointwise", "reward", "labels"] = Field(
        "pairwise",
        description="pairwise (both orders), pointwise (aspects), reward (a reward model), labels "
        "(what the rows of writers say)",
    )
    votes: int = Field(1, ge=1, description="verdicts an order; several want a temperature")
    temperature: float = Field(0.0, ge=0, description="0: the likeliest answer")
    max_tokens: int = Field(128, ge=8, description="longest verdict")
    distribution: bool = Field(
        False, description="read the probabilities of a model in memory, not its verdict"
    )
    band: float = Field(0.0, ge=0, lt=0.5, description="of probabilities: a tie so near one half")
    least_mass: float = Field(
        0.01, gt=0, lt=1, description="probability that the allowed answers must have together"
    )
    aspects: dict[str, str] | None = Field(
        None, description="aspect -> the question that it asks of an answer"
    )
    grades: int = Field(5, ge=2, le=9, description="from 1, the worst, to this")
    canaries: int = Field(4, ge=0, description="prompts of ours that order a verdict")
    price_in: float = Field(0.0, ge=0, description="money per million prompt tokens")
    price_out: float = Field(0.0, ge=0, description="money per million answer tokens")

    @model_validator(mode="after")
    def _one(self) -> "JudgeConfig":
        given = (self.recorded is not None) + (self.model is not None)
        if self.by == "labels" and given:
            raise ValueError("labels stand in the writers' rows: leave model and recorded out")
        if self.by == "reward" and (self.model is None or self.url is not None or given > 1):
            raise ValueError("by: reward wants `model`, a reward model on this machine")
        if self.by in ("pairwise", "pointwise") and given != 1:
            raise ValueError("give exactly one of `model` (with or without `url`) and `recorded`")
        who = set(AnswererConfig.model_fields)
        told = self.model_fields_set - who - {"by"}
        if useless := sorted(told - _OF_JUDGES[self.by]):
            raise ValueError(f"{useless[0]} changes nothing for a judge by {self.by}")
        if self.distribution and (self.model is None or self.url is not None):
            raise ValueError("distribution reads a model in memory: give `model` without `url`")
        if self.votes > 1 and self.temperature == 0:
            raise ValueError(
                f"{self.votes} votes at temperature 0 are one vote: give a temperature"
            )
        if self.distribution and self.votes > 1:
            raise ValueError("distribution reads all votes at once: leave `votes` out")
        return self


class LengthConfig(Settings):
    """How often the chosen side may be the longer one."""

    model_config = ConfigDict(extra="forbid", title="Length control")
    by: Literal["cap", "bands", "none"] = Field(
        "cap", description="cap (a share), bands (as many of either in each band), none"
    )
    cap: float = Field(0.6, ge=0, lt=1, description="share of pairs whose chosen side is longer")


class PairsConfig(Settings):
    """The published pairs."""

    model_config = ConfigDict(extra="forbid", title="Publication")
    root: str = Field("data/preferences", description="folder of published datasets")
    validation_fraction: float = Field(0.0, ge=0.0, lt=1.0, description="of prompts")
    pair_views: list[Literal["conversation", "single", "reward", "kto", "kto_messages"]] = Field(
        default_factory=list,
        description="further configs: conversation and reward (with gaps as margins) for reward "
        "models, single and kto_messages for LLaMA-Factory, kto for TRL",
    )


class PreferConfig(Settings):
    """Prompts in, preference pairs out."""

    model_config = ConfigDict(extra="forbid", title="Prefer")
    NAMED = ("rule", choices.pair_rules)
    name: Name = Field(description="name of the dataset")
    sources: list[Source] = Field(min_length=1, description="prompts: examples, pairs, documents")
    candidates: dict[Name, WriterConfig] = Field(
        min_length=1, description="role -> who writes candidates, and how"
    )
    verify: Literal["final", "number"] | None = Field(
        "final", description="known answers: how a solution ends, its last number, or none"
    )
    answer_column: str | None = Field(
        None, description="column of the prompts with the known answer; default: the row's answer"
    )
    judge: JudgeConfig | None = Field(None, description="decides what no known answer does")
    label: LabelConfig | None = Field(
        None, description="which prompts the judge is asked of; null: all"
    )
    personas: PersonasConfig | None = Field(
        None, description="pairs of what simulated users prefer, in the place of the rule's"
    )
    rule: choices.PairRuleName = Field(
        "best_random_lower", description="which candidates make a pair"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="the rule's own settings")
    min_gap: float = Field(0.0, ge=0, description="least gap of scores; above 0 in any case")
    floor: float | None = Field(None, description="least score of a chosen side that was judged")
    length: LengthConfig = LengthConfig()
    benchmarks: str | None = Field(None, description="folder of evaluation sets to keep clear of")
    judgements: str | None = Field(
        None, description="table of what people said of pairs; it prevails"
    )
    target: Reference | None = Field(
        None, description="model whose tokens truncate: sides that are equal then make no pair"
    )
    seed: int = Field(0, description="of samples and of a rule's draws")
    passes: PassConfig = PassConfig()
    export: PairsConfig = PairsConfig()
    limits: LimitsConfig = LimitsConfig()
    store: str = Field("data/work", description="folder of the store, or s3://bucket/prefix")
    curate: dict[str, Any] | None = Field(
        None, description="settings of a curate run over the pairs; name and sources are theirs"
    )
    allow_network: bool = Field(False, description="let models and data come from the hub")

    @model_validator(mode="after")
    def _whole(self) -> "PreferConfig":
        if taken := sorted(set(TAKEN) & set(self.candidates)):
            raise ValueError(f"candidates.{taken[0]}: call a writer anything but {taken[0]}")
        if self.answer_column is not None and self.verify is None:
            raise ValueError("answer_column names known answers: give `verify`, or leave it out")
        priced = [w for w in (*self.candidates.values(), self.judge) if w is not None]
        demand_prices(self.limits, priced=any(w.price_in or w.price_out for w in priced))
        first = next(iter(self.candidates.values()))
        if first.fuses is not None:
            raise ValueError("candidates: the first writer has nothing to fuse: let it stand later")
        if self.label is not None and self.judge is None:
            raise ValueError("label chooses what is judged: add a `judge`, or leave it out")
        if self.label is not None and self.label.choose == "gradients" and self.target is None:
            raise ValueError(
                "label: gradients reads gradients of the model that is trained: give `target`"
            )
        if self.personas is not None:
            self._for_users()
        rated = any(w.rating is not None for w in self.candidates.values())
        if rated and (self.judge is None or self.judge.by != "labels"):
            raise ValueError("`rating` is read by `judge: {by: labels}`: add it, or leave it out")
        demand_curation(self)
        return self

    def _for_users(self) -> None:
        """Refuse what plays no part where users decide."""
        if self.judge is None or self.judge.by != "pairwise":
            raise ValueError("personas: users are asked of pairs: give a `judge` by pairwise")
        own = {"rule", "settings", "min_gap", "floor", "judgements", "label"}
        if useless := sorted(own & self.model_fields_set):
            raise ValueError(f"{useless[0]} changes nothing where `personas` decide: leave it out")
        if "canaries" in self.judge.model_fields_set:
            raise ValueError("judge.canaries: none are shown where `personas` decide: leave it out")
        if "reward" in self.export.pair_views:
            raise ValueError("export.pair_views: what users prefer has no margin: leave reward out")

    @property
    def models(self) -> dict[str, str]:
        """Role -> reference of the models on this machine."""
        asked: dict[str, AnswererConfig | None] = {**self.candidates, "judge": self.judge}
        asked[PERSONAS] = None if self.personas is None else self.personas.writer
        found = {
            role: who.model
            for role, who in asked.items()
            if who is not None and who.model is not None and who.url is None
        }
        return found if self.target is None else {**found, "target": self.target}


def read(path: Path) -> PreferConfig:
    """Read a YAML file.

    Raises:
        Problems: what is wrong with it, a sentence each.
    """
    return checked(PreferConfig, path)
