"""Signals that are read from per-example gradients.

| signal | column | value per row |
|---|---|---|
| `ProjectedGradient` | `gradient.<view>.<what>` | D floats |
| `GradientNorm` | `gradient_norm.<view>.<what>` | norm of the whole gradient |
| `GhostDot` | `gradient_dot.<view>.<what>` | exact inner products with a few given records |

They ask the pass for "backward"; `gradient_reader` runs it once for all signals that share layers,
loss and labels. A row without a gradient (no label, a loss that is no number) has null.
"""

# B = batch rows, T = tokens, D = features

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import (
    ID_BYTES,
    ModelShape,
    Need,
    PassSignal,
    View,
    of_role,
    settings_of,
)
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.models.forward import Batch, pad
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.signals.forward_signals import TokenMask, scored
from gristmill.pipeline.signals.views import Dialogue

if TYPE_CHECKING:
    from gristmill.pipeline.models.gradients.layout import Feature

Update = Literal["plain", "adam", "adam_eps_inside", "frozen_v", "adafactor"]
Projection = Literal["factored", "mask", "tensorsketch", "sjlt", "dense_jl"]
Outputs = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class Backward:
    """What a backward pass is of; signals with the same share one.

    Attributes:
        layers: "linear", "lora" or parts of layer names, comma-separated.
        loss: mean or sum over the row's label tokens.
        token_mask: which tokens are labels.
    """

    layers: str = "linear"
    loss: Literal["mean", "sum"] = "mean"
    token_mask: TokenMask = "answer"

    @property
    def name(self) -> str:
        return f"{self.layers}.{self.loss}.{self.token_mask}"


@dataclass(frozen=True, kw_only=True)
class GradientSignal(PassSignal):
    """A signal of per-example gradients; those with the same `of` share a backward pass.

    Attributes:
        view: how the record is shown to the model.
        of: layers, loss and labels.
    """

    view: View = field(default_factory=Dialogue)
    of: Backward = field(default_factory=Backward)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"backward"})

    def read(self, batch: Batch) -> Sequence[Any]:
        values: list[Any] = batch.outputs[self.column]
        return values

    def notes(self, files: ModelFiles) -> tuple[str, ...]:
        from gristmill.pipeline.models.gradients.share_read import share_read

        return (share_read(files, named_layers(self.of)),)

    @abstractmethod
    def feature(self, model: LoadedModel) -> "Feature":
        """What the gradient engine makes of a row."""


@dataclass(frozen=True, kw_only=True)
class ProjectedGradient(GradientSignal):
    """A row's gradient, projected to a few numbers, raw scale, float32.

    Attributes:
        projection: see `pipeline.models.gradients.projections`.
        k: factored: numbers kept on each side of a layer.
        size: numbers in all; None: a factored feature's layers stand side by side, uncapped.
        update: what is projected: the gradient itself, or the step that the checkpoint's optimizer
            would take on it ("adam...": needs "sjlt" or "dense_jl"), or its linear forms.
        seed: of the random matrices.
    """

    projection: Projection = "factored"
    k: int = 16
    size: int | None = 8_192
    update: Update = "plain"
    seed: int = 0

    def __post_init__(self) -> None:
        fitting = {"plain": self.projection, "adafactor": "factored"}.get(self.update)
        if self.projection not in ((fitting,) if fitting else ("sjlt", "dense_jl")):
            raise ValueError(
                f"the projection {self.projection!r} cannot carry the update {self.update!r}: use "
                + (f"{fitting!r}." if fitting else "'sjlt' or 'dense_jl', which form the gradient.")
            )
        if self.size is None and self.projection != "factored":
            raise ValueError(f"the projection {self.projection!r} needs a size, e.g. 8192.")

    @property
    def column(self) -> str:
        return f"gradient.{self.view.name}.{digest(settings_of(self))[:12]}"

    def dtype(self, model: LoadedModel) -> pl.DataType:
        width = self.size
        if width is None:
            from gristmill.pipeline.models.gradients.layers import linear_layers

            layers = linear_layers(model.model, named_layers(self.of))
            width = sum(min(self.k, x.inputs) * min(self.k, x.outputs) for x in layers)
        return pl.Array(pl.Float32, width)

    def row_bytes(self, shape: ModelShape, tokens: float) -> int:
        sides = [min(self.k, i) * min(self.k, o) for i, o in shape.matrices]
        return ID_BYTES + 4 * (self.size or sum(sides))

    def feature(self, model: LoadedModel) -> "Feature":
        """The engine's form of the setting."""
        from gristmill.pipeline.models.gradients import adam_state as moments
        from gristmill.pipeline.models.gradients import projections

        update: Any = None
        if self.update != "plain":
            from gristmill.pipeline.models.checkpoint import moments as saved

            state = saved(model.files.path)
            if self.update == "adafactor":
                update = moments.AdafactorScales(state=state)
            else:
                update = moments.AdamUpdate(state=state, form=self.update)
        seed, size = self.seed, self.size or 0
        if self.projection == "factored":
            factored = projections.Factored(k=self.k, seed=seed, scales=update)
            capped = projections.Capped(feature=factored, size=size, seed=seed)
            return factored if self.size is None else capped
        if self.projection == "mask":
            return projections.Masked(size=size, seed=seed)
        if self.projection == "tensorsketch":
            return projections.TensorSketch(size=size, seed=seed, shared=True)
        if self.projection == "sjlt":
            return projections.CountSketched(size=size, seed=seed, update=update)
        return projections.DenseJL(size=size, seed=seed, update=update)


