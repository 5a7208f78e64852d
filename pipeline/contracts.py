"""The few abstract classes. All else in Gristmill is a final, frozen dataclass or a function.

A **View** shows a record to a model. A **Signal** says what one model sees of it: a `PassSignal` is
read off a pass that many share, a `ModelSignal` runs the model itself, a `TokenSignal` takes its
tokenizer alone. A **Scorer** is short mathematics over signals. A **Rule** turns scores into an
order. A **Recipe** makes a model, or an **Artifact**, that a scorer needs before it can look. The
settings of each are its dataclass fields; the object is the configuration. What a run hands to a
scorer besides stands apart (`Given`).
"""

# B = batch rows, T = tokens, D = hidden size, V = vocabulary, L = layers, K = labelled tokens

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import polars as pl

from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.numerics.blocks import Blocks, Preference
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import CONTENT, Kind, digest

if TYPE_CHECKING:
    from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
    from gristmill.pipeline.models.forward import Batch
    from gristmill.pipeline.models.load import LoadedModel
    from gristmill.pipeline.models.reference import ModelFiles

Scope = Literal["row", "pool"]
# What a pass provides beyond the encoding: losses of answer tokens or of all, their entropy, hidden
# states of all layers or of the last, a sentence embedding, a backward pass.
Need = Literal["losses", "all_losses", "entropy", "hidden", "last_hidden", "embedding", "backward"]
# Names that models are bound to, and what each is for.
ROLES: Mapping[str, str] = {
    "target": "the model that is to be trained",
    "reference": "the model that the target is compared with, e.g. the one it started from",
    "history": "checkpoints of an earlier training run, in order",
    "proxy": "a small model that is observed in the place of the target",
    "teacher": "the model that is to be learned from",
    "student": "the model that is to learn from the teacher",
    "weak": "a weaker model: its answers, or its opinion of pairs",
    "validation": "the target tuned on the target rows; made by the run unless it is bound",
    "embedder": "a sentence embedder",
    "judge": "a language model that is asked about rows",
    "reward": "a reward model, or several",
}


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Something made for a method that is no model in a role: tables, a classifier, a curvature.

    Attributes:
        name: what the method asks for it by.
        content: hash of what it is; all that keys see of it.
        path: the folder where it lies.
        facts: small numbers that the making found.
    """

    name: str
    content: str
    path: Path = field(compare=False, repr=False)
    facts: Mapping[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a run hands to a scorer, apart from the settings that a user gives.

    Attributes:
        reference: canonical JSON of the reference records' content, in order of id, for a scorer
            that shows them to the model (`reads_reference`).
        artifacts: what its recipes made, by name.
        picks: how many rows a greedy method is to pick; None: the run has no budget.
        tokens: how many tokens its picks may hold, in the place of `picks`.
    """

    reference: tuple[str, ...] = ()
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    picks: int | None = None
    tokens: int | None = None


# Metadata of a setting that says where something lies: keys see what it is, not its place.
PLACE: Mapping[str, bool] = {"place": True}


def settings_of(thing: object) -> dict[str, Any]:
    """Class name and fields of a frozen dataclass as JSON-able values: what enters a step's key.

    A field with the metadata `PLACE` is left out: what lies there enters by its content.
    """
    assert dataclasses.is_dataclass(thing), f"{thing!r} is not a dataclass"
    kept = (f.name for f in dataclasses.fields(thing) if not f.metadata.get("place"))
    fields = {name: _plain(vars(thing)[name]) for name in kept}
    return {"class": type(thing).__name__, **fields}


