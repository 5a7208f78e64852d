"""Answers: one column that holds a text, a number, several right answers, or turns."""

from typing import Any

from gristmill.pipeline.ingest.chat_formats import Message, are_turns, messages, turn, turns_in
from gristmill.pipeline.ingest.json_values import is_empty, unpadded
from gristmill.pipeline.ingest.pairs import text_of
from gristmill.pipeline.ingest.prompt_texts import is_transcript, transcript
from gristmill.pipeline.ingest.raw_rows import BadRow


def answer(value: object, field: str) -> list[Message]:
    """The turns of an answer given as text, number, one message or several."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return messages(value, field)
    if not value.strip():
        raise BadRow(f"empty_field: {field}")
    if is_transcript(value):
        return transcript(value)
    return turns_in(value, field) or [turn("assistant", value)]


def first_of(value: object, field: str) -> tuple[object, str | None, object]:
    """One answer where a column may hold several right ones, its input, and what is left.

    Args:
        value: a text, a number or turns, which are one answer; a list of them; or an object that
            holds one, as SQuAD, TriviaQA and self-instruct write it.
        field: the column.

    Returns:
        the first answer that says something; the input beside it, if it has one; the further
        answers, None without any.
    """
    value = unpadded(value)
    if are_turns(value):
        return value, None, None
    if isinstance(value, dict):
        return _in_object(value, field)
    if not isinstance(value, list) or not value:
        return value, None, None
    for at, item in enumerate(value):
        if is_empty(item):
            continue
        rest = [other for i, other in enumerate(value) if i != at and not is_empty(other)] or None
        if isinstance(item, dict):
            text = text_of(item)
            inner = item.get("input")
            context = inner if isinstance(inner, str) else None
            return ("" if text is None else text), context, rest
        return item, None, rest
    return "", None, None


def _in_object(value: dict[str, Any], field: str) -> tuple[object, str | None, object]:
    for name in ("text", "value", "answer"):
        if name not in value or "role" in value or "from" in value:
            continue
        found, _, rest = first_of(value[name], field)
        others = {k: v for k, v in value.items() if k != name}
        left: dict[str, Any] = others if rest is None else {name: rest, **others}
        return found, None, left or None
    return value, None, None
