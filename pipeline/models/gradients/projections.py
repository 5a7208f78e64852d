"""Random maps from a layer's gradient to a short vector, most of which never form the gradient.

| feature | per row | linear in G | forms G |
|---|---|---|---|
| `Factored` (default) | `P_out^T G P_in`, k x k a layer | yes | no |
| `Masked` | CountSketch of a random sub-block of G | yes | no |
| `TensorSketch` | CountSketch of vec(G) by circular convolution | yes | no |
| `CountSketched` | CountSketch of vec(G), or of an optimizer's update made from it | either | yes |
| `Capped` | CountSketch of any of these over all layers together | | |
| `DenseJL` | random signs times vec(G), unscaled: parity with older features | either | yes |

Random numbers are keyed by (seed, purpose, layer name) and drawn on the CPU: the same bits on every
machine, for every batch split and device count.
"""

# R = rows, T = tokens, I, O = layer inputs, outputs, K = kept dimensions, P = I * O, D = buckets

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gristmill.pipeline.models.gradients.layers import Layer
from gristmill.pipeline.models.gradients.layout import Feature, Layout, Sketch, explicit, wide
from gristmill.pipeline.models.gradients.random_bits import (
    CountSketch,
    random_signs,
    random_words,
    sign_matrix,
)

Scales = Callable[[Layer], tuple[Tensor, Tensor]]  # factors of a (I) and of g (O)
Update = Callable[[Layer], Callable[[Tensor], Tensor]]  # R x O x I gradients to the step taken


