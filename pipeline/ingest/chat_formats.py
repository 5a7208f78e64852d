"""Chat turns from the forms in which data sets write them: roles, contents, tool calls, pairs.

A message is a dict of `role` (system, user, assistant, tool), `content` and `extra`: canonical JSON
of every further field (tool_calls, reasoning_content, name, tool_call_id ...), or None.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gristmill.pipeline.ingest.raw_rows import BadRow, check_depth
from gristmill.pipeline.records.json_text import Reader
from gristmill.pipeline.records.schema import canonical_json
from gristmill.pipeline.records.text import OURS

Message = dict[str, str | None]

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "ipython"), "tool"),
    **dict.fromkeys(("tool_response", "function_response"), "tool"),
}
_CALLS = ("function_call", "tool_call")  # ShareGPT turns whose value is the call as JSON
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ALPACA = re.compile(r"\s*(?:Below is an instruction[^\n]*\n+)?###\s*Instruction:(?P<gap>\s*\n)")
_INPUT = re.compile(r"\n###\s*Input:\s*\n")


def turn(role: str, content: str) -> Message:
    """A plain message."""
    return {"role": role, "content": content, "extra": None}


def messages(value: object, field: str = "messages") -> list[Message]:
    """A list of turns from a list of objects, one object, or JSON text of either."""
    if isinstance(value, str):  # CSV holds lists as JSON
        value = loads(value, f"bad_field: {field}")
    if isinstance(value, dict):
        columns = list(value.values())
        if columns and all(isinstance(c, list) for c in columns):  # `datasets` turned it around
            value = [dict(zip(value, items, strict=False)) for items in zip(*columns, strict=False)]
        else:
            value = [value]
    if not isinstance(value, list):
        raise BadRow(f"bad_field: {field}")
    if not value:
        raise BadRow(f"empty_{field}")
    turns = [_message(item) for item in value]
    return turns[1:] if turns[0] == turn("system", "") and turns[1:] else turns


def loads(text: str, reason: str) -> Any:  # noqa: ANN401  (JSON)
    """Parse JSON text inside a row, or say with `reason` that it is none."""
    reader = Reader()
    try:
        value = reader.decode(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(reason) from error
    if reader.ambiguous is not None:
        raise BadRow(f"duplicate_key: {reader.ambiguous[:40]}")
    check_depth(value, text)
    return value


def _message(item: object) -> Message:
    if not isinstance(item, dict):
        raise BadRow("message_not_an_object")
    name = item.get("role") or item.get("from")
    if not isinstance(name, str):
        raise BadRow("missing_field: role")
    role = ROLES.get(name) or ROLES.get(name.strip().lower())
    if role is None:
        raise BadRow(f"bad_role: {name[:40]}")
    content = item["content"] if "content" in item else item.get("value")
    packed = item.get("extra")  # our own form, read again
    packed = loads(packed, "bad_field: extra") if isinstance(packed, str) else packed
    if not isinstance(packed, dict | None):
        raise BadRow("bad_field: extra")
    found = {**(packed or {}), **item}
    extra = {k: v for k, v in found.items() if k not in OURS and v is not None}
    if name in _CALLS and isinstance(content, str):
        content, extra = "", {**extra, "tool_calls": _calls(content)}
    if isinstance(content, list):
        content = "".join(_text_part(part) for part in content)
    if content is None and "tool_calls" in extra:
        content = ""
    if not isinstance(content, str):
        raise BadRow("missing_field: content" if content is None else "bad_field: content")
    if not content.strip() and not extra and role in ("user", "assistant"):
        raise BadRow(f"empty_content: {role}")
    return {"role": role, "content": content, "extra": canonical_json(extra) if extra else None}


def _calls(text: str) -> list[dict[str, Any]]:
    calls = loads(text, "bad_tool_call")
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(c, dict) and "name" in c for c in calls):
        raise BadRow("bad_tool_call")
    return [{"type": "function", "function": call} for call in calls]


def _text_part(part: object) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise BadRow("not_text")


def question(text: str, context: str | None = None) -> list[Message]:
    """The turns of a prompt given as text: plain, in Alpaca's wrapper, or a transcript."""
    if text.lstrip().startswith(("### Instruction:", "Below is an instruction")):
        text, inside = _unwrapped(text)
        context = inside or context
    elif text.startswith("\n\nHuman:"):
        return transcript(text)
    if not text.strip():
        raise BadRow("empty_field: prompt")
    return [turn("user", f"{text}\n\n{context}" if context and context.strip() else text)]


def _unwrapped(text: str) -> tuple[str, str | None]:
    """Instruction and input of a prompt in Alpaca's wrapper; any other text as it is.

    The wrapper is looked for from both ends: one pattern over all of it takes quadratic time on a
    text that is nothing but line ends.
    """
    head = _ALPACA.match(text)
    rest = text.rstrip()
    before = rest.removesuffix("Response:").rstrip()
    if head is None or before == rest or not before.endswith("\n###"):
        return text, None
    end = len(before) - len("\n###")
    if end <= text.index("\n", head.start("gap")):  # the only line end after the title
        return text, None
    inner = _INPUT.search(text, head.end(), end)
    if inner is None:
        return text[head.end() : end].strip(), None
    return text[head.end() : inner.start()].strip(), text[inner.end() : end].rstrip("\n")


def history(exchanges: Sequence[object]) -> list[Message]:
    """The turns before a prompt, given as pairs of question and answer."""
    turns: list[Message] = []
    for exchange in exchanges:
        match exchange:
            case [str(asked), str(said)]:
                turns += [turn("user", asked), turn("assistant", said)]
            case _:
                raise BadRow("bad_field: history")
    return turns


def transcript(text: str) -> list[Message]:
    """The turns of a dialogue written as one text: Human and Assistant, each after a blank line.

    A last "Assistant:" with nothing after it is only the cue for the answer.
    """
    pieces = _TURN.split(text)
    if pieces[0].strip() or len(pieces) < 3:
        raise BadRow("no_turns")
    spoken = [(who, said.strip()) for who, said in zip(pieces[1::2], pieces[2::2], strict=True)]
    if len(spoken) > 1 and spoken[-1] == ("Assistant", ""):
        spoken.pop()
    if not all(said for _, said in spoken):
        raise BadRow("empty_content: turn")
    return [turn("user" if who == "Human" else "assistant", said) for who, said in spoken]


def answer(value: object, field: str) -> list[Message]:
    """The turns of an answer given as text, number, one message or several."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str):
        if not value.strip():
            raise BadRow(f"empty_field: {field}")
        return transcript(value) if value.startswith("\n\nHuman:") else [turn("assistant", value)]
    return messages(value, field)


def pair(
    prompt: Sequence[Message], chosen: Sequence[Message], rejected: Sequence[Message]
) -> Mapping[str, list[Message]]:
    """Prompt and two answers, which may have been given as whole conversations.

    Whole conversations are cut where they first differ. That must be at an assistant turn: two
    answers to different questions are no preference.
    """
    if chosen == rejected:
        raise BadRow("chosen_equals_rejected")
    if chosen[0]["role"] != "assistant" or rejected[0]["role"] != "assistant":
        same = 0
        while chosen[same : same + 1] == rejected[same : same + 1]:  # they differ somewhere
            same += 1
        prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    if not prompt:
        raise BadRow("missing_field: prompt")
    for tail in (chosen, rejected):
        if not tail or tail[0]["role"] != "assistant":
            raise BadRow("prompts_differ")
        if tail[-1]["role"] != "assistant":
            raise BadRow("no_assistant_turn")
    return {"prompt": list(prompt), "chosen": list(chosen), "rejected": list(rejected)}
