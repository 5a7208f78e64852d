"""Hooks that read per-example gradients of linear layers while activation gradients flow back.

A forward hook takes a layer's input, a hook on its output takes the output gradient, and a feature
(see `projections`, `inner_products`, `curvature`) turns the two into a few numbers per row. Both
are let go at once; no weight gradient is ever formed.
"""

# B = sequences, R = rows, T = tokens, I, O = layer inputs, outputs

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gristmill.pipeline.models.layout import Feature, Layer, Layout, Sketch, wide

ADAPTERS = {"lora_A", "lora_B"}


def linear_layers(
    model: nn.Module, which: str | Sequence[str] = "linear", *, bias: bool = False
) -> tuple[Layer, ...]:
    """The weight matrices whose gradients are read, in the order of the model.

    Args:
        model: any module; linear layers are `nn.Linear` and GPT-2's `Conv1D`.
        which: "linear": all but embeddings, LM head and adapters; "lora": the two factors of every
            adapter; or name parts ("q_proj", "model.layers.29"), any of which must match.
        bias: append the bias gradient as a last column, where the layer has a bias.
    """
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    taken = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for inner in model.modules():
        if isinstance(inner, PreTrainedModel) and inner.get_output_embeddings() is not None:
            taken.add(id(inner.get_output_embeddings().weight))
    found: dict[int, list[tuple[str, Any]]] = {}
    for name, module in model.named_modules():
        linear = isinstance(module, (nn.Linear, Conv1D))
        if linear and _wanted(name, which) and id(module.weight) not in taken:
            found.setdefault(id(module.weight), []).append((name, module))
    if not found:
        raise ValueError(
            f"the model has no linear layer that matches {which!r} (embeddings and LM head do not "
            'count): pass "linear", "lora" for a model with an adapter, or parts of layer names.'
        )
    return tuple(_layer(members, Conv1D, bias) for members in found.values())


def _wanted(name: str, which: str | Sequence[str]) -> bool:
    parts = name.split(".")
    adapter = not ADAPTERS.isdisjoint(parts)
    if which == "linear":
        return not adapter
    if which == "lora":
        return adapter
    words = [which] if isinstance(which, str) else which
    return any(w in parts or name == w or name.startswith(w + ".") for w in words)


def _layer(members: list[tuple[str, Any]], conv: type, bias: bool) -> Layer:
    name, module = members[0]
    transposed = isinstance(module, conv)
    out_in = module.weight.shape[::-1] if transposed else module.weight.shape
    with_bias = bias and module.bias is not None
    if with_bias and len(members) > 1:
        raise ValueError(f"layer {name} shares its weight with another: read it with bias=False.")
    return Layer(
        name=name,
        inputs=int(out_in[1]) + with_bias,
        outputs=int(out_in[0]),
        dtype=module.weight.dtype,
        device=module.weight.device,
        bias=with_bias,
        transposed=transposed,
        modules=tuple(m for _, m in members),
    )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is read of which layers: made once, used for every pass.

    Attributes:
        layers: the weight matrices.
        sketches: per feature, per layer.
        siblings: first layer of a group that reads one input (q, k, v) to the whole group.
        joined: per feature, the group's `Sketch.inner` side by side, if all have one.
    """

    layers: tuple[Layer, ...]
    sketches: tuple[tuple[Sketch, ...], ...]
    siblings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    joined: tuple[Mapping[str, Tensor], ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers per row of each feature."""
        return tuple(of[0].width if of[0].shared else _offsets(of)[-1] for of in self.sketches)


