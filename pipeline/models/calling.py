"""How a model is called, whatever adapter stands around it and whatever its version names."""

import inspect
from typing import Any


def bare(model: Any) -> Any:  # noqa: ANN401
    """The transformers model inside a PEFT model (its layers keep the adapter); others as is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def cached(model: Any, cache: Any) -> dict[str, Any]:  # noqa: ANN401
    """Keyword arguments of a forward pass that reads and extends the cache of keys and values.

    Args:
        model: a transformers model, with a PEFT adapter or without.
        cache: a transformers cache.
    """
    # transformers 5.24 gave `past_key_values` the name `cache`, in one family after the other, and
    # warns of the old one; the signature says which of the two a model has.
    renamed = "cache" in inspect.signature(bare(model).forward).parameters
    return {"cache" if renamed else "past_key_values": cache, "use_cache": True}
