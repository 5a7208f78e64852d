"""The settings of a run: what a YAML file writes and what the Prefect form shows.

No logic lives here: a method's settings are its own fields (`gristmill methods`), a rule's its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from gristmill.flows import choices
from gristmill.flows.finetune_config import FinetuneConfig
from gristmill.flows.gate_config import GateConfig
from gristmill.flows.pause_config import Pause
from gristmill.flows.problems import Problems, sentences
from gristmill.flows.settings import LimitsConfig, Name, Roles, Settings, known_roles
from gristmill.pipeline.ingest.bounds import ROW
from gristmill.pipeline.ingest.ingest import Source
from gristmill.pipeline.records import yaml_text
from gristmill.pipeline.selection import selection

C = TypeVar("C", bound=BaseModel)
_EXPECTED = "`name:`, `sources:` ... (`gristmill init` writes a file to start from)"


def _as_text(value: object) -> object:
    """A number of rows as YAML reads it; a truth value is none."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _readable(text: str) -> str:
    selection.Budget.parse(text)
    return text


Budget = Annotated[
    str,
    BeforeValidator(_as_text),
    AfterValidator(_readable),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}]}),
]


# Files with an id a line; one may be named without a list.
Lists = Annotated[
    list[str],
    BeforeValidator(
        lambda v: [v] if isinstance(v, str) else v, json_schema_input_type=list[str] | str
    ),
]


class ScorerConfig(Settings):
    """One scoring method."""

    model_config = ConfigDict(extra="forbid", title="Scorer")
    NAMED = ("method", choices.methods)
    method: choices.MethodName = Field(description="id of the method: see `gristmill methods`")
    name: Name | None = Field(
        None,
        description=choices.CALLED["description"],
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="the method's own settings: `gristmill methods NAME`"
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        made = super().__get_pydantic_json_schema__(core, handler)
        shown = handler.resolve_ref_schema(made)
        whole = {**shown, "title": "Any method"}
        shown.clear()
        shown |= {"title": "Scorer", "anyOf": [whole, *choices.method_tabs()]}
        return made

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        """`less: {size: 4096}` for `method: less` with these settings."""
        if not isinstance(value, Mapping) or {"method", "settings"} & set(value):
            return value
        named = [key for key in value if key != "name"]
        if len(named) != 1 or not isinstance(value[named[0]], Mapping | None):
            return value
        rest = {"name": value["name"]} if "name" in value else {}
        return {"method": named[0], "settings": value[named[0]] or {}, **rest}

    @property
    def called(self) -> str:
        """The scorer's name in the run."""
        return self.name or self.method


class FilterConfig(Settings):
    """One filter."""

    model_config = ConfigDict(extra="forbid", title="Filter")
    NAMED = ("filter", choices.filters)
    filter: choices.FilterName = Field(description="its name: see `gristmill filters`")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="the filter's own settings: `gristmill filters NAME`"
    )


class NearConfig(Settings):
    """Near duplicates."""

    model_config = ConfigDict(extra="forbid", title="Near duplicates")
    threshold: float = Field(0.8, gt=0.0, le=1.0, description="Jaccard index of word n-grams")
    ngram: int = Field(5, ge=1, description="words of an n-gram")
    bands: int = Field(14, ge=1, description="MinHash bands")
    rows: int = Field(8, ge=1, description="MinHash rows of a band")


class SemanticConfig(Settings):
    """Semantic duplicates, by the model in the role embedder."""

    model_config = ConfigDict(extra="forbid", title="Semantic duplicates")
    epsilon: float = Field(0.05, ge=0.0, lt=1.0, description="drop from cosine 1 - epsilon on")


class DecontaminateConfig(Settings):
    """Rows that repeat an evaluation set."""

    model_config = ConfigDict(extra="forbid", title="Decontamination")
    folder: str | None = Field(None, description="data folder; default: GRISTMILL_DATA")
    sets: list[str] | None = Field(None, description="names of sets; default: all that are there")
    config: str | None = Field(None, description="YAML list of sets; default: the shipped one")
    n: int = Field(13, ge=5, description="words of an n-gram")
    fuzzy: float = Field(0.85, gt=0.0, le=1.0, description="agreement for items shorter than n")
    similarity: float | None = Field(
        0.82, gt=0.0, le=1.0, description="cosine of a rewording; none: words only, no embedder"
    )


