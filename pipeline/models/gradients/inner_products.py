"""Inner products and norms of per-example gradients, without a projection and without a store.

| feature | per row | FLOPs a layer (row of T tokens) |
|---|---|---|
| `GhostNorm` | squared norm, all layers together | 2 T^2 (I + O), or 2 T I O if less |
| `GhostDot` | inner products with the rows captured by `Capture` | 2 T S (I + O) a captured row |
| `ExactInner` | inner products with K given gradients | 2 T I O for one, 2 T I O + 2 K I O |
| `MeanGradient` | none: the gradients of all rows are added up | 2 T I O |

`<G, G'> = sum_{t,s} (g_t . g'_s)(a_t . a'_s)`: the "ghost" identity needs neither gradient.
"""

# R = rows, T = tokens of a row, J = captured rows, S = their tokens, I, O = layer inputs, outputs,
# P = I * O, K = target gradients

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gristmill.pipeline.models.gradients.layers import Layer
from gristmill.pipeline.models.gradients.layout import Layout, Sketch, explicit, whole, wide


@dataclass(frozen=True, kw_only=True)
class GhostNorm:
    """Squared norm of the row's gradient over all chosen layers, exact."""

    def __call__(self, layer: Layer) -> Sketch:
        fallback = explicit(
            lambda g_ROI: g_ROI.square().sum((1, 2), dtype=g_ROI.dtype)[:, None], layer, 1
        )

        def keep(a_BTI: Tensor, layout: Layout) -> tuple[str, Tensor]:
            a_RTI = layout.spread(a_BTI)
            if a_RTI.shape[1] * (layer.inputs + layer.outputs) < layer.inputs * layer.outputs:
                return "gram", a_RTI @ a_RTI.mT
            return "input", a_BTI

        def meet(kept: tuple[str, Tensor], g_BTO: Tensor, layout: Layout) -> Tensor:
            form, held = kept
            if form == "input":
                return fallback.meet(held, g_BTO, layout)
            g_RTO = layout.spread(g_BTO)
            return torch.einsum("rts,rts->r", held, g_RTO @ g_RTO.mT)[:, None]

        return Sketch(width=1, keep=keep, meet=meet, shared=True, linear=False)


@dataclass(frozen=True, kw_only=True)
class Capture:
    """Holds layer inputs and output gradients of a few rows, for `GhostDot`. Adds no feature."""

    held: dict[str, list[tuple[object, Tensor, Tensor]]] = field(default_factory=dict)
    passes: dict[object, int] = field(default_factory=dict)  # in order, with their rows

    def __call__(self, layer: Layer) -> Sketch:
        def meet(a_BTI: Tensor, g_BTO: Tensor, layout: Layout) -> Tensor:
            a_JSI, g_JSO = layout.spread(a_BTI).clone(), layout.spread(g_BTO).clone()
            self.passes[layout.batch] = layout.rows
            self.held.setdefault(layer.name, []).append((layout.batch, a_JSI, g_JSO))
            return a_JSI.new_zeros(layout.rows, 0)

        return Sketch(width=0, keep=whole, meet=meet)


