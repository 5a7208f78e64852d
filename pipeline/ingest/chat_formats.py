"""Chat turns from the forms in which data sets write them: roles, contents, tool calls.

A message is a dict of `role` (system, user, assistant, tool), `content` and `extra`: canonical JSON
of every further field that a model is shown or trained by (`CONTENT`), or None. Whatever else a
turn bears (ids, times, scores) is bookkeeping: it makes no other turn of it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gristmill.pipeline.ingest.columns import folded
from gristmill.pipeline.ingest.json_values import (
    is_empty,
    loads,
    objects_in,
    opens_object,
    unpadded,
)
from gristmill.pipeline.ingest.media import check_columns, part_text
from gristmill.pipeline.ingest.raw_rows import BadRow
from gristmill.pipeline.ingest.tool_calls import blocks, calls
from gristmill.pipeline.ingest.verdicts import number_of
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.schema import canonical_json
from gristmill.pipeline.records.text import (
    CALLS,
    LOSS,
    OURS,
    REASONING,
    further,
    is_context,
)

Message = dict[str, str | None]

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "ipython"), "tool"),
    **dict.fromkeys(("tool_response", "function_response", "tool_result"), "tool"),
}
# Further fields that chat templates render, beside the calls; `LOSS` is read from `_LOSSES`.
CONTENT = frozenset((*REASONING, "name", "tool_call_id", "tools", "documents"))
_CONTENTS = ("content", "value", "parts", "text")  # where a turn's text stands
_CALLERS = ("function_call", "tool_call", "tool_calls")  # ShareGPT turns whose value is the call
_LOSSES = (LOSS, "loss_weight", "loss_mask", "loss", "train", "training", "trainable")


def turn(role: str, content: str) -> Message:
    """A plain message."""
    return {"role": role, "content": content, "extra": None}


def as_context(message: Message) -> Message:
    """A turn of a prompt, where no turn carries loss anyway."""
    if not is_context(message):
        return message
    extra = {k: v for k, v in further(message["extra"]).items() if k != LOSS}
    return {**message, "extra": canonical_json(extra) if extra else None}


def messages(value: object, field: str = "messages") -> list[Message]:
    """A list of turns from a list of objects, one object, or JSON text of either."""
    listed = _listed(value, field)
    if not isinstance(listed, list):
        raise BadRow(f"bad_field: {field}")
    if not listed:
        raise BadRow(f"empty_{field}")
    turns = [made for item in listed for made in _turns(item)]
    return turns[1:] if turns[0] == turn("system", "") and turns[1:] else turns


def _listed(value: object, field: str) -> Any:  # noqa: ANN401  (JSON)
    """The turns as a list, however they were packed."""
    if isinstance(value, str):  # CSV holds lists as JSON
        value = objects_in(value, f"bad_field: {field}")
    if isinstance(value, dict):
        columns = list(value.values())
        if columns and all(isinstance(c, list) for c in columns):  # `datasets` turned it around
            return [dict(zip(value, items, strict=False)) for items in zip(*columns, strict=False)]
        return [value]
    return value


def are_turns(value: object) -> bool:
    """Whether a value is a turn, or a list that begins with one."""
    if isinstance(value, list):
        return bool(value) and are_turns(value[0])
    return isinstance(value, dict) and ("role" in value or "from" in value)


def turns_in(text: str, field: str) -> list[Message] | None:
    """The turns that a text writes as JSON; None where it is a text like any other."""
    if not opens_object(text) or not ("role" in text or "from" in text):
        return None
    try:
        value = objects_in(text, f"bad_field: {field}")
    except BadRow:
        if re.match(r"\s*\[\s*\{'(?:role|from|content|value)':", text):  # a list, badly printed
            raise
        return None
    return messages(value, field) if are_turns(value) else None


def bookkeeping(value: object) -> list[dict[str, Any]] | None:
    """What each turn of a column bears beyond its content; None where no turn bears any."""
    try:
        listed = _listed(value, "") if not isinstance(value, str) or opens_object(value) else None
    except BadRow:  # a text that only begins like JSON
        return None
    items = listed if isinstance(listed, list) and are_turns(listed) else []
    rest = [
        {
            k: v
            for k, v in unpadded(item).items()
            if k not in OURS | CONTENT and k not in (*_CONTENTS, *CALLS, *_LOSSES)
            if not is_empty(v)
        }
        for item in items
        if isinstance(item, dict)
    ]
    return rest if any(rest) else None


def _opened(item: object) -> object:
    """A turn; one that is JSON text, as we publish turns with further fields, is opened."""
    return loads(item, "message_not_an_object") if isinstance(item, str) else item


def _turns(raw: object) -> Iterator[Message]:
    """The turns of one object: results of tools inside a user's turn are turns of their own."""
    if isinstance(raw, str) and not opens_object(raw):
        raise BadRow("message_not_an_object")
    item = _opened(raw)
    if not isinstance(item, dict):
        raise BadRow("message_not_an_object")
    check_columns(item)
    name = item.get("role") or item.get("from")
    if not isinstance(name, str):
        raise BadRow("missing_field: role")
    role = ROLES.get(folded(name))
    if role is None:
        raise BadRow(f"bad_role: {name[:40]}")
    packed = item.get("extra")  # our own form, read again
    packed = loads(packed, "bad_field: extra") if isinstance(packed, str) else packed
    if not isinstance(packed, dict | None):
        raise BadRow("bad_field: extra")
    found = {**(packed or {}), **(item if isinstance(raw, str) else unpadded(item))}
    extra = {k: v for k, v in found.items() if k in CONTENT and not is_empty(v)}
    made = [call for key in CALLS for call in calls(found.get(key))]
    content: Any = next((found[k] for k in _CONTENTS if found.get(k) is not None), None)
    if folded(name) in _CALLERS and isinstance(content, str):
        content, made = "", [*made, *(calls(content) or _no_call())]
    if isinstance(content, list) and (role != "tool" or _are_parts(content)):
        content, more, results, thoughts = blocks(content, part_text)
        made += more
        for result in results:
            known = {k: v for k, v in result.items() if k != "content" and not is_empty(v)}
            yield _message("tool", _as_text(result["content"]), known)
        if results and not content.strip():
            return
        if thoughts:
            extra.setdefault("reasoning_content", thoughts)
    if role == "tool" and content is not None:
        content = _as_text(content)
    if made:
        extra["tool_calls"] = made
    if role == "assistant" and not _carries_loss(found):
        extra[LOSS] = 0
    if content is None and isinstance(found.get("refusal"), str):
        content = found["refusal"]
    if content is None and extra.keys() & {"tool_calls", *REASONING}:
        content = ""
    if not isinstance(content, str):
        raise BadRow("missing_field: content" if content is None else "bad_field: content")
    if not content.strip() and not extra.keys() - {LOSS} and role in ("user", "assistant"):
        raise BadRow(f"empty_content: {role}")
    yield _message(role, content, extra)


def _message(role: str, content: str, extra: Mapping[str, Any]) -> Message:
    packed = canonical_json(extra) if extra else None
    return {"role": role, "content": content, "extra": packed}


def _are_parts(content: list[Any]) -> bool:
    return all(isinstance(part, dict) and "type" in part for part in content)


def _as_text(content: object) -> str:
    """What a tool returned, as text: objects as JSON."""
    return content if isinstance(content, str) else json_text.published(content)


def _no_call() -> list[Any]:
    raise BadRow("bad_tool_call")


def _carries_loss(found: Mapping[str, Any]) -> bool:
    """Whether an assistant's turn is trained on: not with a weight of 0."""
    for name in _LOSSES:
        value = found.get(name)
        if value is None:
            continue
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            value = value.strip().lower() == "true"
        weight = float(value) if isinstance(value, bool) else number_of(value)
        if weight == 0:
            return False
        if weight != 1 and name == LOSS:  # a loss that was measured is bookkeeping, a weight is not
            raise BadRow(f"bad_weight: {str(value)[:40]}")
    return True
