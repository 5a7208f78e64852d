"""Columns beside the dialogue: what the instruction is about, system prompts, tools, earlier turns.

Each is read in every form in which it is written, or its row is bad: a model trained without it
would learn to answer a question that nobody sees.
"""

from collections.abc import Mapping
from typing import Any

from gristmill.pipeline.ingest.chat_formats import Message, are_turns, messages, turn
from gristmill.pipeline.ingest.json_values import is_empty, loads, objects_in, unpadded
from gristmill.pipeline.ingest.prompt_texts import is_transcript, transcript
from gristmill.pipeline.ingest.raw_rows import BadRow
from gristmill.pipeline.records import json_text

# Two sides of an earlier exchange, by the names under which they are written.
_EXCHANGES = (
    ("user", "assistant"),
    ("human", "assistant"),
    ("human", "gpt"),
    ("question", "answer"),
    ("instruction", "output"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("query", "response"),
    ("input", "output"),
)


def text_of(value: object) -> str:
    """What an instruction is about, as text: a list of texts as paragraphs, else JSON."""
    if isinstance(value, str):
        return value if value.strip() else ""
    value = unpadded(value)
    if is_empty(value):
        return ""
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return "\n\n".join(v for v in value if v.strip())
    return json_text.published(value)


def system_text(value: object, column: str) -> str:
    """A system prompt: a text, a list of texts or text parts, or a message."""
    if isinstance(value, dict):
        value = [value]
    parts = value if isinstance(value, list) else [value]
    texts = []
    for part in parts:
        if isinstance(part, dict):
            part = part.get("text", part.get("content", part.get("value")))
        if part is None:
            continue
        if not isinstance(part, str):
            raise BadRow(f"bad_field: {column}")
        texts.append(part)
    return "\n".join(t for t in texts if t.strip())


def tools(value: object, column: str) -> list[Any]:
    """Tools as a list of objects, from a list, one object, JSON text, or a list of JSON texts."""
    if isinstance(value, str):
        if not value.strip():
            return []
        value = loads(value, f"bad_field: {column}")
    else:
        value = unpadded(value)
    if is_empty(value):
        return []
    found = []
    for tool in value if isinstance(value, list) else [value]:
        if isinstance(tool, str):
            tool = loads(tool, f"bad_field: {column}")
        if not isinstance(tool, dict) or not tool:
            raise BadRow(f"bad_field: {column}")
        found.append(_as_function(tool))
    return found


def _as_function(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool in the form of functions, where it has that of Anthropic's messages."""
    if not {"name", "input_schema"} <= set(tool):
        return tool
    named = {("parameters" if k == "input_schema" else k): v for k, v in tool.items()}
    return {"type": "function", "function": {k: v for k, v in named.items() if k != "type"}}


def history(value: object, column: str) -> list[Message]:
    """The turns before a prompt: messages, pairs of question and answer, a transcript, or JSON."""
    if isinstance(value, str):
        if not value.strip():
            return []
        if is_transcript(value):
            return transcript(value)
        value = objects_in(value, f"bad_field: {column}")
    value = unpadded(value)
    if is_empty(value):
        return []
    turned = isinstance(value, dict) and all(isinstance(v, list) for v in value.values())
    if are_turns(value) or turned:
        return messages(value, column)
    if not isinstance(value, list):
        raise BadRow(f"bad_field: {column}")
    turns: list[Message] = []
    for exchange in value:
        match _exchange(exchange):
            case [str(asked), str(answered)] if asked.strip() and answered.strip():
                turns += [turn("user", asked), turn("assistant", answered)]
            case _:
                raise BadRow(f"bad_field: {column}")
    return turns


def _exchange(exchange: object) -> object:
    if not isinstance(exchange, Mapping):
        return exchange
    sides = next((s for s in _EXCHANGES if set(s) == set(exchange)), ())
    return [exchange[side] for side in sides]
