"""Hooks that read per-example gradients of linear layers while activation gradients flow back.

A forward hook takes a layer's input, a hook on its output takes the output gradient, and a feature
(see `projections`, `inner_products`, `curvature`) turns the two into a few numbers per row. Both
are let go at once; no weight gradient is ever formed.
"""

# B = sequences, R = rows, T = tokens, I, O = layer inputs, outputs

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gristmill.pipeline.models.gradients.experts import expert_by_expert
from gristmill.pipeline.models.gradients.layers import Layer, frozen, linear_layers
from gristmill.pipeline.models.gradients.layout import Feature, Layout, Sketch, wide

_Read = Callable[[Layout, Tensor, Tensor], None]  # where the tokens lie, layer input, output


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is read of which layers: made once, used for every pass.

    Attributes:
        layers: the weight matrices.
        sketches: per feature, per layer.
        siblings: first layer of a group that reads one input (q, k, v) to the whole group.
        joined: per feature, the group's `Sketch.inner` side by side, if all have one.
        flat: layers that see the tokens of the batch in order, but in another shape.
    """

    layers: tuple[Layer, ...]
    sketches: tuple[tuple[Sketch, ...], ...]
    siblings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    joined: tuple[Mapping[str, Tensor], ...] = ()
    flat: frozenset[str] = frozenset()

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers per row of each feature."""
        return tuple(of[0].width if of[0].shared else _offsets(of)[-1] for of in self.sketches)


