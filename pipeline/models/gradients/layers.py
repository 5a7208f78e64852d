"""The weight matrices of a model: which are read, how each is stored, which read the same input."""

# I, O = layer inputs, outputs

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gristmill.pipeline.models.gradients.experts import Expert, experts_of
from gristmill.pipeline.models.low_rank import LowRankLinear, shape

ADAPTERS = {"lora_A", "lora_B"}
# two rows that begin alike: what a model makes of the first four tokens is the same in both
PROBE = ((1, 2, 3, 4, 1, 2, 3, 4), (1, 2, 3, 4, 0, 0, 0, 0))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One weight matrix and the modules that apply it.

    Attributes:
        name: name of the first module with this weight; random matrices are keyed by it.
        inputs: I, with the column of ones that represents the bias.
        outputs: O.
        bias: whether the bias gradient is the last column of G.
        transposed: the weight is stored I x O (GPT-2's Conv1D).
        dtype: of the weight.
        device: of the weight.
        modules: more than one if layers share their weight; their gradients add.
        expert: of a mixture-of-experts block, in the place of `modules`.
    """

    name: str
    inputs: int
    outputs: int
    dtype: torch.dtype
    device: torch.device
    bias: bool = False
    transposed: bool = False
    modules: tuple[nn.Module, ...] = field(default=(), repr=False)
    expert: Expert | None = None

    @property
    def weight(self) -> Tensor:
        """The matrix as it is stored; of a low-rank layer its outer factor."""
        return _weight(self.modules[0]) if self.expert is None else self.expert.weight


def linear_layers(
    model: nn.Module, which: str | Sequence[str] = "linear", *, bias: bool = False
) -> tuple[Layer, ...]:
    """The weight matrices whose gradients are read, in the order of the model.

    Args:
        model: any module; linear layers are `nn.Linear`, GPT-2's `Conv1D` and `LowRankLinear`,
            which is read at the product, as one dense layer; after them the experts of
            mixture-of-experts blocks, each by itself.
        which: "linear": all but embeddings, LM head and adapters; "lora": the two factors of every
            adapter; or name parts ("q_proj", "model.layers.29"), any of which must match.
        bias: append the bias gradient as a last column, where the layer has a bias.
    """
    found: dict[int, list[tuple[str, Any]]] = {}
    for name, module in linear_modules(model):
        if _wanted(name, which):
            found.setdefault(id(_weight(module)), []).append((name, module))
    experts = [
        (f"{name}.{expert.part}.{expert.number}", expert)
        for name, module in model.named_modules()
        for expert in experts_of(module)
    ]
    chosen = [(name, expert) for name, expert in experts if _wanted(name, which)]
    if not found and not chosen:
        raise ValueError(
            f"the model has no linear layer that matches {which!r} (embeddings and LM head do not "
            'count): pass "linear", "lora" for a model with an adapter, or parts of layer names.'
        )
    dense = (_layer(members, bias) for members in found.values())
    return (*dense, *(_expert_layer(name, expert, bias) for name, expert in chosen))


def linear_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Linear layers by name, those of adapters too; no embedding, no LM head, none tied to one."""
    from transformers.pytorch_utils import Conv1D

    taken = embeddings_and_head(model)
    for name, module in model.named_modules():
        linear = isinstance(module, (nn.Linear, Conv1D, LowRankLinear))
        if linear and id(_weight(module)) not in taken:
            yield name, module


def embeddings_and_head(model: nn.Module) -> set[int]:
    """Ids of the weights of embeddings and LM head."""
    from transformers import PreTrainedModel

    taken = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for inner in model.modules():
        if isinstance(inner, PreTrainedModel) and inner.get_output_embeddings() is not None:
            taken.add(id(inner.get_output_embeddings().weight))
    return taken


def _wanted(name: str, which: str | Sequence[str]) -> bool:
    parts = name.split(".")
    adapter = not ADAPTERS.isdisjoint(parts)
    if which == "linear":
        return not adapter
    if which == "lora":
        return adapter
    words = [which] if isinstance(which, str) else which
    return any(w in parts or name == w or name.startswith(w + ".") for w in words)


def _layer(members: list[tuple[str, Any]], bias: bool) -> Layer:
    from transformers.pytorch_utils import Conv1D

    name, module = members[0]
    outputs, inputs = shape(module)
    weight = _weight(module)
    with_bias = bias and module.bias is not None
    if with_bias and len(members) > 1:
        raise ValueError(f"layer {name} shares its weight with another: read it with bias=False.")
    return Layer(
        name=name,
        inputs=inputs + with_bias,
        outputs=outputs,
        dtype=weight.dtype,
        device=weight.device,
        bias=with_bias,
        transposed=isinstance(module, Conv1D),
        modules=tuple(m for _, m in members),
    )


def _expert_layer(name: str, expert: Expert, bias: bool) -> Layer:
    weight, module = expert.weight, expert.module
    outputs, inputs = reversed(weight.shape) if module.is_transposed else weight.shape
    with_bias = bias and module.has_bias
    return Layer(
        name=name,
        inputs=inputs + with_bias,
        outputs=outputs,
        dtype=weight.dtype,
        device=weight.device,
        bias=with_bias,
        transposed=module.is_transposed,
        expert=expert,
    )


def _weight(module: Any) -> Tensor:  # noqa: ANN401
    weight: Tensor = module.up if isinstance(module, LowRankLinear) else module.weight
    return weight


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
def flat_inputs(layers: tuple[Layer, ...]) -> Iterator[set[str]]:
    """Find out, while `PROBE` is passed, which layers see a batch's tokens in order, but flattened.

    OPT's feed-forward layers do, and experts that all tokens share. A layer that sees as many
    tokens in another order must not be taken for one.

    Yields:
        The names of such layers; complete when the pass is.
    """
    found: dict[str, bool] = {}
    rows, tokens = len(PROBE), len(PROBE[0])

    def look(layer: Layer, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        shape = args[0].shape[:-1]
        if shape == (rows, tokens) or math.prod(shape) != rows * tokens:
            return
        one_TI, two_TI = args[0].reshape(rows, tokens, -1)
        gap_T = (one_TI - two_TI).abs().amax(-1) / one_TI.abs().max()
        apart_T = (one_TI[1:4] - one_TI[:3]).abs().amax(-1)
        in_order = bool((gap_T[:4] < 0.01).all() and (gap_T[4:] > gap_T[:4].max()).all())
        found[layer.name] = found.get(layer.name, True) and in_order and bool(apart_T.all())

    handles = [m.register_forward_hook(partial(look, x)) for x in layers for m in x.modules]
    names: set[str] = set()
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()
        names.update(name for name, in_order in found.items() if in_order)


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
