"""EK-FAC, fitted once on rows of the pool, reused by targets: in projected space, or whole.

`Curvature` fits it and lays it beside the model; `PreconditionedGradient` reads a target row's
projected gradient Z and solves (H + d)^-1 Z layer by layer. Its inner product with a pool row's
plain feature is the influence, exact in that space; with a `size`, both sides are sketched by the
same matrix, and the product is unbiased. `PreconditionedDot` is the same without a projection: the
inner products themselves, with the solved gradients of given records held in memory.
"""

# B = batch rows, T = tokens, D = features, W = width of all layers side by side

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import (
    ID_BYTES,
    Artifact,
    Context,
    ModelShape,
    ModelSignal,
    Prepared,
    Recipe,
    View,
    of_role,
    settings_of,
)
from gristmill.pipeline.models.chat_tokenizer import Encoded
from gristmill.pipeline.models.forward import batches
from gristmill.pipeline.models.gradients.fisher import Damping, Doubles
from gristmill.pipeline.models.load import LoadedModel, effective_limit, pick_device, pick_dtype
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.prepare.prepare import artifact_of, count_read, draw
from gristmill.pipeline.records.dataset import unique_ids
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Part, Step
from gristmill.pipeline.signals.gradient_signals import (
    Backward,
    ProjectedGradient,
    gradient_reader,
    named_layers,
    tensors,
)
from gristmill.pipeline.signals.views import Dialogue

if TYPE_CHECKING:
    from gristmill.pipeline.models.gradients.kfac import Kronecker

FILE = "ekfac.safetensors"


@dataclass(frozen=True, kw_only=True)
class Curvature(Recipe):
    """EK-FAC of the model on rows drawn from the pool, labels drawn from the model itself.

    It makes the artifact "curvature".

    Attributes:
        base: the role whose (last) model it is.
        of: layers, loss and labels.
        k: numbers kept on each side of a layer; None = whole layers.
        seed: of the projection, the rows and the labels.
        probes: rows, at most; which ones depends on (seed, id) alone.
    """

    artifact: ClassVar[str] = "curvature"
    base: str = "target"
    of: Backward = field(default_factory=Backward)
    k: int | None = 16
    seed: int = 0
    probes: int = 1_024

    def cost(self, rows: int, targets: int) -> float:
        return 4.0 * min(self.probes, rows)  # a forward and a backward, twice

    def make(self, context: Context) -> Prepared:
        if self.probes < 1:
            raise ValueError(f"probes is at least 1; found {self.probes}.")
        files = context.models.files(self.base)[-1]
        rows = min(self.probes, len(unique_ids(context.pool)))
        frame = draw(context.pool, rows, self.seed, "curvature")
        passes = context.passes
        step = Step(
            name="curvature",
            version=2,
            settings={
                **settings_of(replace(self, base="", probes=rows)),
                "dtype": pick_dtype(passes.dtype, pick_device(passes.device)),
                "limit": effective_limit(files, passes.max_length),
                "overlong": passes.overlong,
            },
            inputs={"model": files.fingerprint, "rows": digest(frame["id"].to_list())},
        )

        def write(folder: Path) -> None:
            model = context.models.load(files, passes)
            folder.mkdir()
            fit(self, model, frame, passes.batch_tokens).save(folder / FILE)
            count_read(context, files, frame, 2)

        entry = context.models.store.run(step, [Part(name=self.artifact, write=write)])
        return Prepared(artifact=artifact_of(entry, self.artifact))