class CleanConfig(Settings):
    """What never reaches selection. Exact duplicates, and pairs in both directions, always go."""

    model_config = ConfigDict(extra="forbid", title="Clean")
    near: NearConfig | None = Field(
        None, title="Near duplicates", description="drop rows that say much the same"
    )
    semantic: SemanticConfig | None = Field(
        None,
        title="Semantic duplicates",
        description="drop rows that say the same in other words; reads the embedder",
    )
    decontaminate: DecontaminateConfig | None = Field(
        None, description="drop rows that repeat an item of an evaluation set"
    )
    filters: list[FilterConfig] = Field(
        default_factory=list, description="in order; the first that objects to a row drops it"
    )
    keep: Literal["first", "best"] = Field(
        "first", description="which of several copies stays: the first, or the best scored"
    )
    published: list[str] = Field(
        default_factory=list,
        description="published datasets, of which `latest` counts, or versions: their rows must "
        "not come again",
    )


class StageConfig(Settings):
    """One step of a cascade."""

    model_config = ConfigDict(extra="forbid", title="Stage")
    NAMED = ("rule", choices.rules)
    by: str | None = Field(None, description="scorer that decides; default: the first")
    rule: choices.RuleName | None = Field(
        None, description="how scores become a choice; default: the method's own rule"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="the rule's own settings: `gristmill rules NAME`"
    )
    budget: Budget | None = Field(
        "10%",
        description="10% (share of the rows that cleaning and the stages before left), 500 (rows) "
        "or 20000tok (tokens)",
    )


class SelectConfig(StageConfig):
    """What is kept."""

    model_config = ConfigDict(extra="forbid", title="Select")
    before: list[StageConfig] = Field(
        default_factory=list, description="a cascade: steps that narrow the pool first"
    )


class PassConfig(Settings):
    """How models are run."""

    model_config = ConfigDict(extra="forbid", title="Passes")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the weights; auto: bfloat16 on a GPU that has it, else float32"
    )
    max_length: int = Field(2_048, ge=8, description="longest sequence in tokens")
    overlong: Literal["cut", "skip"] = Field("cut", description="cut longer rows, or skip them")
    batch_tokens: int = Field(4_096, ge=8, description="rows x longest row of one batch")


class EngineConfig(Settings):
    """Who reads rows with models."""

    model_config = ConfigDict(extra="forbid", title="Engine")
    kind: Literal["local", "processes", "ray"] = Field(
        "local",
        description="this process; several processes of this machine, one a GPU or a core; or "
        "actors on a Ray cluster (`pip install 'gristmill[ray]'`)",
    )
    workers: int | None = Field(
        None, ge=1, description="how many; null: as many as there are GPUs, or room on the cores"
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="of a processor, for each worker; sums depend on them, so that they enter the "
        "keys of the store; null: 1, for local as torch has it",
    )
    address: str | None = Field(
        None, description="of the Ray cluster, e.g. auto; null: one on this machine, for the run"
    )

    @model_validator(mode="after")
    def _acts(self) -> Self:
        if self.workers is not None and self.kind == "local":
            raise ValueError(
                "engine.workers says nothing for kind: local, which is one process: take kind: "
                "processes or ray, or leave it out"
            )
        if self.address is not None and self.kind != "ray":
            raise ValueError(
                f"engine.address says nothing for kind: {self.kind}: take kind: ray, or leave it "
                "out"
            )
        return self


class ExportConfig(Settings):
    """The published dataset."""

    model_config = ConfigDict(extra="forbid", title="Export")
    root: str = Field("data/curated", description="folder of published datasets")
    validation_fraction: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of the kept rows that is published as validation"
    )
    pair_views: list[Literal["conversation", "single", "reward", "kto", "kto_messages"]] = Field(
        default_factory=list,
        description="further configs of pairs: conversation and reward (with margins) for reward "
        "models, single and kto_messages for LLaMA-Factory, kto for TRL",
    )
    margin: str | None = Field(
        None, description="column of the ledger with the margins of pairs, for the view reward"
    )
    grpo: bool = Field(
        False, description="a further config of examples: prompts, and answers to verify"
    )
    trainer_rows: bool = Field(
        True, description="ship the target's tokens and labels too, for trainers to take as is"
    )