def reading(
    layers: tuple[Layer, ...],
    features: Sequence[Feature],
    siblings: Mapping[str, tuple[str, ...]] | None = None,
    flat: frozenset[str] = frozenset(),
) -> Reading:
    """Draw the features' matrices for every layer, and join those of layers with one input."""
    index = {layer.name: i for i, layer in enumerate(layers)}
    sketches = tuple(tuple(feature(layer) for layer in layers) for feature in features)
    siblings = siblings or {}
    joined = []
    for of in sketches:
        inner = {first: [of[index[n]].inner for n in names] for first, names in siblings.items()}
        whole = {first: [m for m in parts if m is not None] for first, parts in inner.items()}
        joined.append(
            {
                first: torch.cat(parts, dim=1)
                for first, parts in whole.items()
                if len(parts) == len(siblings[first])
            }
        )
    return Reading(
        layers=layers, sketches=sketches, siblings=siblings, joined=tuple(joined), flat=flat
    )


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """The hooks of one pass: features of all rows, filled in while the gradients flow back."""

    reading: Reading
    layout: Layout
    out: tuple[Tensor, ...]
    calls: dict[str, int] = field(default_factory=dict)
    ready: dict[tuple[int, str], tuple[Tensor, int, Tensor]] = field(default_factory=dict)
    left: list[Tensor] = field(default_factory=list)  # rows that have no loss

    def leave_out(self, row_N: Tensor) -> None:
        """Called between the two passes: these rows enter nothing that is summed over rows."""
        self.left[:] = [row_N]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hook the layers for the time of one forward and backward pass."""
        offsets = [_offsets(of) for of in self.reading.sketches]
        handles = []
        experts: dict[int, tuple[nn.Module, dict[tuple[int, str], _Read]]] = {}
        for i, layer in enumerate(self.reading.layers):
            readers = [
                (of[i], out if of[i].shared else out[:, at[i] : at[i + 1]])
                for of, out, at in zip(self.reading.sketches, self.out, offsets, strict=True)
            ]
            read = partial(self._read, layer, readers)
            if layer.expert is not None:
                module = layer.expert.module
                reads = experts.setdefault(id(module), (module, {}))[1]
                reads[layer.expert.number, layer.expert.part] = read
            see = partial(self._forward, layer, read)
            handles += [m.register_forward_hook(see) for m in layer.modules]
        shown = [(module, partial(self._expert, reads)) for module, reads in experts.values()]
        try:
            with expert_by_expert(shown):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _forward(
        self,
        layer: Layer,
        read: _Read,
        module: nn.Module,
        args: tuple[Tensor, ...],
        output: Tensor,
    ) -> None:
        shape = tuple(args[0].shape[:-1])
        flat = layer.name in self.reading.flat and math.prod(shape) == math.prod(self.layout.shape)
        if torch.is_grad_enabled() and shape != self.layout.shape and not flat:
            raise ValueError(
                f"layer {layer.name} sees inputs of shape {tuple(args[0].shape)} in a batch of "
                f"{self.layout.shape}, so its tokens cannot be told apart by row (a router's "
                "expert?): choose layers without it."
            )
        read(self.layout, args[0], output)

    def _expert(
        self,
        reads: Mapping[tuple[int, str], _Read],
        number: int,
        part: str,
        token_M: Tensor,
        a_MI: Tensor,
        output: Tensor,
    ) -> None:
        if (number, part) in reads and torch.is_grad_enabled():
            reads[number, part](self.layout.routed(token_M), a_MI, output)

    def _read(
        self,
        layer: Layer,
        readers: list[tuple[Sketch, Tensor]],
        layout: Layout,
        a_BTI: Tensor,
        output: Tensor,
    ) -> None:
        if not torch.is_grad_enabled():
            return
        with torch.no_grad():
            held = [self._kept(f, layer, s, a_BTI, layout) for f, (s, _) in enumerate(readers)]
        if not output.requires_grad:
            output.requires_grad_()  # the graph starts here, as nothing before needs a gradient
        output.register_hook(  # type: ignore[no-untyped-call]
            partial(self._backward, layer, readers, held, layout)
        )

    def _kept(
        self, feature: int, layer: Layer, sketch: Sketch, a_BTI: Tensor, layout: Layout
    ) -> Any:  # noqa: ANN401
        joined = self.reading.joined[feature].get(layer.name)
        if joined is not None:
            names = self.reading.siblings[layer.name]
            parts = torch.split(a_BTI.detach() @ joined, joined.shape[1] // len(names), dim=-1)
            for name, part in zip(names, parts, strict=True):
                self.ready[feature, name] = (a_BTI, a_BTI._version, part)
        source, version, part = self.ready.pop((feature, layer.name), (None, 0, a_BTI))
        if source is a_BTI and version == a_BTI._version:
            return part
        a_BTI = a_BTI.detach()
        if layer.bias:
            a_BTI = torch.cat([a_BTI, torch.ones_like(a_BTI[..., :1])], dim=-1)
        return sketch.keep(a_BTI, layout)

    def _backward(
        self,
        layer: Layer,
        readers: list[tuple[Sketch, Tensor]],
        held: list[Any],
        layout: Layout,
        g_BTO: Tensor,
    ) -> None:
        called = self.calls[layer.name] = self.calls.get(layer.name, 0) + 1
        for row_N in self.left:
            layout = layout.without(row_N)
        for (sketch, out), kept in zip(readers, held, strict=True):
            if called > 1 and not sketch.linear:
                raise ValueError(
                    f"layer {layer.name} runs more than once in a pass, so its gradient is a sum, "
                    "and a norm or an Adam update of a sum is not the sum: leave the layer out."
                )
            out += sketch.meet(kept, g_BTO, layout)

    def check(self) -> None:
        """Every chosen layer must have had its say; of a block's experts those that are asked."""
        asked = {id(x.expert.module) for x in self.reading.layers if x.expert and self._called(x)}
        silent = [
            x.name
            for x in self.reading.layers
            if not self._called(x) and not (x.expert and id(x.expert.module) in asked)
        ]
        if silent:
            raise ValueError(
                f"no gradient reached {len(silent)} of {len(self.reading.layers)} layers, first "
                f"{silent[0]}: they do not feed the loss, belong to an inactive adapter, or lie "
                "under reentrant activation checkpointing (pass use_reentrant=False)."
            )

    def _called(self, layer: Layer) -> bool:
        return layer.name in self.calls


def _offsets(sketches: Sequence[Sketch]) -> list[int]:
    at = [0]
    for sketch in sketches:
        at.append(at[-1] + sketch.width)
    return at


def hook(read: Reading, layout: Layout) -> Hooks:
    """Hooks with empty features for the rows of one batch."""
    first = read.layers[0]
    out = tuple(
        torch.zeros(layout.rows, width, dtype=wide(first.dtype), device=first.device)
        for width in read.widths
    )
    return Hooks(reading=read, layout=layout, out=out)


def row_gradients(
    model: nn.Module,
    loss: Callable[[], Tensor],
    layout: Layout,
    *features: Feature,
    layers: tuple[Layer, ...] | None = None,
) -> tuple[Tensor, ...]:
    """Features of the rows of any net: `loss()` runs it and returns the sum of the rows' losses."""
    layers = layers or linear_layers(model)
    hooks = hook(reading(layers, features), layout)
    with frozen(model), torch.enable_grad(), hooks.attached():
        loss().backward()  # type: ignore[no-untyped-call]
    hooks.check()
    return hooks.out
