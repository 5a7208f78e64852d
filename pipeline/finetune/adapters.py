"""Which layers an adapter stands on: found by the model's structure, or named by the user.

| targets | means |
|---|---|
| `("attention",)` | every linear layer of the model's attention, whatever the family calls it |
| `("all-linear",)` | every linear layer but the head |
| names | ends of module names, each of which must match a linear layer |

Families differ in names alone (`q_proj`, `qkv_proj`, `query_key_value`, GPT-2's `c_attn`), so a
list of names would leave some of them with half an adapter, or with none.
"""

from collections.abc import Sequence
from typing import Any

ATTENTION, EVERYWHERE = "attention", "all-linear"
_WORDS = ("attention", "attn")


def adapter_layers(model: Any, targets: Sequence[str]) -> tuple[str, ...]:  # noqa: ANN401
    """The layers that `targets` mean in this model, as PEFT's ends of module names.

    Args:
        model: a transformers model without an adapter.
        targets: see the table above.

    Raises:
        ValueError: a name matches no linear layer, or the model has none.
    """
    every = _linear(model)
    if not every:
        raise ValueError(
            f"{type(model).__name__} has no linear layer that an adapter could stand on: train all "
            "of its weights."
        )
    if tuple(targets) == (EVERYWHERE,):
        return _ends(list(every), every)
    if tuple(targets) == (ATTENTION,):
        attention = [name for name in every if _in_attention(model, name)]
        # a model without attention (a state-space model) adapts wherever it can
        return _ends(attention or list(every), every)
    lost = [t for t in targets if not any(_ends_in(name, t) for name in every)]
    if lost or not targets:
        known = ", ".join(_ends(list(every), every))
        raise ValueError(
            f"the adapter's targets name {', '.join(lost) or 'nothing'}, which matches no linear "
            f"layer of {type(model).__name__}: give some of {known}, or attention, or all-linear."
        )
    return tuple(targets)


def stored_transposed(model: Any, layers: Sequence[str]) -> bool:  # noqa: ANN401
    """Whether these layers keep their weights input by output, as GPT-2's do."""
    from transformers.pytorch_utils import Conv1D

    chosen = [m for n, m in _linear(model).items() if any(_ends_in(n, end) for end in layers)]
    return all(isinstance(module, Conv1D) for module in chosen)


def stands_on(model: Any) -> str:  # noqa: ANN401
    """A sentence on a model's adapter: its layers, and how much of the model they are."""
    if not hasattr(model, "peft_config"):
        return ""
    config = model.peft_config["default"]
    adapted = [m for m in model.modules() if hasattr(m, "lora_A") and len(m.lora_A)]
    layers = [m.get_base_layer() for m in adapted]
    weights = sum(p.numel() for layer in layers for p in layer.parameters(recurse=False))
    own = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    whole = sum(p.numel() for p in model.parameters()) - own
    names = config.target_modules
    told = names if isinstance(names, str) else ", ".join(sorted(names))
    return (
        f"adapter of rank {config.r} on {len(layers)} layers ({told}), which hold "
        f"{weights / whole:.0%} of the model's weights."
    )


def _linear(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """The linear layers of the decoder by name; not the head, nor a reward model's score."""
    from gristmill.pipeline.models.gradients.layers import linear_modules

    inner = model.base_model
    within = {id(m) for m in inner.modules()}
    return {n: m for n, m in linear_modules(model) if id(m) in within}


def _in_attention(model: Any, name: str) -> bool:  # noqa: ANN401
    """Whether some module around the layer is an attention, by its class or by its name."""
    parts = name.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        around = type(model.get_submodule(".".join(parts[:depth]))).__name__
        if any(word in text.lower() for text in (parts[depth - 1], around) for word in _WORDS):
            return True
    return False


def _ends(chosen: Sequence[str], every: Any) -> tuple[str, ...]:  # noqa: ANN401
    """The shortest ends of the chosen names that no other layer's name has."""
    others = [n for n in every if n not in set(chosen)]
    ends = set()
    for name in chosen:
        parts = name.split(".")
        tails = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        ends.add(next((t for t in tails if not any(_ends_in(o, t) for o in others)), name))
    return tuple(sorted(ends))


def _ends_in(name: str, end: str) -> bool:
    return name == end or name.endswith("." + end)
