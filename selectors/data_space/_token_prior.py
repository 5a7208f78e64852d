"""Token priors: how often each token stands in the pool, and what that says of a row."""

# N = rows, T = tokens of a row, V = vocabulary

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import (
    ID_BYTES,
    Artifact,
    Context,
    ModelShape,
    Prepared,
    Recipe,
    TokenSignal,
    View,
    of_role,
)
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.records.dataset import unique_ids
from gristmill.pipeline.records.schema import Kind, uniform
from gristmill.pipeline.records.store import Step
from gristmill.pipeline.signals.views import Dialogue, PlainText
from gristmill.selectors.data_space import Rows, counted, summed

VERSION = 1
LEAST = 20_000  # rows that are counted, if the pool has them
Weight = Literal["tf", "tfdf"]
Ints = npt.NDArray[np.int64]


def bare(kind: Kind) -> View:
    """The view whose content is a record's bare text; of a document, the one that all share."""
    return Dialogue() if kind == "document" else PlainText()


def content_ids(encoded: Sequence[Encoded], chat: ChatTokenizer) -> Iterator[Ints]:
    """Per row, its token ids without those that a template or the tokenizer adds."""
    added = np.array(sorted(chat.markers.ids - {chat.tokenizer.unk_token_id}), dtype=np.int64)
    for one in encoded:
        ids_T = np.asarray(one.ids, dtype=np.int64)[np.asarray(one.turn) != 0]
        if len(added) and len(ids_T):
            at = np.searchsorted(added, ids_T).clip(max=len(added) - 1)
            ids_T = ids_T[added[at] != ids_T]
        yield ids_T


def blocks_of(ids_T: Ints, block: int) -> list[Ints]:
    """A row in even pieces of about `block` tokens, each sorted; 0: whole."""
    pieces = max(1, round(len(ids_T) / block)) if block else 1
    return [np.sort(piece) for piece in np.array_split(ids_T, pieces)]


@dataclass(frozen=True, kw_only=True)
class TokenPrior(Recipe):
    """Count the tokens of a share of the pool, shard by shard.

    It makes the artifact "token_prior": `token`, `tf` (its number), `df` (rows that hold it, or
    blocks of rows).

    Attributes:
        base: the role whose tokenizer reads.
        block: tokens of a block; 0: rows are whole.
        share: of the rows that are counted, drawn by id; at least 20,000, if the pool has them.
        seed: of the draw.
    """

    artifact: ClassVar[str] = "token_prior"
    reads_weights: ClassVar[bool] = False
    share: float = 0.01
    seed: int = 0
    block: int = 0

    def make(self, context: Context) -> Prepared:
        models, pool = context.models, context.pool
        (files,) = models.files(self.base)
        chat, view = context.passes.chat(files), bare(pool.kind)
        rows = len(unique_ids(pool))
        share = min(1.0, max(self.share, LEAST / max(1, rows)))
        notes = []
        if share > self.share:
            wanted = f"{self.share:.2%} would be {round(self.share * rows):,}"
            notes.append(f"token priors of {round(share * rows):,} of {rows:,} rows: {wanted}.")
            context.log_all(notes)
        entries = counted(
            models.store,
            pool,
            Step(
                name="token-counts",
                version=VERSION,
                settings={
                    "view": [view.version, view.name],
                    "limit": chat.limit,
                    "overlong": chat.overlong,
                    **({"block": self.block} if self.block else {}),
                },
                inputs={"tokenizer": files.tokenizer_sha},
            ),
            lambda some: _counts(some, view, chat, self.block),
            lambda ids: self._drawn(ids, share),
        )
        if not entries:
            raise ValueError("the pool has no rows: token priors are counted over its rows.")
        made = summed(models.store, self.artifact, VERSION, entries, "token")
        return Prepared(artifact=made, notes=tuple(notes))

    def _drawn(self, ids: pl.Series, share: float) -> pl.Series:
        if share >= 1:
            return ids
        return ids.filter(pl.Series([uniform(self.seed, "token prior", i) < share for i in ids]))


