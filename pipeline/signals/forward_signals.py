"""The signals that more than one method reads. A signal of one method lives in that method's file.

| signal | column | value per row |
|---|---|---|
| `TokenLosses` | `losses.<view>.<token_mask>` | list of losses in nats, one per scored token |
| `MeanLoss` | `loss.<view>.<token_mask>` | their mean |
| `SequenceLogProb` | `logprob.<view>` | sum of log-probabilities of the answer |
| `MeanEntropy` | `entropy.<view>` | mean entropy over the answer, nats |
| `HiddenState` | `hidden.<view>.<pool>.<layer>` | one pooled hidden state, D floats |
| `SentenceEmbedding` | `embedding.<view>` | unit vector of the embedder |

Columns of a role other than the target begin with the role: `reference.logprob.<view>`.
"""

# B = batch rows, T = tokens, D = hidden size

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import (
    ID_BYTES,
    EncodingFacts,
    ModelShape,
    Need,
    PassSignal,
    View,
    of_role,
)
from gristmill.pipeline.models.forward import Batch
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.signals.views import Dialogue, PlainText

# all: every token but the first; answer: content and end marker of all assistant turns;
# content: without end markers; last: content of the last assistant turn.
TokenMask = Literal["all", "answer", "content", "last"]

DIALOGUE = EncodingFacts(view=Dialogue())  # of the whole dialogue under the target


def scored(
    turn_T: npt.NDArray[np.int64], token_mask: TokenMask, last: int | None = None
) -> npt.NDArray[np.bool_]:
    """Mask of the tokens that a loss is taken over; `last` is the number of the last turn."""
    if token_mask == "all":
        mask_T = np.ones(len(turn_T), dtype=bool)
    elif token_mask == "answer":
        mask_T = turn_T != 0
    elif token_mask == "content":
        mask_T = turn_T > 0
    else:
        mask_T = (turn_T > 0) & (
            turn_T == (np.abs(turn_T).max(initial=0) if last is None else last)
        )
    mask_T[:1] = False  # nothing predicts the first token
    return mask_T


@dataclass(frozen=True, kw_only=True)
class TokenLosses(PassSignal):
    """Loss of each scored token, in order, as a list."""

    view: View = field(default_factory=Dialogue)
    token_mask: TokenMask = "answer"

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}losses.{self.view.name}.{self.token_mask}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset[Need]({"all_losses" if self.token_mask == "all" else "losses"})

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.List(pl.Float32)

    def row_bytes(self, shape: ModelShape, tokens: float) -> int:
        return ID_BYTES + round(4 * tokens)

    def read(self, batch: Batch) -> Sequence[Any]:
        return [
            batch.losses(b)[scored(turn_T, self.token_mask, batch.encoded[b].last)].tolist()
            for b, turn_T in enumerate(batch.turns)
        ]


@dataclass(frozen=True, kw_only=True)
class MeanLoss(PassSignal):
    """Mean loss per scored token, summed in float64; null if no token is scored."""

    view: View = field(default_factory=Dialogue)
    token_mask: TokenMask = "answer"

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}loss.{self.view.name}.{self.token_mask}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset[Need]({"all_losses" if self.token_mask == "all" else "losses"})

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Float64()

    def read(self, batch: Batch) -> Sequence[Any]:
        return [
            _mean(batch.losses(b)[scored(turn_T, self.token_mask, batch.encoded[b].last)])
            for b, turn_T in enumerate(batch.turns)
        ]


@dataclass(frozen=True, kw_only=True)
class SequenceLogProb(PassSignal):
    """Log-probability of the whole answer (content and end markers), a sum in nats."""

    view: View = field(default_factory=Dialogue)

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}logprob.{self.view.name}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"losses"})

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Float64()

    def read(self, batch: Batch) -> Sequence[Any]:
        return [
            float(-batch.losses(b)[scored(turn_T, "answer")].astype(np.float64).sum())
            for b, turn_T in enumerate(batch.turns)
        ]


