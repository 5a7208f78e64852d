"""One JSON value of a file: a row, a dialogue that is a row, or a wrapper around a list of rows."""

from typing import Any

from gristmill.pipeline.ingest.columns import ALIASES, folded

# Names under which a wrapper holds its rows, whatever else it says of them.
_ROWS = frozenset(("data", "rows", "examples", "items", "records", "samples", "train"))


def rows_in(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an object: those of the one list that it wraps, or the object itself."""
    lists = {k: v for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    if len(lists) == 1:
        ((name, rows),) = lists.items()
        if folded(name) in _ROWS or not (_is_turn(rows[0]) or _asks(value)):
            return rows
    return [value] if value else []


def as_row(value: object) -> object:
    """A dialogue that is a bare list of turns as a row; any other value as it is."""
    if isinstance(value, list) and value and _is_turn(value[0]):
        return {"messages": value}
    return value


def _is_turn(value: object) -> bool:
    if not isinstance(value, dict) or not {"role", "from"} & set(value):
        return False
    return bool({"content", "value", "parts", "text", "tool_calls"} & set(value))


def _asks(value: dict[str, Any]) -> bool:
    """Whether an object has a prompt of its own."""
    return any(folded(k) in ALIASES["prompt"] and isinstance(v, str) for k, v in value.items())
