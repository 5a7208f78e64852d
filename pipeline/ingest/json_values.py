"""JSON values inside a row: text that holds JSON, empty values, and the nulls that tables add."""

import ast
import re
from typing import Any

from gristmill.pipeline.ingest.raw_rows import BadRow, check_depth
from gristmill.pipeline.records.json_text import Reader

_OBJECTS = re.compile(r"\s*(?:\[\s*)?\{\s*[\"']")


def loads(text: str, reason: str) -> Any:  # noqa: ANN401  (JSON)
    """Parse JSON text inside a row, or say with `reason` that it is none."""
    try:
        value = _read(text)
    except BadRow:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRow(reason) from error
    check_depth(value, text)
    return value


def _read(text: str) -> Any:  # noqa: ANN401  (JSON)
    reader = Reader()
    value = reader.decode(text.strip())
    if reader.ambiguous is not None:
        raise BadRow(f"duplicate_key: {reader.ambiguous[:40]}")
    return value


def objects_in(text: str, reason: str) -> Any:  # noqa: ANN401  (JSON)
    """What a text holds that writes a list of objects as JSON, or as Python would print it."""
    try:
        value = _read(text)
    except BadRow:
        raise
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise BadRow(reason) from error
    check_depth(value, text)
    return value


def opens_object(text: str) -> bool:
    """Whether a text begins like an object or a list of objects."""
    return _OBJECTS.match(text) is not None


def is_empty(value: object) -> bool:
    """Whether a value says nothing: null, blank text, an empty list or object."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or value == {}


def unpadded(value: object) -> Any:  # noqa: ANN401  (JSON)
    """The value without the null fields that a table gives every object of a column.

    An object of nothing but nulls is one too. JSON text is not looked into: its nulls were written.
    """
    if isinstance(value, dict):
        return {k: unpadded(v) for k, v in value.items() if not _is_padding(v)}
    if isinstance(value, list):
        return [unpadded(v) for v in value]
    return value


def _is_padding(value: object) -> bool:
    if isinstance(value, dict) and value:
        return all(map(_is_padding, value.values()))
    return value is None