def fit(
    settings: Curvature, model: LoadedModel, frame: pl.DataFrame, batch_tokens: int = 4_096
) -> "Kronecker":
    """EK-FAC of the rows of `frame` (`id` and content columns) that the model can be shown."""
    from gristmill.pipeline.models.gradients.engine import FisherLabels, gradient_engine
    from gristmill.pipeline.models.gradients.kfac import fit_kronecker
    from gristmill.pipeline.models.gradients.layout import Feature
    from gristmill.pipeline.models.gradients.projections import Factored

    shown = Dialogue()
    encoded = [shown.encode(row, model.chat) for row in frame.iter_rows(named=True)]
    fit_rows = [(i, e) for i, e in zip(frame["id"], encoded, strict=True) if e.reason is None]
    lengths = [len(e.ids) for _, e in fit_rows]
    layers = named_layers(settings.of)

    def run(feature: Feature) -> int:
        engine = gradient_engine(model.model, feature, layers=layers, loss=settings.of.loss)
        counted = 0
        for rows in batches(lengths, batch_tokens):
            ids = [fit_rows[r][0] for r in rows]
            part = [fit_rows[r][1] for r in rows]
            fisher = FisherLabels(seed=settings.seed, ids=ids)
            result = engine.run(*tensors(part, model.chat, settings.of.token_mask), fisher=fisher)
            counted += sum(reason is None for reason in result.reason_R)
        return counted

    if settings.k is None:
        return fit_kronecker(run)
    return fit_kronecker(run, Factored(k=settings.k, seed=settings.seed))


@dataclass(frozen=True, kw_only=True)
class PreconditionedGradient(ModelSignal):
    """A row's projected gradient, solved with the curvature of the model, D floats.

    Attributes:
        plain: the feature that the pool is read with; its projection is "factored".
        curvature: what `Curvature` made; None before it is made.
        damping: a factor of the layer's mean eigenvalue.
    """

    view: View = field(default_factory=Dialogue)
    plain: ProjectedGradient
    curvature: Artifact | None = None
    damping: float = 0.1

    @property
    def column(self) -> str:
        name = digest(settings_of(self))[:12]
        return f"{of_role(self.role)}preconditioned.{self.view.name}.{name}"

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return self.plain.dtype(model)

    def cost(self, tokens: float) -> float:
        return self.plain.cost(tokens)

    def row_bytes(self, shape: ModelShape, tokens: float) -> int:
        return self.plain.row_bytes(shape, tokens)

    def open(self, model: LoadedModel) -> Callable[[Sequence[Encoded]], list[Any]]:
        fitted = _fitted(self.curvature)
        whole = replace(self.plain, size=None)
        read = gradient_reader(model, [whole])
        sketch, damping = _sketch(self.plain, fitted), Damping(value=self.damping)

        def run(encoded: Sequence[Encoded]) -> list[Any]:
            return [
                None if z_W is None else sketch(fitted.solve_rows(z_W[None], damping))
                for z_W in read(encoded)[whole.column]
            ]

        return run


@dataclass(frozen=True, kw_only=True)
class PreconditionedDot(ModelSignal):
    """Inner products of a row's whole gradient with the solved gradients of given records.

    In units of what the records score on themselves, on average; NaN for a record that has no
    gradient. Memory: as many times the weights as there are records, and a pass costs two forwards
    and one more for each record.

    Attributes:
        curvature: what `Curvature` made with k=None; None before it is made.
        of: layers, loss and labels.
        records: canonical JSON of the records' content columns.
        damping: a factor of the layer's mean eigenvalue.
    """

    version: ClassVar[int] = 2
    view: View = field(default_factory=Dialogue)
    curvature: Artifact | None = None
    of: Backward = field(default_factory=Backward)
    records: tuple[str, ...] = ()
    damping: float = 0.1

    @property
    def column(self) -> str:
        name = digest(settings_of(self))[:12]
        return f"{of_role(self.role)}preconditioned_dot.{self.view.name}.{name}"

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Array(pl.Float32, len(self.records))

    def notes(self, files: ModelFiles) -> tuple[str, ...]:
        from gristmill.pipeline.models.gradients.share_read import share_read

        return (share_read(files, named_layers(self.of)),)

    def cost(self, tokens: float) -> float:
        return 2.0 + len(self.records)

    def row_bytes(self, shape: ModelShape, tokens: float) -> int:
        return ID_BYTES + 4 * len(self.records)

    def open(self, model: LoadedModel) -> Callable[[Sequence[Encoded]], list[Any]]:
        import torch

        from gristmill.pipeline.models.gradients.engine import gradient_engine
        from gristmill.pipeline.models.gradients.inner_products import ExactInner
        from gristmill.pipeline.models.gradients.projections import Full

        layers, loss = named_layers(self.of), self.of.loss
        engine = gradient_engine(model.model, Full(), layers=layers, loss=loss)
        rows, fine = [], np.zeros(len(self.records), dtype=bool)
        for i, record in enumerate(self.records):
            encoded = self.view.encode(json.loads(record), model.chat)
            if encoded.reason is not None:
                continue
            result = engine.run(*tensors([encoded], model.chat, self.of.token_mask))
            if result.reason_R[0] is None:
                rows.append(result.features[0][0])
                fine[i] = True
        if not rows:
            raise ValueError(
                f"none of the {len(self.records)} target rows has a gradient: give rows whose "
                "answers the model can read within its context."
            )
        widths = [x.inputs * x.outputs for x in engine.layers]
        plain = {
            x.name: part.reshape(-1, x.outputs, x.inputs)
            for x, part in zip(
                engine.layers, torch.split(torch.stack(rows), widths, 1), strict=True
            )
        }
        solved = _fitted(self.curvature).solve(plain, Damping(value=self.damping))
        own = sum(float((plain[n].double() * solved[n].double()).sum()) for n in plain)
        if not own > 0:
            raise ValueError(
                "the target gradients are zero under the curvature: give target rows that the "
                "model does not answer with certainty."
            )
        targets = {n: s * (len(rows) / own) for n, s in solved.items()}
        inner = gradient_engine(model.model, ExactInner(targets=targets), layers=layers, loss=loss)

        def run(encoded: Sequence[Encoded]) -> list[Any]:
            result = inner.run(*tensors(encoded, model.chat, self.of.token_mask))
            dots_BJ = np.full((len(encoded), len(fine)), np.nan, dtype=np.float32)
            dots_BJ[:, fine] = result.features[0].float().cpu().numpy()
            return [
                None if reason else dots_J
                for dots_J, reason in zip(dots_BJ, result.reason_R, strict=True)
            ]

        return run


