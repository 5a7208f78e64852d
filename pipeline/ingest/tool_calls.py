"""Tool calls in the one form of records: a list of functions whose arguments are objects."""

from collections.abc import Callable, Mapping
from typing import Any

from gristmill.pipeline.ingest.json_values import is_empty, loads, unpadded
from gristmill.pipeline.ingest.raw_rows import BadRow

BAD = "bad_tool_call"
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_FORM = ("function", "type", "name", "id", "index", *_ARGUMENTS)


def calls(value: object) -> list[dict[str, Any]]:
    """The calls of a turn, from a list of calls, one call, or JSON text of either.

    Raises:
        BadRow: a call has no name, or its arguments are no object.
    """
    value = _opened(value)
    if is_empty(value):
        return []
    return [_call(_opened(call)) for call in (value if isinstance(value, list) else [value])]


def _opened(value: object) -> Any:  # noqa: ANN401  (JSON)
    if isinstance(value, str):
        return loads(value, BAD) if value.strip() else None
    return unpadded(value)


def _call(call: object) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise BadRow(BAD)
    inner = call.get("function", call)
    if isinstance(inner, str):  # the name alone, beside its arguments
        inner = {**call, "name": inner}
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise BadRow(BAD)
    found: Any = next((inner[key] for key in _ARGUMENTS if inner.get(key) is not None), {})
    arguments = _opened(found)
    if is_empty(arguments):
        arguments = {}
    if not isinstance(arguments, dict):
        raise BadRow(f"{BAD}: arguments of {name[:40]}")
    made: dict[str, Any] = {
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    if not is_empty(call.get("id")):
        made["id"] = call["id"]
    return made | {k: v for k, v in call.items() if k not in _FORM and not is_empty(v)}


def blocks(
    parts: list[Any], text_of: Callable[[Any], str]
) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]], str]:
    """What a content made of parts says: its text, its calls, results of calls, and its thoughts.

    Args:
        parts: text parts, and the blocks of Anthropic's and Google's messages.
        text_of: the text of any other part, or `BadRow`.
    """
    texts: list[str] = []
    made: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for raw in parts:
        part = unpadded(raw) if isinstance(raw, dict) else raw
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "tool_use":
            made.append(_call({k: v for k, v in part.items() if k != "type"}))
        elif kind == "tool_result":
            content = part.get("content", "")
            inner = content if isinstance(content, list) else [content]
            said = "".join(text_of(p) for p in inner)
            results.append({"tool_call_id": part.get("tool_use_id"), "content": said})
        elif kind in ("thinking", "reasoning") and isinstance(part.get(kind), str):
            thoughts.append(part[kind])
        elif kind is None and isinstance(part, Mapping) and "functionCall" in part:
            made.append(_call(part["functionCall"]))
        elif kind is None and isinstance(part, Mapping) and "functionResponse" in part:
            answered = part["functionResponse"]
            results.append({"name": answered.get("name"), "content": answered.get("response")})
        else:
            texts.append(text_of(part))
    return "".join(texts), made, results, "\n".join(thoughts)