@dataclass(frozen=True, kw_only=True)
class Factored:
    """Two-sided projection `Z = P_out^T G P_in = sum_t (P_out^T g_t)(P_in^T a_t)^T`.

    Entries are +-1/sqrt(k), so inner products are unbiased. A side that has no more than `k`
    dimensions is kept whole, which is cheaper and exact.

    Attributes:
        k: dimensions kept on each side; a layer gives k * k numbers.
        seed: of the random matrices.
        scales: factors of g and a before the projection (Adafactor's).
    """

    k: int = 16
    seed: int = 0
    scales: Scales | None = None

    def __call__(self, layer: Layer) -> Sketch:
        inner, outer = self.matrices(layer)
        if self.scales is not None:
            scale_I, scale_O = self.scales(layer)
            inner, outer = scale_I.double()[:, None] * inner, scale_O.double()[:, None] * outer
        to = partial(torch.Tensor.to, device=layer.device, dtype=layer.dtype)
        return two_sided(to(inner), to(outer))

    def matrices(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """P_in (I x k) and P_out (O x k) in float64, on the CPU."""
        _check_size("k", self.k)

        def side(name: str, size: int) -> Tensor:
            if size <= self.k:
                return torch.eye(size, dtype=torch.float64)
            return sign_matrix(size, self.k, self.seed, "factored", layer.name, name)

        return side("in", layer.inputs), side("out", layer.outputs)


def two_sided(inner_IK: Tensor, outer_OK: Tensor) -> Sketch:
    """The factored feature for given matrices: products in the model's dtype, sums in float32."""

    def keep(a_BTI: Tensor, layout: Layout) -> Tensor:
        return a_BTI @ inner_IK

    def meet(inner_BTK: Tensor, g_BTO: Tensor, layout: Layout) -> Tensor:
        outer_RTK = layout.spread(g_BTO @ outer_OK, mine=True)
        return (outer_RTK.mT @ layout.spread(inner_BTK, mine=True)).flatten(1)

    width = inner_IK.shape[1] * outer_OK.shape[1]
    return Sketch(width=width, keep=keep, meet=meet, inner=inner_IK)


@dataclass(frozen=True, kw_only=True)
class Masked:
    """FactGraSS: gather coordinates of a and g, sum their outer products, CountSketch the block.

    No product with I or O at all. All layers share the `size` buckets. The block itself is an
    exact, unscaled piece of G; with `size=None` the blocks are the feature, side by side.

    Attributes:
        inputs: coordinates of a that are kept.
        outputs: coordinates of g that are kept.
        size: buckets of the sketch.
        seed: of the choice and of the sketch.
    """

    inputs: int = 128
    outputs: int = 128
    size: int | None = 4_096
    seed: int = 0

    def __call__(self, layer: Layer) -> Sketch:
        in_K, out_K = (i.to(layer.device) for i in self.coordinates(layer))
        block = len(in_K) * len(out_K)
        sketch: Callable[[Tensor], Tensor] = lambda x: x  # noqa: E731
        if self.size is not None:
            _check_size("size", self.size)
            key = (self.seed, "masked", layer.name, "sketch")
            sketch = CountSketch.draw(block, self.size, *key, device=layer.device)

        def keep(a_BTI: Tensor, layout: Layout) -> Tensor:
            return a_BTI[..., in_K]

        def meet(a_BTK: Tensor, g_BTO: Tensor, layout: Layout) -> Tensor:
            g_RTK = layout.spread(g_BTO[..., out_K], mine=True)
            return sketch((g_RTK.mT @ layout.spread(a_BTK, mine=True)).flatten(1))

        return Sketch(width=self.size or block, keep=keep, meet=meet, shared=self.size is not None)

    def coordinates(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """The kept coordinates of a and of g, in order."""
        _check_size("inputs", self.inputs)
        _check_size("outputs", self.outputs)

        def choose(name: str, total: int, kept: int) -> Tensor:
            words = random_words(total, self.seed, "masked", layer.name, name)
            return torch.from_numpy(np.sort(np.argsort(words, kind="stable")[:kept]))

        return (
            choose("in", layer.inputs, self.inputs),
            choose("out", layer.outputs, self.outputs),
        )


@dataclass(frozen=True, kw_only=True)
class TensorSketch:
    """CountSketch of vec(G) without G: bucket (h_out + h_in) mod size, sign s_out * s_in.

    The convolution is a product of spectra, summed over tokens before it is turned back.
    """

    size: int = 256
    seed: int = 0
    shared: bool = False

    def __call__(self, layer: Layer) -> Sketch:
        inner, outer = self.sides(layer)
        spectrum = partial(torch.fft.rfft, dim=-1)

        def keep(a_BTI: Tensor, layout: Layout) -> Tensor:
            return inner(a_BTI.to(wide(a_BTI.dtype)))

        def meet(inner_BTK: Tensor, g_BTO: Tensor, layout: Layout) -> Tensor:
            outer_RTF = spectrum(layout.spread(outer(g_BTO.to(wide(g_BTO.dtype))), mine=True))
            inner_RTF = spectrum(layout.spread(inner_BTK, mine=True))
            met_RK: Tensor = torch.fft.irfft((outer_RTF * inner_RTF).sum(1), n=self.size)
            return met_RK

        return Sketch(width=self.size, keep=keep, meet=meet, shared=self.shared)

    def sides(self, layer: Layer) -> tuple[CountSketch, CountSketch]:
        """The sketches of a and of g."""
        _check_size("size", self.size)
        key = (self.seed, "tensorsketch", layer.name)
        return (
            CountSketch.draw(layer.inputs, self.size, *key, "in", device=layer.device),
            CountSketch.draw(layer.outputs, self.size, *key, "out", device=layer.device),
        )


@dataclass(frozen=True, kw_only=True)
class CountSketched:
    """CountSketch (SJLT with one non-zero) of the gradient, or of an optimizer's update from it.

    The explicit vector is needed only for an `update` that is not linear (Adam's).
    """

    size: int = 8_192
    seed: int = 0
    update: Update | None = None

    def __call__(self, layer: Layer) -> Sketch:
        _check_size("size", self.size)
        coordinates = layer.inputs * layer.outputs
        key = (self.seed, "countsketch", layer.name)
        sketch = CountSketch.draw(coordinates, self.size, *key, device=layer.device)
        update = self.update(layer) if self.update is not None else _same
        return explicit(
            lambda g_ROI: sketch(update(g_ROI).flatten(1)),
            layer,
            self.size,
            linear=self.update is None,
        )


@dataclass(frozen=True, kw_only=True)
class DenseJL:
    """Random signs times the vector, not scaled: `size` times the work of any other feature."""

    size: int = 8_192
    seed: int = 0
    update: Update | None = None
    BLOCK: ClassVar[int] = 2_048  # coordinates whose signs exist at once

    def __call__(self, layer: Layer) -> Sketch:
        _check_size("size", self.size)
        update = self.update(layer) if self.update is not None else _same

        def read(g_ROI: Tensor) -> Tensor:
            x_RP = update(g_ROI).flatten(1)
            out_RD = x_RP.new_zeros(len(x_RP), self.size)
            for first in range(0, x_RP.shape[1], self.BLOCK):
                part = x_RP[:, first : first + self.BLOCK]
                signs_PD = self.signs(layer, first, part.shape[1])
                out_RD += part @ signs_PD.to(part.device, part.dtype)
            return out_RD

        return explicit(read, layer, self.size, linear=self.update is None)

    def signs(self, layer: Layer, first: int, count: int) -> Tensor:
        """Signs of `count` coordinates from `first` on, count x size."""
        drawn = random_signs(count * self.size, self.seed, "dense", layer.name, first)
        return torch.from_numpy(drawn).reshape(count, self.size)


@dataclass(frozen=True, kw_only=True)
class Capped:
    """CountSketch of all layers' features together: `size` numbers a row, however large the model.

    Attributes:
        feature: what is sketched.
        size: buckets in all.
        seed: of the sketch.
    """

    feature: Feature
    size: int = 8_192
    seed: int = 0

    def __call__(self, layer: Layer) -> Sketch:
        _check_size("size", self.size)
        part = self.feature(layer)
        key = (self.seed, "capped", layer.name)
        sketch = CountSketch.draw(part.width, self.size, *key, device=layer.device)

        def meet(kept: Any, g_BTO: Tensor, layout: Layout) -> Tensor:  # noqa: ANN401
            return sketch(part.meet(kept, g_BTO, layout))

        return replace(part, width=self.size, meet=meet, shared=True)


@dataclass(frozen=True, kw_only=True)
class Full:
    """The gradient itself, flattened row by row: for tests, and for very small layers."""

    update: Update | None = None

    def __call__(self, layer: Layer) -> Sketch:
        update = self.update(layer) if self.update is not None else _same
        width = layer.inputs * layer.outputs
        return explicit(
            lambda g_ROI: update(g_ROI).flatten(1),
            layer,
            width,
            shared=False,
            linear=self.update is None,
        )


def _same(g_ROI: Tensor) -> Tensor:
    return g_ROI


def _check_size(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"a gradient projection has {name}={value}; it must be at least 1.")