def _plain(value: object) -> Any:  # noqa: ANN401  (JSON)
    if isinstance(value, Artifact):
        return {"artifact": value.name, "content": value.content}
    if isinstance(value, Given):
        told = {
            "reference": digest(list(value.reference)) if value.reference else None,
            "artifacts": {n: a.content for n, a in sorted(value.artifacts.items())} or None,
            "picks": value.picks,
            "tokens": value.tokens,
        }
        return {k: v for k, v in told.items() if v is not None}
    if dataclasses.is_dataclass(value):
        return settings_of(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise AssertionError(f"{value!r} is not a setting")


@dataclass(frozen=True, kw_only=True)
class View(ABC):
    """How a record is shown to a model: one token sequence, with what of it is answer."""

    version: ClassVar[int] = 1  # raise when the encoding changes

    @property
    @abstractmethod
    def name(self) -> str:
        """Short and unique; equal for equal settings."""

    @abstractmethod
    def encode(self, record: Mapping[str, Any], chat: "ChatTokenizer") -> "Encoded":
        """Encode one record (a row with the content columns of its kind)."""

    def encode_tokens(
        self, records: Sequence[Mapping[str, Any]], chat: "ChatTokenizer"
    ) -> "list[Encoded]":
        """Many records at once, for readers of ids and turns alone: without text and offsets."""
        return [self.encode(record, chat) for record in records]

    def cut_at(self, limit: int) -> str:
        """What of a record is shown at most, in words, where a sequence has `limit` tokens."""
        return f"{limit:,} tokens"


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a model that memory and disk follow from, known without its weights.

    Attributes:
        hidden: of the residual stream.
        inner: of the feed-forward layers.
        blocks: decoder blocks.
        vocabulary: tokens.
        matrices: inputs and outputs of each weight matrix whose gradient can be read: all but
            embeddings, LM head and adapters, the experts of a block one by one.
    """

    hidden: int = 768
    inner: int = 3_072
    blocks: int = 12
    vocabulary: int = 0
    matrices: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Signal(ABC):
    """What one model says of one record; bounded size; a stable column name.

    Use `PassSignal`, `ModelSignal` or `TokenSignal`.

    Attributes:
        role: the model role that is asked ("target", "embedder", ...).
        view: how a record is shown to the model.
    """

    version: ClassVar[int] = 1  # raise when the numbers change
    role: str = "target"
    view: View

    @property
    @abstractmethod
    def column(self) -> str:
        """Name of the observation's column; equal for equal settings, short, unique."""

    @abstractmethod
    def dtype(self, model: "LoadedModel") -> pl.DataType:
        """Polars type of the column (arrays take their size from the model)."""

    @abstractmethod
    def cost(self, tokens: float) -> float:
        """What a row of so many tokens costs, in forward-equivalents of those tokens."""

    def of_kind(self, kind: Kind) -> Self:
        """The signal as it reads records of that kind: the same column, perhaps another view."""
        return self

    def notes(self, files: "ModelFiles") -> tuple[str, ...]:
        """What a reader of the scores should know of how this model is read, in sentences."""
        return ()

    def row_bytes(self, shape: ModelShape, tokens: float) -> int:
        """Bytes of one row on disk, id included; a scalar if nothing else is said.

        Args:
            shape: sizes of the model.
            tokens: mean length of the view.
        """
        return ID_BYTES + 8


ID_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class PassSignal(Signal):
    """A signal that is read off a pass which others share."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]:
        """What the pass must provide; at least one thing."""

    @abstractmethod
    def read(self, batch: "Batch") -> Sequence[Any]:
        """Take this signal's part of a finished pass: one value per row of the batch, or None."""

    def cost(self, tokens: float) -> float:
        return 2.0 if "backward" in self.needs else 1.0  # the backward is of activations alone


@dataclass(frozen=True, kw_only=True)
class ModelSignal(Signal):
    """A signal that runs the model itself: it generates, compares two models, shows other rows."""

    @abstractmethod
    def open(self, model: "LoadedModel") -> "Callable[[Sequence[Encoded]], list[Any]]":
        """Make ready what all batches share; the result gives one value per row of a batch."""

    def tokens(self, encoded: "Sequence[Encoded]", values: Sequence[Any]) -> int:
        """Tokens that the model read and wrote for a batch; by its cost, if it does not know.

        Args:
            encoded: the rows.
            values: what came of them.
        """
        return round(sum(len(e.ids) * self.cost(len(e.ids)) for e in encoded))


@dataclass(frozen=True, kw_only=True)
class TokenSignal(Signal):
    """A signal of the tokens alone: no weights are loaded for it."""

    @abstractmethod
    def read(self, encoded: "Sequence[Encoded]", chat: "ChatTokenizer") -> Sequence[Any]:
        """One value per row, or None: by its ids and turns; text and offsets may be missing."""

    @abstractmethod
    def dtype(self, model: "LoadedModel | None" = None) -> pl.DataType: ...

    def cost(self, tokens: float) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class EncodingFacts:
    """What the tokenizer alone says of a record under a view; every pass writes it beside.

    A struct column `facts.<view>` (`<role>.facts.<view>` for roles other than the target):
    `tokens`, `answer_tokens`, `cut` (tokens cut away), `reason` (why it cannot be shown).
    """

    version: ClassVar[int] = 1
    dtype: ClassVar[pl.DataType] = pl.Struct(
        {"tokens": pl.Int64, "answer_tokens": pl.Int64, "cut": pl.Int64, "reason": pl.String}
    )
    role: str = "target"
    view: View

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}facts.{self.view.name}"

    def of_kind(self, kind: Kind) -> Self:
        """Facts are of a view, whatever the kind of record."""
        return self

    @staticmethod
    def of(encoded: "Encoded") -> dict[str, Any]:
        """The facts of one sequence; also of one that cannot be shown."""
        return {
            "tokens": None if encoded.length is None else encoded.length - encoded.cut,
            "answer_tokens": encoded.answer_tokens,
            "cut": encoded.cut,
            "reason": encoded.reason,
        }