@dataclass(frozen=True, kw_only=True)
class MeanEntropy(PassSignal):
    """Mean entropy of the predictions of the answer's tokens, in nats."""

    view: View = field(default_factory=Dialogue)

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}entropy.{self.view.name}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"losses", "entropy"})

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Float64()

    def read(self, batch: Batch) -> Sequence[Any]:
        return [
            _mean(batch.entropies(b)[scored(turn_T, "answer")])
            for b, turn_T in enumerate(batch.turns)
        ]


@dataclass(frozen=True, kw_only=True)
class HiddenState(PassSignal):
    """A pooled hidden state: float32, D values, not normalised.

    Attributes:
        pool: "mean", "last" (last real token) or "position" (weight t / sum t, t = 1..T).
        layer: 0 = embeddings, -1 = last block after the final norm.
        token_mask: "all" real tokens or only the "answer" (content and end markers).
    """

    view: View = field(default_factory=Dialogue)
    pool: Literal["mean", "last", "position"] = "mean"
    layer: int = -1
    token_mask: Literal["all", "answer"] = "all"

    @property
    def column(self) -> str:
        over = "" if self.token_mask == "all" else ".answer"
        return f"{of_role(self.role)}hidden.{self.view.name}.{self.pool}{over}.{self.layer}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset[Need]({"last_hidden" if self.layer == -1 else "hidden"})

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Array(pl.Float32, model.hidden_size)

    def row_bytes(self, shape: ModelShape, tokens: float) -> int:
        return ID_BYTES + 4 * shape.hidden

    def read(self, batch: Batch) -> Sequence[Any]:
        import torch

        hidden_BTD = batch.hidden(self.layer)
        weight_BT = np.zeros(hidden_BTD.shape[:2], dtype=np.float32)
        for b, turn_T in enumerate(batch.turns):
            used_T = np.ones(len(turn_T), bool) if self.token_mask == "all" else turn_T != 0
            weight_BT[b, : len(turn_T)] = pool_weights(used_T, self.pool)
        weight = torch.from_numpy(weight_BT).to(hidden_BTD.device)
        pooled_BD = torch.einsum("bt,btd->bd", weight, hidden_BTD.float())
        return list(pooled_BD.cpu().numpy())


@dataclass(frozen=True, kw_only=True)
class SentenceEmbedding(PassSignal):
    """Unit-norm embedding of a record's text by the model in the role `embedder`."""

    role: str = "embedder"
    view: View = field(default_factory=PlainText)

    @property
    def column(self) -> str:
        return f"embedding.{self.view.name}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"embedding"})

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Array(pl.Float32, model.hidden_size)

    def row_bytes(self, shape: ModelShape, tokens: float) -> int:
        return ID_BYTES + 4 * shape.hidden

    def read(self, batch: Batch) -> Sequence[Any]:
        return list(batch.embedding())


def as_column(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """A column of arrays and nulls: polars takes arrays alone, or lists at 1 % of the speed."""
    if not isinstance(dtype, pl.Array):
        return pl.Series(name, values, dtype=dtype)
    blank = np.zeros(dtype.shape, dtype=np.float32)
    filled = pl.Series(name, [blank if v is None else v for v in values], dtype=dtype)
    there = pl.Series([v is not None for v in values], dtype=pl.Boolean)
    return pl.select(pl.when(there).then(filled).alias(name))[name]


def pool_weights(used_T: npt.NDArray[np.bool_], pool: str) -> npt.NDArray[np.float32]:
    """Weights over the used tokens that sum to 1; position weights count used tokens from 1."""
    weight_T = np.zeros(len(used_T), dtype=np.float64)
    at = np.flatnonzero(used_T)
    if pool == "mean":
        weight_T[at] = 1.0
    elif pool == "last":
        weight_T[at[-1:]] = 1.0
    else:
        weight_T[at] = np.arange(1, len(at) + 1)
    total = weight_T.sum()
    return (weight_T / total if total else weight_T).astype(np.float32)


def _mean(values: npt.NDArray[np.float32]) -> float | None:
    return float(values.astype(np.float64).mean()) if len(values) else None
