"""How much of a model its gradients are read of: told without loading a weight."""

import re
from collections.abc import Sequence
from typing import Any

from gristmill.pipeline.models.gradients.layers import (
    Layer,
    embeddings_and_head,
    linear_layers,
)
from gristmill.pipeline.models.low_rank import LowRankLinear, shell
from gristmill.pipeline.models.reference import ModelFiles

MOST_NAMED = 4  # kinds of weights that are left out


def share_read(files: ModelFiles, which: str | Sequence[str]) -> str:
    """A sentence on the weights whose gradients are read.

    Args:
        files: the model.
        which: layers, as `linear_layers` takes them.
    """
    model = shell(files)
    read: dict[int, int] = {}
    for layer in linear_layers(model, which):
        for key, numbers in _numbers(layer):
            read[key] = read.get(key, 0) + numbers
    apart = embeddings_and_head(model)
    weights = [
        (name, p.numel(), read.get(id(p), 0))
        for name, p in model.named_parameters()
        if p.ndim > 1 and id(p) not in apart and ("lora_" in name) == (which == "lora")
    ]
    whole, seen = sum(n for _, n, _ in weights), sum(n for *_, n in weights)
    of = "the adapter's weights" if which == "lora" else "the weights outside embeddings and head"
    left = sorted({_kind(name) for name, n, mine in weights if mine < n})
    told = f"gradients are read of {seen / whole:.1%} of {of}"
    if left:
        more = f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else ""
        told += f"; not of {', '.join(left[:MOST_NAMED])}{more}"
    return told + "."


def _numbers(layer: Layer) -> list[tuple[int, int]]:
    """Parameters, by id, and how many of their numbers are this layer's."""
    if layer.expert is not None:
        return [(id(getattr(layer.expert.module, layer.expert.part)), layer.weight.numel())]
    module: Any = layer.modules[0]
    parts = [module.up, module.down] if isinstance(module, LowRankLinear) else [module.weight]
    return [(id(p), p.numel()) for p in parts]


def _kind(name: str) -> str:
    """A weight's name within its block."""
    return re.split(r"\.\d+\.", name.removesuffix(".weight"))[-1]