def reading(
    layers: tuple[Layer, ...],
    features: Sequence[Feature],
    siblings: Mapping[str, tuple[str, ...]] | None = None,
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
    return Reading(layers=layers, sketches=sketches, siblings=siblings, joined=tuple(joined))


@dataclass(frozen=True, kw_only=True)
class Tap:
    """The hooks of one pass: features of all rows, filled in while the gradients flow back."""

    reading: Reading
    layout: Layout
    out: tuple[Tensor, ...]
    calls: dict[str, int] = field(default_factory=dict)
    ready: dict[tuple[int, str], tuple[Tensor, int, Tensor]] = field(default_factory=dict)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hook the layers for the time of one forward and backward pass."""
        offsets = [_offsets(of) for of in self.reading.sketches]
        handles = []
        for i, layer in enumerate(self.reading.layers):
            readers = [
                (of[i], out if of[i].shared else out[:, at[i] : at[i + 1]])
                for of, out, at in zip(self.reading.sketches, self.out, offsets, strict=True)
            ]
            hook = partial(self._forward, layer, readers)
            handles += [m.register_forward_hook(hook) for m in layer.modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _forward(
        self,
        layer: Layer,
        readers: list[tuple[Sketch, Tensor]],
        module: nn.Module,
        args: tuple[Tensor, ...],
        output: Tensor,
    ) -> None:
        if not torch.is_grad_enabled():
            return
        if tuple(args[0].shape[:-1]) != self.layout.shape:
            raise ValueError(
                f"layer {layer.name} sees inputs of shape {tuple(args[0].shape)} in a batch of "
                f"{self.layout.shape}, so its tokens cannot be told apart by row (a router's "
                "expert?): choose layers without it."
            )
        with torch.no_grad():
            held = [self._kept(f, layer, s, args[0]) for f, (s, _) in enumerate(readers)]
        if not output.requires_grad:
            output.requires_grad_()  # the graph starts here, as nothing before needs a gradient
        output.register_hook(  # type: ignore[no-untyped-call]
            partial(self._backward, layer, readers, held)
        )

    def _kept(self, feature: int, layer: Layer, sketch: Sketch, a_BTI: Tensor) -> Any:  # noqa: ANN401
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
        return sketch.keep(a_BTI, self.layout)

    def _backward(
        self, layer: Layer, readers: list[tuple[Sketch, Tensor]], held: list[Any], g_BTO: Tensor
    ) -> None:
        called = self.calls[layer.name] = self.calls.get(layer.name, 0) + 1
        for (sketch, out), kept in zip(readers, held, strict=True):
            if called > 1 and not sketch.linear:
                raise ValueError(
                    f"layer {layer.name} runs more than once in a pass, so its gradient is a sum, "
                    "and a norm or an Adam update of a sum is not the sum: leave the layer out."
                )
            out += sketch.meet(kept, g_BTO, self.layout)

    def check(self) -> None:
        """Every chosen layer must have had its say."""
        silent = [x.name for x in self.reading.layers if x.name not in self.calls]
        if silent:
            raise ValueError(
                f"no gradient reached {len(silent)} of {len(self.reading.layers)} layers, first "
                f"{silent[0]}: they do not feed the loss, belong to an inactive adapter, or lie "
                "under reentrant activation checkpointing (pass use_reentrant=False)."
            )


def _offsets(sketches: Sequence[Sketch]) -> list[int]:
    at = [0]
    for sketch in sketches:
        at.append(at[-1] + sketch.width)
    return at


def tap(read: Reading, layout: Layout) -> Tap:
    """Hooks with empty features for the rows of one batch."""
    first = read.layers[0]
    out = tuple(
        torch.zeros(layout.rows, width, dtype=wide(first.dtype), device=first.device)
        for width in read.widths
    )
    return Tap(reading=read, layout=layout, out=out)


@contextmanager
def shared_inputs(layers: tuple[Layer, ...]) -> Iterator[dict[str, tuple[str, ...]]]:
    """Find out, during one forward pass, which layers read the same tensor.

    Yields:
        First layer of each group to the names of its members; complete when the pass is.
    """
    groups: dict[str, tuple[str, ...]] = {}
    last: list[tuple[str, Tensor]] = []  # a reference, so that its address is not used again

    def look(layer: Layer, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if last and last[-1][1] is args[0]:
            groups[last[-1][0]] = (*groups[last[-1][0]], layer.name)
        else:
            last[:] = [(layer.name, args[0])]
            groups[layer.name] = (layer.name,)

    plain = [layer for layer in layers if len(layer.modules) == 1 and not layer.bias]
    handles = [x.modules[0].register_forward_hook(partial(look, x)) for x in plain]
    try:
        yield groups
    finally:
        for handle in handles:
            handle.remove()
        for name in [n for n, members in groups.items() if len(members) == 1]:
            del groups[name]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no weight gradients, undone afterwards.

    Activation checkpointing, where it is switched on, stays on: it must not need train mode.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    trainable = [p for p in model.parameters() if p.requires_grad]
    training = [m for m in model.modules() if m.training]
    model.eval()
    checkpointed = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for module in checkpointed:
        module.training = module.gradient_checkpointing  # of this module alone: no dropout below
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in checkpointed:
            module.training = False
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


def row_gradients(
    model: nn.Module,
    loss: Callable[[], Tensor],
    layout: Layout,
    *features: Feature,
    layers: tuple[Layer, ...] | None = None,
) -> tuple[Tensor, ...]:
    """Features of the rows of any net: `loss()` runs it and returns the sum of the rows' losses."""
    layers = layers or linear_layers(model)
    hooks = tap(reading(layers, features), layout)
    with frozen(model), torch.enable_grad(), hooks.attached():
        loss().backward()  # type: ignore[no-untyped-call]
    hooks.check()
    return hooks.out
