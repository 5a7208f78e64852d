"""Sizes: parameters, FLOPs and memory of a model, from its configuration and without its weights.

A forward pass takes two operations a token and weight that multiplies it, and the products of
attention beside; embeddings are looked up, and of a block's experts a token meets a few. All else
is told in forward-equivalents of it (`Signal.cost`, `Recipe.cost`).
"""

# T = tokens of a sequence

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import safe_open

from gristmill.pipeline.contracts import ModelShape
from gristmill.pipeline.models.folder import sentence_weights, weight_files
from gristmill.pipeline.models.forward import HEAD_CHUNK
from gristmill.pipeline.models.load import pick_device, pick_dtype
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a model is.

    Attributes:
        parameters: in all.
        body: those of the blocks that multiply a token; of experts those that it meets.
        head: those of the LM head.
        bytes: of the weights on disk.
        shape: for the rows that signals keep.
    """

    parameters: int
    body: int
    head: int
    bytes: int
    shape: ModelShape

    def flops(self, tokens: float, length: float, *, head: bool) -> float:
        """Of a forward pass over so many tokens, in sequences of this length."""
        attention = 4 * length * self.shape.hidden * self.shape.blocks
        return tokens * (2 * (self.body + head * self.head) + attention)

    def memory(self, passes: Passes) -> int:
        """Bytes of weights, activations and logits of the largest batch."""
        dtype = pick_dtype(passes.dtype, pick_device(passes.device))
        shape = self.shape
        # residual stream, attention inputs and the widest feed-forward tensors of one layer
        activations = passes.batch_tokens * (6 * shape.hidden + 3 * shape.inner) * 4
        logits = 3 * HEAD_CHUNK * shape.vocabulary * 4
        return int(self.parameters * (4 if dtype == "float32" else 2) + activations + logits)

    def training_memory(self, tokens: float, *, trained: float) -> int:
        """Bytes of weights, gradients, Adam's moments and the activations of a micro-batch.

        Args:
            tokens: of a micro-batch.
            trained: share of the parameters that is trained.
        """
        shape = self.shape
        kept = shape.blocks * (14 * shape.hidden + 4 * shape.inner) + 3 * shape.vocabulary
        return int(4 * self.parameters * (1 + 3 * trained) + 4 * tokens * kept)


def size_of(files: ModelFiles) -> Size:
    """The size of a model; what its folder says is read once."""
    root = files.base.path if files.base is not None else files.path
    return _size(root, files.layout == "sentence", _stamp(root))


def memory_of(files: ModelFiles, passes: Passes) -> int:
    """Bytes that a worker needs for passes of a model."""
    return size_of(files).memory(passes)


def _stamp(root: Path) -> int:
    return (root / "config.json").stat().st_mtime_ns


@lru_cache(maxsize=32)
def _size(root: Path, sentence: bool, stamp: int) -> Size:
    config: dict[str, Any] = json.loads((root / "config.json").read_text("utf-8"))
    text = config.get("text_config", config)
    hidden = int(text.get("hidden_size", 768))
    vocabulary = int(text.get("vocab_size", 0))
    found = sentence_weights(root) if sentence else weight_files(root)
    weights = [p for p in found if p.suffix == ".safetensors"]
    tensors = _tensors(weights)
    apart = [n for shape, _, n in tensors if shape[:1] == (vocabulary,) and len(shape) == 2]
    experts = sum(n for _, name, n in tensors if "experts." in name)
    whole = sum(n for *_, n in tensors)
    share = _met(text)
    return Size(
        parameters=whole,
        body=round(whole - sum(apart) - experts * (1 - share)),
        head=0 if sentence else hidden * vocabulary,
        bytes=sum(p.stat().st_size for p in weights),
        shape=ModelShape(
            hidden=hidden,
            inner=int(text.get("intermediate_size") or 4 * hidden),
            blocks=int(text.get("num_hidden_layers", 12)),
            vocabulary=vocabulary,
            matrices=() if sentence else _matrices(root),
        ),
    )


def _tensors(files: list[Path]) -> list[tuple[tuple[int, ...], str, int]]:
    """Shape, name and numbers of each tensor, from the headers alone."""
    found = []
    for path in files:
        with safe_open(path, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118  (no mapping)
                shape = tuple(opened.get_slice(name).get_shape())
                found.append((shape, name, math.prod(shape)))
    return found


def _met(config: dict[str, Any]) -> float:
    """The share of a block's experts that a token meets."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    there = next((int(config[n]) for n in names if config.get(n)), 0)
    met = int(config.get("num_experts_per_tok") or there)
    return met / there if there else 1.0


def _matrices(root: Path) -> tuple[tuple[int, int], ...]:
    from gristmill.pipeline.models.gradients.layers import linear_layers
    from gristmill.pipeline.models.low_rank import shell

    bare = ModelFiles(
        reference=str(root),
        path=root,
        layout="causal",
        model_sha="",
        tokenizer_sha="",
        chat_template_sha="",
    )
    try:
        layers = linear_layers(shell(bare))
    except ValueError:  # none that gradients are read of
        return ()
    return tuple((layer.inputs, layer.outputs) for layer in layers)
