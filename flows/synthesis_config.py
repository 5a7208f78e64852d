"""The settings of a synthesis run: documents in, verified question-answer pairs out."""

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from gristmill.flows import choices
from gristmill.flows.config import PassConfig, checked
from gristmill.flows.followed import demand_curation, demand_prices
from gristmill.flows.settings import LimitsConfig, Name, Settings
from gristmill.pipeline.ingest.ingest import Source
from gristmill.pipeline.models.completion.address import check_address, check_variable


class AnswererConfig(Settings):
    """Who answers: a model in memory, an endpoint, or recorded answers. Give one of them."""

    model_config = ConfigDict(extra="forbid", title="Answerer")
    model: str | None = Field(None, description="model reference; with `url`, the endpoint's name")
    url: str | None = Field(None, description="endpoint that speaks the OpenAI protocol, up to /v1")
    key_variable: str | None = Field(None, description="environment variable with its API key")
    workers: int = Field(16, ge=1, description="requests in flight at an endpoint")
    recorded: str | None = Field(None, description="JSONL of `id` (request) and `text` (answer)")

    @model_validator(mode="after")
    def _one(self) -> "AnswererConfig":
        if (self.recorded is None) == (self.model is None):
            raise ValueError("give exactly one of `model` (with or without `url`) and `recorded`")
        return self

    @field_validator("key_variable")
    @classmethod
    def _no_key(cls, name: str | None) -> str | None:
        check_variable(name)
        return name

    @field_validator("url")
    @classmethod
    def _no_secret(cls, url: str | None) -> str | None:
        if url is not None:
            check_address(url)
        return url


class BanditConfig(Settings):
    """Which documents are worth the extractor's time."""

    model_config = ConfigDict(extra="forbid", title="Bandit")
    mode: Literal["fixed", "thompson", "paper", "official"] = Field(
        "fixed", description="how documents are chosen: docs/methods.md tells them apart"
    )
    share: float = Field(0.05, gt=0, le=1, description="of the documents, to send")
    batch: int = Field(10, ge=1, description="documents a pull")
    arms: int | None = Field(None, ge=1, description="clusters a round; default: the mode's")
    clusters: int | None = Field(None, ge=1, description="default: 1,000, fewer on small pools")
    tokens: int | None = Field(None, ge=1, description="cap on prompt and answer tokens")
    money: float | None = Field(None, gt=0, description="cap, in the currency of the prices")
    pairs: int | None = Field(None, ge=1, description="stop once so many are kept")
    seed: int = Field(0, description="of draws")


class WarmUpConfig(Settings):
    """Tuning of the embedder on pairs of a random share of the documents."""

    model_config = ConfigDict(extra="forbid", title="Warm-up")
    share: float = Field(0.05, gt=0, le=1, description="of the documents, sent before the rounds")
    epochs: int = Field(2, ge=1, description="passes over the pairs")
    learning_rate: float = Field(1e-5, gt=0, description="of the embedder")


class ExtractionConfig(Settings):
    """How pairs are asked for and checked."""

    model_config = ConfigDict(extra="forbid", title="Extraction")
    pairs: int = Field(3, ge=1, description="most pairs of one document")
    longest: int = Field(
        2_000, ge=20, description="characters of an answer; tight for small models"
    )
    refine: bool = Field(True, description="send the pairs back once to be mended")
    task: str = Field("", description="what the questions are for, in a few words")
    max_tokens: int = Field(768, ge=16, description="longest answer of the extractor")
    temperature: float = Field(0.0, ge=0, description="0: the likeliest answer")
    grounded: bool = Field(True, description="refuse numbers and quotes not in the document")
    novelty: float = Field(0.7, gt=0, le=1, description="ROUGE-L from which a question is no news")
    votes: int = Field(1, ge=1, description="answers a question in the round trip")


class SynthesizeConfig(Settings):
    """Documents in, verified question-answer pairs out."""

    model_config = ConfigDict(extra="forbid", title="Synthesize")
    NAMED = ("generator", choices.generators)
    name: Name = Field(description="name of the records, and of the dataset if they are curated")
    sources: list[Source] = Field(
        default_factory=list, description="document rows: JSONL, text ..."
    )
    files: list[str] = Field(
        default_factory=list, description="PDF, HTML, Markdown and text files, or folders of them"
    )
    license: str | None = Field(None, description="SPDX id of `files`")
    reference: list[Source] = Field(
        min_length=1, description="target rows: what pairs come near to"
    )
    known: list[Source] = Field(
        default_factory=list,
        description="rows (seeds, published) whose prompts must not come again",
    )
    benchmarks: str | None = Field(None, description="folder of evaluation sets to keep clear of")
    extractor: AnswererConfig = Field(description="writes pairs of a document")
    checker: AnswererConfig | None = Field(None, description="judges pairs; not the extractor")
    reader: AnswererConfig | None = Field(None, description="answers with and without the document")
    embedder: str = Field(description="model reference of the sentence embedder")
    chunk_tokens: int = Field(400, ge=16, description="longest chunk, in tokens of the embedder")
    generator: choices.GeneratorName = Field("equal", description="makes records of the documents")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="a generator's own settings; equal's are the next two"
    )
    bandit: BanditConfig = Field(default_factory=BanditConfig)
    warm_up: WarmUpConfig | None = Field(None, description="default: the embedder as it is")
    extraction: ExtractionConfig = Field(default_factory=ExtractionConfig)
    price_in: float = Field(0.0, ge=0, description="money per million prompt tokens")
    price_out: float = Field(0.0, ge=0, description="money per million answer tokens")
    passes: PassConfig = Field(default_factory=PassConfig)
    limits: LimitsConfig = LimitsConfig()
    out: str = Field("data/synthetic", description="folder of the records and their report")
    store: str = Field("data/work", description="folder of the store, or s3://bucket/prefix")
    curate: dict[str, Any] | None = Field(
        None, description="settings of a curate run over the records; name and sources are theirs"
    )
    allow_network: bool = Field(False, description="let models and data come from the hub")

    @model_validator(mode="after")
    def _whole(self) -> "SynthesizeConfig":
        if not self.sources and not self.files:
            raise ValueError("give `sources` or `files`: there are no documents")
        demand_prices(self.limits, priced=bool(self.price_in or self.price_out))
        if self.checker is not None and self.checker == self.extractor:
            raise ValueError("the checker is the extractor itself: bind another model")
        demand_curation(self)
        return self


def read(path: Path) -> SynthesizeConfig:
    """Read a YAML file.

    Raises:
        Problems: what is wrong with it, a sentence each.
    """
    return checked(SynthesizeConfig, path)