def _counts(some: Iterator[Rows], view: View, chat: ChatTokenizer, block: int) -> pl.DataFrame:
    number_V = np.zeros((2, 0), dtype=np.int64)  # tf and df
    for rows in some:
        rows_ids = content_ids(view.encode_tokens(rows, chat), chat)
        ids = [piece for ids_T in rows_ids for piece in blocks_of(ids_T, block)]
        own = [np.concatenate(ids), np.concatenate([np.unique(i) for i in ids])]
        size = max(number_V.shape[1], int(own[0].max(initial=-1)) + 1)
        added = np.stack([np.bincount(which, minlength=size) for which in own])
        added[:, : number_V.shape[1]] += number_V
        number_V = added
    there = np.flatnonzero(number_V[0])
    return pl.DataFrame({"token": there, "tf": number_V[0, there], "df": number_V[1, there]})


@dataclass(frozen=True, kw_only=True)
class PriorMoments(TokenSignal):
    """Mean of the log of a row's token priors, and the standard deviation of the priors.

    Tokens that were not counted have the prior 1 / total. Of one token there is no deviation. In
    blocks, a list of both, one of each block.

    Attributes:
        prior: the counts; None before they are made.
        weight: a token's prior in proportion to its count "tf", or to "tfdf", count times rows.
        block: tokens of a block; 0: rows are whole.
    """

    view: View = field(default_factory=PlainText)
    prior: Artifact | None = None
    weight: Weight = "tf"
    block: int = 0

    @property
    def column(self) -> str:
        of = "" if self.prior is None else f".{self.prior.content[:12]}"
        by = f".by{self.block}" if self.block else ""
        return f"{of_role(self.role)}prior.{self.weight}{by}{of}"

    def of_kind(self, kind: Kind) -> Self:
        return replace(self, view=bare(kind))

    def dtype(self, model: LoadedModel | None = None) -> pl.DataType:
        moments = pl.Struct({"mean": pl.Float32, "std": pl.Float32})
        return pl.List(moments) if self.block else moments

    def row_bytes(self, shape: ModelShape, tokens: float) -> int:
        return ID_BYTES + 8 * (max(1, round(tokens / self.block)) if self.block else 1)

    def read(self, encoded: Sequence[Encoded], chat: ChatTokenizer) -> Sequence[Any]:
        assert self.prior is not None, "tokens are counted before rows are read"
        table = _priors(self.prior.path, self.weight)
        found: list[Any] = []
        for ids_T in content_ids(encoded, chat):
            moments = [_moments(piece, *table) for piece in blocks_of(ids_T, self.block)]
            found.append(moments if self.block and len(ids_T) else moments[0])
        return found


@lru_cache(maxsize=4)
def _priors(path: Path, weight: Weight) -> tuple[npt.NDArray[np.float64], float]:
    """The prior of each token by id, and of those that were not counted."""
    counts = pl.read_parquet(path)
    mass = pl.col("tf") if weight == "tf" else pl.col("tf") * pl.col("df")
    mass_V = counts.select(mass.cast(pl.Float64)).to_series().to_numpy()
    total = max(1.0, float(mass_V.sum()))
    token_V = counts["token"].to_numpy()
    prior_V = np.full(int(token_V.max(initial=-1)) + 1, 1 / total)
    prior_V[token_V] = mass_V / total
    return prior_V, 1 / total


def _moments(
    ids_T: Ints, prior_V: npt.NDArray[np.float64], unseen: float
) -> dict[str, float | None] | None:
    """By sorted ids, so that a row's order of tokens cannot change a bit."""
    if not len(ids_T):
        return None
    known = np.searchsorted(ids_T, len(prior_V))
    p_T = np.full(len(ids_T), unseen)
    p_T[:known] = prior_V[ids_T[:known]]
    # deviations from the first one: of equal priors they are exactly 0
    std = float(np.std(p_T - p_T[0], ddof=1)) if len(p_T) > 1 else None
    return {"mean": float(np.log(p_T).mean()), "std": std}