def _fitted(curvature: Artifact | None) -> "Kronecker":
    from gristmill.pipeline.models.gradients.kfac import Kronecker

    if curvature is None:
        raise ValueError(
            "the curvature is not there: let `score` run the method's recipes, or make the recipe "
            "Curvature."
        )
    return Kronecker.load(curvature.path / FILE)


def _sketch(
    plain: ProjectedGradient, fitted: "Kronecker"
) -> Callable[[Doubles], npt.NDArray[np.float32]]:
    """What `plain` does to a row of all layers side by side: nothing, or the sketch of its size."""
    import torch

    from gristmill.pipeline.models.gradients.random_bits import CountSketch

    size = plain.size
    if size is None:
        return lambda x_1W: x_1W[0].astype(np.float32)
    widths = {name: values.size for name, values in fitted.spectrum.items()}
    cpu = torch.device("cpu")
    sketches = [
        CountSketch.draw(width, size, plain.seed, "capped", name, device=cpu)
        for name, width in widths.items()
    ]

    def sketch(x_1W: Doubles) -> npt.NDArray[np.float32]:
        parts = torch.split(torch.from_numpy(x_1W), list(widths.values()), dim=1)
        total_1D = torch.stack([s(part) for s, part in zip(sketches, parts, strict=True)]).sum(0)
        found_D: npt.NDArray[np.float32] = total_1D[0].float().numpy()
        return found_D

    return sketch


@dataclass(frozen=True, kw_only=True)
class LayerWidths(ModelSignal):
    """How many numbers each layer has in a feature and in its weight: the same list for every row.

    It asks the model's shapes alone, so that scorers can tell the layers of stored features apart.
    """

    version: ClassVar[int] = 2
    view: View = field(default_factory=Dialogue)
    of: Backward = field(default_factory=Backward)
    k: int = 16

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}layer_widths.{self.view.name}.{self.of.layers}.{self.k}"

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.List(pl.Struct({"kept": pl.Int64, "whole": pl.Int64}))

    def cost(self, tokens: float) -> float:
        return 0.0

    def open(self, model: LoadedModel) -> Callable[[Sequence[Encoded]], list[Any]]:
        from gristmill.pipeline.models.gradients.layers import linear_layers

        layers = linear_layers(model.model, named_layers(self.of))
        widths = [
            {
                "kept": min(self.k, x.inputs) * min(self.k, x.outputs),
                "whole": x.inputs * x.outputs,
            }
            for x in layers
        ]
        return lambda encoded: [widths for _ in encoded]