def reads_weights(column: Signal | EncodingFacts) -> bool:
    """Whether a column takes a model's weights, and not its tokenizer alone."""
    return isinstance(column, Signal) and not isinstance(column, TokenSignal)


WHOLE = "facts.dialogue"  # the facts of the whole dialogue under the target


def of_role(role: str) -> str:
    """How a column says whose pass it is from; the target's columns have no prefix."""
    return "" if role == "target" else f"{role}."


class Observations(Protocol):
    """The rows of a dataset with the columns of the signals, read block by block."""

    def columns(self, signal: "Signal") -> tuple[tuple[str, float], ...]:
        """The signal's columns with their weights, one per model of its role, in order.

        One model: the signal's own column, weight 1. Several (checkpoints): `<column>@0`, ...;
        weights add up to 1, by mean learning rate where the checkpoints tell it.
        """

    @property
    def rows(self) -> int:
        """Number of (unique) records."""

    def blocks(self) -> Iterator[pl.DataFrame]:
        """Frames with `id`, one column per signal, and the record columns asked for."""

    def frame(self) -> pl.DataFrame:
        """All blocks at once: only for what is small by nature (reference sets, scalars)."""

    def copies(self) -> pl.DataFrame:
        """`id` and record columns of every row, copies of a record included: for reference sets."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a recipe made.

    Attributes:
        references: model references, in order of training.
        weights: share of each in the sum of mean learning rates; they add up to 1.
        artifact: what it made that is no model in a role.
        notes: small-pool overrides, and what the training said.
    """

    references: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    artifact: Artifact | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Context:
    """What recipes are made from.

    Attributes:
        models: the store, and roles bound so far.
        pool: the rows to select from.
        reference: the target rows, if the method has any.
        passes: how models are run over records, here as in scoring.
        progress: told of the steps of a training run (done, in all, metrics).
        log: is given, in sentences, what a reader of the log should know.
        caps: what the run may take.
    """

    models: Models
    pool: Dataset
    reference: Dataset | None = None
    passes: Passes = field(default_factory=Passes)
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None
    log: Callable[[str], None] = lambda _: None
    caps: RunCaps = field(default_factory=RunCaps)

    def model(self, role: str) -> str:
        """The (last) model of a role."""
        self.models.files(role)  # a role without a model is refused here, in one sentence
        return self.models.roles[role][-1]

    def log_all(self, notes: Sequence[str]) -> None:
        for sentence in notes:
            self.log(sentence)

    def target_rows(self, who: str) -> pl.DataFrame:
        """The reference set, by content."""
        if self.reference is None:
            raise ValueError(f"{who} trains on the reference (target) set: pass --reference PATH.")
        return self.reference.frame(["id", *CONTENT[self.reference.kind]]).unique("id", keep="any")