@dataclass(frozen=True, kw_only=True)
class GhostDot:
    """Inner products of every row's gradient with those of the captured rows, in their order."""

    captured: Capture

    def __call__(self, layer: Layer) -> Sketch:
        batches = self._batches(layer)
        sketches = [self._dots(layer, a_JSI, g_JSO) for a_JSI, g_JSO in batches]

        def meet(a_BTI: Tensor, g_BTO: Tensor, layout: Layout) -> Tensor:
            return torch.cat([s.meet(a_BTI, g_BTO, layout) for s in sketches], dim=1)

        return Sketch(width=sum(s.width for s in sketches), keep=whole, meet=meet, shared=True)

    def _batches(self, layer: Layer) -> list[tuple[Tensor, Tensor]]:
        calls = self.captured.held.get(layer.name, [])
        if not calls and (layer.expert is None or not self.captured.passes):
            raise ValueError(
                f"nothing was captured of layer {layer.name}: run a pass with this Capture over "
                "the same layers first."
            )
        batches = []
        for one, rows in self.captured.passes.items():
            # several calls of a layer in one pass are several stretches of tokens of the same
            # rows; an expert that a pass did not ask has none
            inputs = [a for batch, a, _ in calls if batch is one]
            outputs = [g for batch, _, g in calls if batch is one]
            kind, device = wide(layer.dtype), layer.device
            none_J0I = torch.zeros(rows, 0, layer.inputs, dtype=kind, device=device)
            none_J0O = torch.zeros(rows, 0, layer.outputs, dtype=kind, device=device)
            batches.append((torch.cat([none_J0I, *inputs], 1), torch.cat([none_J0O, *outputs], 1)))
        return batches

    def _dots(self, layer: Layer, a_JSI: Tensor, g_JSO: Tensor) -> Sketch:
        flat_JP = None
        area = layer.inputs * layer.outputs

        def meet(a_BTI: Tensor, g_BTO: Tensor, layout: Layout) -> Tensor:
            nonlocal flat_JP
            a_RTI, g_RTO = layout.spread(a_BTI), layout.spread(g_BTO)
            if 2 * a_RTI.shape[1] * a_JSI.shape[1] <= area:
                columns = [
                    torch.einsum("rts,rts->r", a_RTI @ a_SI.T, g_RTO @ g_SO.T)
                    for a_SI, g_SO in zip(a_JSI, g_JSO, strict=True)
                ]
                return torch.stack(columns, dim=1)
            if flat_JP is None:
                flat_JP = (g_JSO.mT @ a_JSI).flatten(1)
            formed = explicit(lambda g_ROI: g_ROI.flatten(1) @ flat_JP.T, layer, len(flat_JP))
            return formed.meet(a_BTI, g_BTO, layout)

        return Sketch(width=len(a_JSI), keep=whole, meet=meet, shared=True)


@dataclass(frozen=True, kw_only=True)
class ExactInner:
    """Inner products of every row's gradient with K given ones, by layer name (K x O x I).

    One target is met on the way, as `sum_t g_t . (G a_t)`; for more it is cheaper to form the row's
    gradient once. A linear preconditioner or Adam's 1/sqrt(v) belongs on the target: it is exact
    there and costs nothing per row.
    """

    targets: Mapping[str, Tensor]

    def __call__(self, layer: Layer) -> Sketch:
        if layer.name not in self.targets:
            raise ValueError(f"the target gradients hold nothing for layer {layer.name}.")
        target_KOI = self.targets[layer.name].to(layer.device, wide(layer.dtype))
        expected = (layer.outputs, layer.inputs)
        if target_KOI.ndim != 3 or target_KOI.shape[1:] != expected:
            raise ValueError(
                f"the target gradients of layer {layer.name} have shape {tuple(target_KOI.shape)}; "
                f"expected (targets, {expected[0]}, {expected[1]})."
            )
        if len(target_KOI) > 1:
            flat_KP = target_KOI.flatten(1)
            return explicit(lambda g_ROI: g_ROI.flatten(1) @ flat_KP.T, layer, len(flat_KP))
        target_OI = target_KOI[0].to(layer.dtype)

        def meet(a_BTI: Tensor, g_BTO: Tensor, layout: Layout) -> Tensor:
            moved_RTO = layout.spread(a_BTI @ target_OI.T)
            return torch.einsum("rto,rto->r", layout.spread(g_BTO), moved_RTO)[:, None]

        return Sketch(width=1, keep=whole, meet=meet, shared=True)


@dataclass(frozen=True, kw_only=True)
class MeanGradient:
    """Adds the gradients of all rows that pass by into `total`, by layer name (O x I).

    Rows without a gradient add nothing; divide by the number of the others. Adds no feature.
    """

    total: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, layer: Layer) -> Sketch:
        empty = torch.zeros(
            layer.outputs, layer.inputs, dtype=wide(layer.dtype), device=layer.device
        )
        total_OI = self.total.setdefault(layer.name, empty)

        def meet(a_BTI: Tensor, g_BTO: Tensor, layout: Layout) -> Tensor:
            a_NI, g_NO = layout.spread(a_BTI).flatten(0, 1), layout.spread(g_BTO).flatten(0, 1)
            total_OI.add_(g_NO.T @ a_NI)
            return g_NO.new_zeros(layout.rows, 0)

        return Sketch(width=0, keep=whole, meet=meet)
