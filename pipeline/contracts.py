"""The few abstract classes. All else in Gristmill is a final, frozen dataclass or a function.

A **View** shows a record to a model. A **Signal** says what one pass of one model sees of it. A
**Scorer** is short mathematics over signals. A **Rule** turns scores into an order. A **Recipe**
makes a model that a scorer needs before it can look. The settings of each are its dataclass
fields; the object is the configuration.
"""

# B = batch rows, T = tokens, D = hidden size, V = vocabulary, L = layers, K = labelled tokens

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import polars as pl

from gristmill.pipeline.schema import Kind

if TYPE_CHECKING:
    from gristmill.pipeline.models.encoding import ChatTokenizer, Encoded
    from gristmill.pipeline.models.forward import Batch
    from gristmill.pipeline.models.load import LoadedModel
    from gristmill.pipeline.prepare import Context, Prepared

Scope = Literal["row", "pool"]
ROLES = (
    "target",
    "reference",
    "history",
    "proxy",
    "teacher",
    "student",
    "weak",
    "validation",
    "embedder",
    "judge",
    "reward",
)


def settings_of(thing: object) -> dict[str, Any]:
    """Class name and fields of a frozen dataclass as JSON-able values: what enters a step's key."""
    assert dataclasses.is_dataclass(thing), f"{thing!r} is no dataclass"
    fields = {f.name: _plain(vars(thing)[f.name]) for f in dataclasses.fields(thing)}
    return {"class": type(thing).__name__, **fields}


def _plain(value: object) -> Any:  # noqa: ANN401  (JSON)
    if dataclasses.is_dataclass(value):
        return settings_of(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    assert value is None or isinstance(value, (str, int, float, bool)), f"{value!r} is no setting"
    return value


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


@dataclass(frozen=True, kw_only=True)
class Signal(ABC):
    """What one pass of one model says of one record; bounded size; a stable column name.

    Attributes:
        role: the model role that is asked ("target", "embedder", ...).
        shown: how a record is shown to the model.
    """

    version: ClassVar[int] = 1  # raise when the numbers change
    role: str = "target"
    shown: View

    @property
    @abstractmethod
    def column(self) -> str:
        """Name of the observation's column; equal for equal settings, short, unique."""

    @abstractmethod
    def dtype(self, model: "LoadedModel | None") -> pl.DataType:
        """Polars type of the column (arrays take their size from the model; None = facts only)."""

    @abstractmethod
    def read(self, batch: "Batch") -> Sequence[Any]:
        """Take this signal's part of a finished pass: one value per row of the batch, or None."""

    @property
    def needs(self) -> frozenset[str]:
        """What the pass must provide beyond the encoding.

        Any of "losses" (of answer tokens), "all_losses", "entropy", "hidden" (all
        layers), "last_hidden", "embedding", "backward", "own" (the signal runs the model by
        itself: see `open`). Empty: the tokenizer is enough and no weights are loaded.
        """
        return frozenset()

    def open(self, model: "LoadedModel") -> "Callable[[Sequence[Encoded]], list[Any]]":
        """For a signal that needs "own": make ready what all batches share.

        The result is called with the rows of each batch and gives one value per row; `read` finds
        them in `batch.outputs[self.column]`.
        """
        raise AssertionError(f"{type(self).__name__} does not run the model by itself")


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


class Recipe(Protocol):
    """A model that must be made before a scorer can look: warm-up, proxy, contrast classifier.

    A frozen dataclass. Resolved by `pipeline.prepare`; what it makes are entries of the store.
    """

    @property
    def role(self) -> str:
        """The model role that the result fills."""

    @property
    def base(self) -> str:
        """The role it is made from; if that is `role` itself, the result takes its place."""

    def make(self, context: "Context") -> "Prepared":
        """Make (or find) the models."""


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
    several: ClassVar[bool] = False  # reads several models in one role (checkpoints)
    reads_reference: ClassVar[bool] = False  # shows the reference records to the model: see `bound`

    @property
    @abstractmethod
    def signals(self) -> tuple[Signal, ...]:
        """What must be observed of the pool."""

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        """What must be observed of the reference set; by default the same."""
        return self.signals if self.reference != "none" else ()

    @property
    def record_columns(self) -> tuple[str, ...]:
        """Record columns that blocks must carry beside the signals: e.g. "meta", "source".

        "*content" stands for the content columns of the dataset's kind.
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
        """Models to prepare first."""
        return ()

    def bound(self, records: tuple[str, ...]) -> "Scorer":
        """The scorer that goes on, once the reference set is known; asked if `reads_reference`.

        A method whose signals show reference records beside each row of the pool puts them into a
        field here: their content is a setting, and enters every key.

        Args:
            records: canonical JSON of the content columns, one per unique record, in order of id.
        """
        return self

    def prepared(self, made: "Mapping[str, Prepared]") -> "Scorer":
        """The scorer that goes on, once its recipes have run; `made` holds what they made, by role.

        A method whose signals depend on what was made (a classifier's weights) puts it into a
        field here, so that it enters every key.
        """
        return self

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

    @property
    def left_out(self) -> str:
        """The ledger's reason for a candidate that the order leaves out."""
        return "below_budget"

    @abstractmethod
    def order(self, scores: pl.DataFrame, room: float) -> pl.DataFrame:
        """Columns `index` (row of `scores`) and `weight`, best first; rows left out are not taken.

        Args:
            scores: one row per candidate with a score; distinct ids. `cost` says how much of the
                budget a row takes: 1, or its tokens.
            room: how much `cost` may be taken in all, infinite without a budget. The budget cuts
                the order afterwards; rules with targets of their own need to know it before.
        """


def columns_of(signal: Signal, weights: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """A signal's columns under so many models, with the models' weights."""
    if len(weights) == 1:
        return ((signal.column, 1.0),)
    return tuple((f"{signal.column}@{k}", w) for k, w in enumerate(weights))


def asked_roles(scorer: Scorer) -> tuple[str, ...]:
    """The roles that a user must bind: those read or built on that no recipe fills before."""
    asked: dict[str, None] = {}
    filled: set[str] = set()
    for recipe in scorer.recipes:
        if recipe.base not in filled:
            asked[recipe.base] = None
        filled.add(recipe.role)
    for signal in (*scorer.signals, *scorer.reference_signals):
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
