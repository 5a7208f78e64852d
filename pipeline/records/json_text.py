"""JSON that somebody else may have written, and JSON that is published.

NaN, Infinity and numbers like 1e999 are no JSON, though Python reads and writes them: a null stands
in their place, so that every reader can read what is published. A key that stands twice in one
object with different values says two things, of which readers keep one: it is named, not chosen.
"""

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

_DIGITS = 4_000  # Python refuses to read integers of more than 4,300


class Ambiguous(dict[str, Any]):
    """An object in which a key stands twice with different values; the last value is here."""

    key = ""


class Reader:
    """Reads JSON; `ambiguous` is the key that stood twice in what was read last, or None."""

    def __init__(self) -> None:
        self.ambiguous: str | None = None
        self._decoder = json.JSONDecoder(
            parse_constant=_nothing,
            parse_float=_number,
            parse_int=_integer,
            object_pairs_hook=self._object,
        )

    def decode(self, text: str) -> Any:  # noqa: ANN401  (JSON)
        """The value of a text, or a ValueError or RecursionError of `json`."""
        self.ambiguous = None
        return self._decoder.decode(text)

    def decode_at(self, text: str, at: int) -> tuple[Any, int]:
        """The value that begins at a place, and the place after it."""
        self.ambiguous = None
        return self._decoder.raw_decode(text, at)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            for key, one in pairs:
                if value[key] != one:
                    value = Ambiguous(value)
                    value.key = self.ambiguous = key
                    break
        return value


def loads(text: str) -> Any:  # noqa: ANN401  (JSON)
    """The value of a JSON text, with a null for every number that JSON cannot say.

    Raises:
        ValueError: it is no JSON, or nests too deep to be read.
    """
    try:
        return Reader().decode(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def ambiguous(value: object) -> str | None:
    """A key that stands twice somewhere in a value that a `Reader` read, or None."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, Ambiguous):
            return node.key
        if isinstance(node, dict):
            stack += node.values()
        elif isinstance(node, list):
            stack += node
    return None


def finite(value: object) -> Any:  # noqa: ANN401  (JSON)
    """The value with a null for every NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value


def published(value: object, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """The JSON text of a value that others will read."""
    text = partial(
        json.dumps, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False
    )
    try:
        return text(value)
    except ValueError:  # a NaN or an infinity, which few values hold
        return text(finite(value))


def _nothing(_: str) -> None:
    """NaN, Infinity and -Infinity."""


def _number(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _integer(text: str) -> int | None:
    return int(text) if len(text) <= _DIGITS else None