class Recipe(ABC):
    """What must be made before a scorer can look: models that fill a role, an artifact, or both.

    A frozen dataclass. Resolved by `pipeline.prepare`; what it makes are entries of the store.

    Attributes:
        role: the model role that the result fills; "" if it makes an artifact alone.
        base: the role it is made from; if that is `role` itself, the result takes its place. "": no
            model takes part.
        artifact: name of the artifact that it makes; "" if it makes models alone.
        reads_weights: whether making it loads a model; False: it takes texts and tokenizers alone.
    """

    role: str = ""
    base: str = "target"
    artifact: ClassVar[str] = ""
    reads_weights: ClassVar[bool] = True

    @abstractmethod
    def make(self, context: Context) -> Prepared:
        """Make (or find) it."""

    def cost(self, rows: int, targets: int) -> float:
        """What making it takes, in forward passes of one sequence by the base; 0: next to nothing.

        Args:
            rows: of the pool.
            targets: rows of the reference set.
        """
        return 0.0

    def makes(self, rows: int, targets: int) -> int:
        """How many models it makes for its role.

        Args:
            rows: of the pool.
            targets: rows of the reference set.
        """
        return 1 if self.role else 0

    @property
    def trains(self) -> float:
        """Which share of the base's parameters it trains, for the memory that it takes."""
        return 0.0

    @property
    def share_of_base(self) -> float:
        """How large the model that it makes is, its base being 1."""
        return 1.0

    def made_already(self, bound: Sequence["ModelFiles"]) -> bool:
        """Whether models bound to `role` (also its `base`) are what it would make of others."""
        return False


@dataclass(frozen=True, kw_only=True)
class Scorer(ABC):
    """Observations in, one score per record out. Higher means keep.

    A null score means "could not be scored": it is never selected and carries a reason. Scores are
    float64, do not depend on row order, batching or sharding, and are pure: no clock, no I/O, every
    random draw keyed by (seed, purpose, id).
    """

    version: ClassVar[int] = 1
    scope: ClassVar[Scope] = "row"
    records: ClassVar[tuple[Kind, ...]] = ("example",)
    reference: ClassVar[Literal["required", "optional", "none"]] = "none"
    paper: ClassVar[str] = ""
    cost: ClassVar[str] = ""  # what a row costs to observe, in forward-equivalents (fe)
    multi_model: ClassVar[bool] = False  # reads several models in one role (checkpoints)
    reads_reference: ClassVar[bool] = False  # shows the reference records to the model
    greedy: ClassVar[bool] = False  # picks rows one by one, as many as the budget of the run names
    rule: ClassVar[str] = "top"  # the rule that a run uses unless the user names another
    rule_settings: ClassVar[Mapping[str, Any]] = {}
    given: Given = field(default_factory=Given, repr=False)  # handed over by the run: no setting

    def with_given(self, given: Given) -> Self:
        """The same scorer with what a run hands over."""
        return dataclasses.replace(self, given=given)

    @property
    @abstractmethod
    def signals(self) -> tuple[Signal, ...]:
        """What must be observed of the pool."""

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        """What must be observed of the reference set; by default the same."""
        return self.signals if self.reference != "none" else ()

    @property
    def facts(self) -> "tuple[EncodingFacts, ...]":
        """Encodings whose facts it reads; those that its signals show are there anyway."""
        return ()

    @property
    def record_columns(self) -> tuple[str, ...]:
        """Record columns that blocks must carry beside the signals: e.g. "meta", "source".

        "*content" represents the content columns of the dataset's kind.
        """
        return ()

    @property
    def accepts(self) -> tuple[Kind, ...]:
        """The kinds of record it can score; a combination accepts what all its parts do."""
        return self.records

    @property
    def parts(self) -> tuple["Scorer", ...]:
        """The scorers that this one is made of."""
        return ()

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """What to prepare first, in order."""
        return ()

    @abstractmethod
    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        """Score the rows of `pool`: columns `id`, `score` (float64), `score_<part>`..., `reason`.

        Scope "row": called once per shard. Scope "pool": called once, for all rows.
        """

    def details(self, pool: Observations) -> pl.DataFrame | None:
        """What the method can tell of the pool beside scores, as a table; most have nothing."""
        return None


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """Scores to an order of preference: pure, ties by id."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns beyond `id`, the scores and `cost` that the rule reads (e.g. "source")."""
        return ()

    by_target: ClassVar[bool] = False  # reads a score of each target of a reference set
    in_memory: ClassVar[str] = "it is not written for rows in blocks"  # why, if it is not streamed

    @property
    def measures(self) -> tuple[str, ...]:
        """Of what the rule reads, the columns whose values it compares; read by `streamed`."""
        return ()

    @property
    def groups(self) -> tuple[str, ...]:
        """Of what the rule reads, the columns that name groups; read by `streamed`."""
        return ()

    @property
    def named(self) -> Mapping[str, tuple[str, ...]]:
        """Column -> the values of it that the settings name; each must be some row's."""
        return {}

    @property
    def exclusion_reason(self) -> str:
        """The ledger's reason for a candidate that the order leaves out."""
        return "below_budget"

    def short(self, scores: pl.DataFrame, remaining: float) -> list[str]:
        """What the rows cannot give of what the settings ask for, a sentence each.

        Args:
            scores: as for `order`.
            remaining: as for `order`.
        """
        return []

    @abstractmethod
    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        """Columns `index` (row of `scores`) and `weight`, best first; rows left out are not taken.

        Args:
            scores: one row per candidate with a score; distinct ids. `cost` says how much of the
                budget a row takes: 1, or its tokens.
            remaining: how much `cost` may be taken in all, infinite without a budget. The budget
                cuts the order afterwards; rules with targets of their own need to know it before.
        """

    def streamed(self, rows: Blocks, remaining: float) -> Preference | None:
        """The same order over more rows than memory holds; None: the rule needs them `in_memory`.

        Args:
            rows: the candidates, best first.
            remaining: as for `order`.
        """
        return None


