"""Dialogue: a record as the turns that a person reads, each with all that it holds."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gristmill.pipeline.records.schema import CONTENT, kind_of
from gristmill.pipeline.records.text import CALLS, LOSS, REASONING, further


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn.

    Attributes:
        part: the column that it stands in: messages, prompt, chosen, rejected, text or tools.
        role: who speaks; of a document "text".
        content: what is said.
        reasoning: what was thought before.
        calls: tool calls, as (name, arguments).
        further: every other field of the turn.
        trained: whether it carries loss, where the turn says so itself.
    """

    part: str
    role: str
    content: str
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    further: Mapping[str, str] = field(default_factory=dict)
    trained: bool | None = None


def turns(record: Mapping[str, Any]) -> list[Turn]:
    """The turns of a record of the store, the tools that it offers last."""
    kind = kind_of(record)
    if kind == "document":
        return [Turn(part="text", role="text", content=record["text"] or "")]
    found = [
        _turn(part, message)
        for part in CONTENT[kind]
        if part != "tools"
        for message in record[part] or ()
    ]
    if record.get("tools"):
        found.append(Turn(part="tools", role="tools", content=_pretty(record["tools"])))
    return found


def _turn(part: str, message: Mapping[str, Any]) -> Turn:
    rest = further(message.get("extra"))
    reasoning = [_text(rest.pop(name)) for name in REASONING if name in rest]
    calls = [call for name in CALLS if name in rest for call in _calls(rest.pop(name))]
    weight = rest.pop(LOSS, None)
    return Turn(
        part=part,
        role=message["role"] or "",
        content=message["content"] or "",
        reasoning="\n".join(r for r in reasoning if r),
        calls=tuple(calls),
        further={k: _text(v) for k, v in rest.items() if v not in (None, "", [], {})},
        trained=None if weight is None else bool(weight),
    )


def _calls(told: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    for call in told if isinstance(told, list) else [told]:
        inner = call.get("function", call) if isinstance(call, dict) else call
        if isinstance(inner, dict):
            yield str(inner.get("name", "?")), _pretty(inner.get("arguments", ""))
        elif inner:
            yield "?", _text(inner)


def _text(value: Any) -> str:  # noqa: ANN401
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)


def _pretty(value: Any) -> str:  # noqa: ANN401
    """JSON, whether inside a text or not, with a line a field."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
    return _text(value)