class PoolConfig(Settings):
    """What every run over raw records has: rows, models, cleaners, and where things are kept."""

    FIRST = ("name", "sources", "reference", "models", "scorers", "select", "clean", "export")
    name: Name = Field(description="name of what comes of the run, e.g. of the dataset")
    sources: list[Source] = Field(min_length=1, description="where the raw rows are")
    reference: list[Source] = Field(
        default_factory=list, description="target rows, for methods that want them"
    )
    models: Roles = Field(
        default_factory=dict,
        description="model role -> a folder, file.gguf, pypi:<package>/<file> or org/name; give "
        "those that the methods ask for",
    )
    review: str | None = Field(
        None,
        description="what people said of the rows: the folder of a review, or a table of "
        "judgements; null: nobody was asked",
    )
    keep: Lists = Field(
        default_factory=list,
        description="files with an id a line, e.g. of `gristmill explore`: no other row stays",
    )
    drop: Lists = Field(
        default_factory=list, description="files with an id a line: these rows fall"
    )
    takedown: Lists = Field(
        default_factory=list,
        description="files with an id a line: these rows fall, and whatever says the same",
    )
    clean: CleanConfig = CleanConfig()
    passes: PassConfig = PassConfig()
    engine: EngineConfig = EngineConfig()
    limits: LimitsConfig = LimitsConfig()
    store: str = Field("data/work", description="folder of the store, or s3://bucket/prefix")
    shard_rows: int = Field(512, ge=1, description="rows of a shard, the unit of resumption")
    max_row_bytes: int = Field(ROW, ge=1, description="a longer row is a bad row, never held")
    max_bad_share: float = Field(0.05, ge=0.0, le=1.0, description="share of bad rows that fails")
    allow_network: bool = Field(False, description="let models and data come from the hub")

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.limits.max_money is not None and not self.limits.hour_price:
            raise ValueError(
                "limits.max_money caps nothing here: give `limits.hour_price`, what an hour of "
                "this machine costs"
            )
        return self

    @field_validator("models")
    @classmethod
    def _known_roles(cls, models: dict[str, Any]) -> dict[str, Any]:
        return known_roles(models)


class RunConfig(PoolConfig):
    """What every run has that publishes a dataset."""

    export: ExportConfig = ExportConfig()
    pause: Pause | None = Field(
        None,
        description="`review`: wait before publication until somebody has looked at a sample; "
        "null: publish at once",
    )


def each_once(scorers: list[ScorerConfig]) -> list[ScorerConfig]:
    """The scorers, if no two bear one name."""
    names = [s.called for s in scorers]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(
            f"two scorers are called {twice[0]}; give one of them another name, e.g. "
            f"{{method: {twice[0]}, name: {twice[0]}-2}}"
        )
    return scorers


class CurateConfig(RunConfig):
    """Raw files in, a curated dataset out."""

    model_config = ConfigDict(extra="forbid", title="Curate")
    scorers: list[ScorerConfig] = Field(min_length=1, description="methods; the first decides")
    select: SelectConfig = SelectConfig()
    check_scores: bool = Field(
        False, description="check batch invariance and seeds of every method, for the report"
    )

    finetune: FinetuneConfig | None = Field(
        None, description="train on the dataset once it is published; null: publish alone"
    )
    gate: GateConfig | None = Field(
        None, description="promote the dataset only if it beats random; null: always promote it"
    )

    @model_validator(mode="after")
    def _gated(self) -> "CurateConfig":
        if self.gate is not None and self.finetune is None:
            raise ValueError("gate: needs `finetune:`, which says what is trained, and how")
        return self

    @field_validator("scorers")
    @classmethod
    def _each_once(cls, scorers: list[ScorerConfig]) -> list[ScorerConfig]:
        return each_once(scorers)


class CleanRunConfig(RunConfig):
    """Raw files in, and out again without what the cleaners drop; no method is asked."""

    model_config = ConfigDict(extra="forbid", title="Clean run")


def read(path: Path, overrides: dict[str, Any] | None = None) -> CurateConfig:
    """Read the YAML file of a curate run.

    Raises:
        Problems: what is wrong with it, a sentence each.
    """
    return checked(CurateConfig, path, overrides)


def checked(model: type[C], path: Path, overrides: dict[str, Any] | None = None) -> C:
    """The settings of a YAML file, as a run's model has them."""
    if not path.exists():
        raise ValueError(f"there is no config file {path}: `gristmill init` writes one.")
    return validated(model, {**settings_in(path, _EXPECTED), **(overrides or {})}, str(path))


def validated(model: type[C], values: Mapping[Any, Any], where: str) -> C:
    """Settings as a model has them.

    Args:
        model: what is validated.
        values: the settings.
        where: how sentences about them begin: the file.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise Problems(where, sentences(error, model)) from None


def settings_in(path: Path, expected: str) -> dict[Any, Any]:
    """The mapping that a YAML file holds, whatever is in it.

    Raises:
        ValueError: one sentence that says what the path is, or what the file lacks.
    """
    if not path.exists():
        raise ValueError(f"there is no config file {path}.")
    if not path.is_file():  # a pipe would be waited for, a device read for ever
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise ValueError(f"{path} is {what}: expected a YAML file.")
    text = yaml_text.read(path)
    try:
        values = yaml_text.parse(text)
    except ValueError as error:
        raise ValueError(f"{path} is no YAML: {error}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings: expected {expected}")
    return values