def columns_of(signal: Signal, weights: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """A signal's columns under so many models, with the models' weights."""
    if len(weights) == 1:
        return ((signal.column, 1.0),)
    return tuple((f"{signal.column}@{k}", w) for k, w in enumerate(weights))


def takes_the_place(bound: Collection[str], recipe: Recipe) -> bool:
    """Whether a model that the user bound stands where the recipe's would, which is not made."""
    return recipe.role in bound and recipe.role != recipe.base and not recipe.artifact


def asked_roles(scorer: Scorer, bound: Collection[str] = ()) -> tuple[str, ...]:
    """The roles that a user must bind: those read or built on that no recipe fills before.

    Args:
        scorer: the method.
        bound: roles that are bound already: what they make needless needs no base either.
    """
    asked: dict[str, None] = {}
    filled: set[str] = set()
    for recipe in scorer.recipes:
        if takes_the_place(bound, recipe):
            continue
        if recipe.base and recipe.base not in filled:
            asked[recipe.base] = None
        filled.add(recipe.role)
    read: list[Signal | EncodingFacts] = [*scorer.signals, *scorer.reference_signals]
    for signal in (*read, *scorer.facts):
        if signal.role not in filled:
            asked[signal.role] = None
    return tuple(asked)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Observations held in memory: the simple form, for tests, reference sets and small pools."""

    parts: tuple[pl.DataFrame, ...]
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # of a role's models

    @property
    def rows(self) -> int:
        return sum(p.height for p in self.parts)

    def columns(self, signal: Signal) -> tuple[tuple[str, float], ...]:
        return columns_of(signal, self.weights.get(signal.role, (1.0,)))

    def blocks(self) -> Iterator[pl.DataFrame]:
        return iter(self.parts)

    def frame(self) -> pl.DataFrame:
        return pl.concat(self.parts)

    def copies(self) -> pl.DataFrame:
        return self.frame()