@dataclass(frozen=True, kw_only=True)
class GradientNorm(GradientSignal):
    """Norm of a row's gradient over all chosen layers, without forming it."""

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}gradient_norm.{self.view.name}.{self.of.name}"

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Float64()

    def read(self, batch: Batch) -> Sequence[Any]:
        squares = batch.outputs[self.column]
        return [None if v is None else float(np.sqrt(v[0])) for v in squares]

    def feature(self, model: LoadedModel) -> "Feature":
        from gristmill.pipeline.models.gradients.inner_products import GhostNorm

        return GhostNorm()


@dataclass(frozen=True, kw_only=True)
class GhostDot(GradientSignal):
    """Exact inner products of a row's gradient with those of a few records, held in memory.

    The given records are shown to the model as the row is.

    Attributes:
        records: canonical JSON of the given records' content columns: their content is the setting.
    """

    records: tuple[str, ...]

    @property
    def column(self) -> str:
        return f"gradient_dot.{self.view.name}.{digest(settings_of(self))[:12]}"

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Array(pl.Float32, len(self.records))

    def row_bytes(self, shape: ModelShape, tokens: float) -> int:
        return ID_BYTES + 4 * len(self.records)

    def feature(self, model: LoadedModel) -> "Feature":
        """Pass the given records over the model once and hold what inner products need."""
        from gristmill.pipeline.models.gradients.engine import gradient_engine
        from gristmill.pipeline.models.gradients.inner_products import Capture
        from gristmill.pipeline.models.gradients.inner_products import GhostDot as Dots

        captured = Capture()
        layers, loss = named_layers(self.of), self.of.loss
        engine = gradient_engine(model.model, captured, layers=layers, loss=loss)
        for i, record in enumerate(self.records):
            encoded = self.view.encode(json.loads(record), model.chat)
            if encoded.reason is None:
                result = engine.run(*tensors([encoded], model.chat, self.of.token_mask))
            if encoded.reason is not None or result.reason_R[0] is not None:
                why = encoded.reason or result.reason_R[0]
                raise ValueError(f"record {i} of GhostDot has no gradient ({why}): leave it out.")
        return Dots(captured=captured)


def gradient_reader(
    model: LoadedModel, signals: Sequence[GradientSignal]
) -> Callable[[Sequence[Encoded]], Outputs]:
    """Prepare the backward passes that `signals` need; the result runs them on a batch.

    Matrices are drawn here, once. What the returned function gives belongs into `Batch.outputs`.
    """
    from gristmill.pipeline.models.gradients.engine import gradient_engine

    groups: dict[Backward, list[GradientSignal]] = {}
    for signal in signals:
        groups.setdefault(signal.of, []).append(signal)
    engines = {
        of: gradient_engine(
            model.model,
            *(s.feature(model) for s in members),
            layers=named_layers(of),
            loss=of.loss,
        )
        for of, members in groups.items()
    }

    def run(encoded: Sequence[Encoded]) -> Outputs:
        outputs: Outputs = {}
        for of, members in groups.items():
            result = engines[of].run(*tensors(encoded, model.chat, of.token_mask))
            for signal, feature_BD in zip(members, result.features, strict=True):
                values: npt.NDArray[np.float32] = feature_BD.float().cpu().numpy()
                outputs[signal.column] = [
                    None if reason else value
                    for value, reason in zip(values, result.reason_R, strict=True)
                ]
        return outputs

    return run


def named_layers(of: Backward) -> str | list[str]:
    """The layers of a backward pass as the engine takes them."""
    return of.layers if of.layers in ("linear", "lora") else of.layers.split(",")


def tensors(
    encoded: Sequence[Encoded], chat: ChatTokenizer, token_mask: TokenMask = "answer"
) -> tuple[Any, Any, Any]:
    """Ids, mask and labels of a batch, B x T, as the gradient engine takes them."""
    import torch

    ids_BT, mask_BT = pad(encoded, chat, "right")
    labels_BT = np.full_like(ids_BT, -100)
    for b, e in enumerate(encoded):
        label_T = scored(np.asarray(e.turn), token_mask)
        labels_BT[b, : len(e.ids)][label_T] = np.asarray(e.ids)[label_T]
    ids, mask, labels = (torch.from_numpy(x) for x in (ids_BT, mask_BT, labels_BT))
    return ids, mask, labels
