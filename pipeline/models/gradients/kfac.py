"""EK-FAC: curvature by layer from inputs and output gradients, corrected in its own eigenbasis.

`A = E[a a^T] = Q_A . Q_A^T` and `S = E[g g^T] = Q_S . Q_S^T`, `L = E[(Q_S^T G Q_A)^2]`; then
`(H + d)^-1 G = Q_S [(Q_S^T G Q_A) / (L + d)] Q_A^T`. Fitted once on probes, kept as a file, applied
to target gradients, whose inner products with the pool's are the scores.
"""

# N = rows, W = width of a feature, K = target gradients, I, O = layer inputs, outputs (or their
# projected sizes)

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gristmill.pipeline.models.gradients.fisher import (
    Damping,
    Doubles,
    Floats,
    facts,
    load_arrays,
    split_layers,
)
from gristmill.pipeline.models.gradients.layers import Layer
from gristmill.pipeline.models.gradients.layout import Feature, Layout, Sketch, explicit, whole
from gristmill.pipeline.models.gradients.projections import Factored

Run = Callable[[Feature], int]  # passes a feature over the probes, returns the rows that counted


@dataclass(frozen=True, kw_only=True)
class Covariances:
    """Adds `a a^T` and `g g^T` over all tokens that pass by, by layer name. Adds no feature.

    Attributes:
        projection: whose matrices are put before them; None for whole gradients.
        inputs: sums of a a^T.
        outputs: sums of g g^T.
        seen: layers that some token passed.
    """

    projection: Factored | None = None
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def __call__(self, layer: Layer) -> Sketch:
        inner, outer = _sides(self.projection, layer)
        input_II = _sum(self.inputs, layer, inner, layer.inputs)
        output_OO = _sum(self.outputs, layer, outer, layer.outputs)

        def meet(a_BTI: Tensor, g_BTO: Tensor, layout: Layout) -> Tensor:
            self.seen.add(layer.name)
            for total, x in ((input_II, _times(a_BTI, inner)), (output_OO, _times(g_BTO, outer))):
                x_ND = layout.spread(x).flatten(0, 1)
                total += x_ND.T @ x_ND
            return g_BTO.new_zeros(layout.rows, 0)

        return Sketch(width=0, keep=whole, meet=meet)


@dataclass(frozen=True, kw_only=True)
class RotatedSquares:
    """Adds the squared entries of each row's `Q_S^T G Q_A`, by layer name. Adds no feature."""

    bases: Mapping[str, tuple[Doubles, Doubles]]  # Q_A, Q_S
    projection: Factored | None = None
    squares: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, layer: Layer) -> Sketch:
        inner, outer = (
            basis.to(layer.device, layer.dtype) if side is None else side @ basis.to(side)
            for side, basis in zip(
                _sides(self.projection, layer),
                map(torch.from_numpy, self.bases[layer.name]),
                strict=True,
            )
        )
        shape = (outer.shape[1], inner.shape[1])
        total_OI = self.squares.setdefault(layer.name, _zeros(layer, *shape))

        def keep(a_BTI: Tensor, layout: Layout) -> Tensor:
            return a_BTI @ inner

        def read(g_ROI: Tensor) -> Tensor:
            total_OI.add_(g_ROI.square_().sum(0))
            return g_ROI.new_zeros(len(g_ROI), 0)

        rows = explicit(read, layer, 0)

        def meet(inner_BTI: Tensor, g_BTO: Tensor, layout: Layout) -> Tensor:
            return rows.meet(inner_BTI, g_BTO @ outer, layout)

        # squares of a sum over calls are not the sum of squares
        return Sketch(width=0, keep=keep, meet=meet, linear=False)


def _sides(projection: Factored | None, layer: Layer) -> tuple[Tensor | None, Tensor | None]:
    if projection is None:
        return None, None
    inner, outer = (s.to(layer.device, layer.dtype) for s in projection.matrices(layer))
    return inner, outer


def _times(x: Tensor, matrix: Tensor | None) -> Tensor:
    return x if matrix is None else x @ matrix


def _sum(sums: dict[str, Tensor], layer: Layer, side: Tensor | None, size: int) -> Tensor:
    size = size if side is None else side.shape[1]
    return sums.setdefault(layer.name, _zeros(layer, size, size))


def _zeros(layer: Layer, *shape: int) -> Tensor:
    """A sum over very many tokens: in float64 where the device has it."""
    dtype = torch.float32 if layer.device.type == "mps" else torch.float64
    return torch.zeros(shape, dtype=dtype, device=layer.device)


