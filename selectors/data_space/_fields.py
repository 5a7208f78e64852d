"""Fields of a record's `meta` that its maker filled: tags, and numbers."""

import math
from typing import Any

from gristmill.pipeline.signals.rollouts import from_meta


def tags(meta: str | None, path: str) -> tuple[str, ...]:
    """The distinct tags of a record, sorted: of a list, or of texts apart by commas."""
    value: Any = from_meta(meta, path)
    if isinstance(value, str):
        value = value.split(",")
    listed = value if isinstance(value, list) else [value]
    texts = (str(v).strip() for v in listed if isinstance(v, (str, int, float)))
    return tuple(sorted({t for t in texts if t}))


def number(meta: str | None, path: str) -> float | None:
    """A number, or the mean of a list of them (a turn each, yes or no each); None if it is none."""
    value: Any = from_meta(meta, path)
    listed = value if isinstance(value, list) else [value]
    try:
        numbers = [float(v) for v in listed]
    except (TypeError, ValueError):
        return None
    mean = math.fsum(numbers) / len(numbers) if numbers else math.nan
    return mean if math.isfinite(mean) else None
