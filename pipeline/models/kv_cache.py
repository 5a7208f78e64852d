"""The argument by which a model takes its cache of keys and values."""

import inspect
from typing import Any


def cached(model: Any, cache: Any) -> dict[str, Any]:  # noqa: ANN401
    """Keyword arguments of a forward pass that reads and extends the cache.

    Args:
        model: a transformers model, with a PEFT adapter or without.
        cache: a transformers cache.
    """
    inner = model.base_model.model if "peft_config" in vars(model) else model
    # transformers 5.24 gave `past_key_values` the name `cache`, in one family after the other, and
    # warns of the old one; the signature says which of the two a model has.
    renamed = "cache" in inspect.signature(inner.forward).parameters
    return {"cache" if renamed else "past_key_values": cache, "use_cache": True}