@dataclass(frozen=True, kw_only=True)
class Kronecker:
    """Eigenvalue-corrected Kronecker-factored curvature (EK-FAC), by layer.

    Attributes:
        bases: eigenvectors of E[a a^T] and of E[g g^T].
        spectrum: E[(Q_S^T G Q_A)^2], O x I: the corrected eigenvalues; infinite, so that its
            gradients count for nothing, for an expert that no probe asked.
        rows: probes it was fitted on.
    """

    bases: Mapping[str, tuple[Doubles, Doubles]]
    spectrum: Mapping[str, Doubles]
    rows: int

    def solve(
        self, gradients: Mapping[str, Tensor], damping: Damping | None = None
    ) -> dict[str, Tensor]:
        """Precondition gradients, each ... x O x I: what `ExactInner` takes as targets."""
        return {
            name: torch.from_numpy(self._solve(name, g.double().cpu().numpy(), damping)).to(g)
            for name, g in gradients.items()
        }

    def solve_rows(self, features_NW: Floats, damping: Damping | None = None) -> Doubles:
        """Precondition rows of factored features (made with the same projection)."""
        shapes = {name: values.shape for name, values in self.spectrum.items()}
        parts = split_layers(features_NW, [o * i for o, i in shapes.values()])
        solved = [
            self._solve(name, part.reshape(-1, *shape), damping).reshape(len(part), -1)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        ]
        return np.concatenate(solved, axis=1)

    def _solve(self, name: str, g_KOI: Doubles, damping: Damping | None) -> Doubles:
        inner, outer = self.bases[name]
        spectrum = self.spectrum[name]
        damped = spectrum + (damping or Damping()).of(spectrum)
        if not bool((damped > 0).all()):
            untrained = "lora_A" in name and not spectrum.any()
            cause = "its adapter is untrained, B is 0 and A has no gradient: train it first"
            raise ValueError(
                f"the curvature of layer {name} has directions without any, seen from {self.rows} "
                f"probes: {cause if untrained else 'use damping above 0 or more probes'}."
            )
        solved: Doubles = outer @ ((outer.T @ g_KOI @ inner) / damped) @ inner.T
        return solved

    def save(self, path: Path) -> Path:
        """Write as safetensors."""
        from safetensors.numpy import save_file

        arrays = {f"inner/{n}": inner for n, (inner, _) in self.bases.items()}
        arrays |= {f"outer/{n}": outer for n, (_, outer) in self.bases.items()}
        arrays |= {f"spectrum/{n}": values for n, values in self.spectrum.items()}
        arrays = {n: np.ascontiguousarray(x) for n, x in arrays.items()}
        save_file(arrays, path, metadata=facts(rows=self.rows, layers=list(self.spectrum)))
        return path

    @staticmethod
    def load(path: Path) -> "Kronecker":
        """Read what `save` wrote."""
        arrays, told = load_arrays(path, "layers")
        names = told["layers"]
        return Kronecker(
            bases={n: (arrays[f"inner/{n}"], arrays[f"outer/{n}"]) for n in names},
            spectrum={n: arrays[f"spectrum/{n}"] for n in names},
            rows=told["rows"],
        )


def fit_kronecker(run: Run, projection: Factored | None = None) -> Kronecker:
    """Fit EK-FAC in two passes over the probes: covariances, then corrected eigenvalues.

    For a true Fisher matrix the probes' labels are drawn from the model (`FisherLabels`).

    Args:
        run: passes a feature over all probes; returns how many rows had a gradient.
        projection: fit in the space of these factored features instead of the whole one.
    """
    sums = Covariances(projection=projection)
    if run(sums) < 1:
        raise ValueError("no probe had a gradient, so there is no curvature to fit.")
    bases = {
        name: (_eigenvectors(name, sums.inputs[name]), _eigenvectors(name, sums.outputs[name]))
        for name in sums.inputs
    }
    rotated = RotatedSquares(bases=bases, projection=projection)
    rows = run(rotated)
    spectrum = {n: (x / rows).cpu().double().numpy() for n, x in rotated.squares.items()}
    for name in spectrum.keys() - sums.seen:  # an expert that no probe asked: nothing is known
        spectrum[name] = np.full_like(spectrum[name], np.inf)
    return Kronecker(bases=bases, spectrum=spectrum, rows=rows)


def _eigenvectors(name: str, covariance: Tensor) -> Doubles:
    matrix = covariance.double().cpu().numpy()
    if not np.isfinite(matrix).all():
        raise ValueError(f"layer {name} gave non-finite numbers on the probes: check the model.")
    vectors: Doubles = np.linalg.eigh(matrix)[1]
    return vectors
