"""What of a record is put before an annotator, and what of it a correction replaces.

Nothing of what models said of the record is among it, nor which answer of a pair was chosen: which
one stands first is drawn by hash(seed, annotator, item).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gristmill.pipeline.records.schema import Kind, canonical_json, uniform

Side = Literal["chosen", "rejected"]
Message = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A record as it is shown.

    Attributes:
        context: the turns before what is judged.
        answers: what is judged: two answers of a pair in the order of the screen, else one.
        editable: the text that a correction may replace; None: there is none.
        tools: that the record offers, as JSON.
    """

    context: Sequence[Message]
    answers: Sequence[Sequence[Message]]
    editable: str | None = None
    tools: str | None = None


def first(seed: int, annotator: str, item: str) -> Side:
    """Which answer of a pair stands first for an annotator."""
    return "chosen" if uniform(seed, "shown first", f"{annotator}\0{item}") < 0.5 else "rejected"


def other(side: Side) -> Side:
    """The answer that is not this one."""
    return "rejected" if side == "chosen" else "chosen"


def pair(record: Mapping[str, Any], stands_first: Side) -> Shown:
    """A pair, one of its answers first."""
    sides = (stands_first, other(stands_first))
    return Shown(
        context=record["prompt"], answers=[record[s] for s in sides], tools=record.get("tools")
    )


def single(record: Mapping[str, Any], kind: Kind) -> Shown:
    """An example, its last answer apart, or a document."""
    if kind == "document":
        turn = {"role": "text", "content": record["text"], "extra": None}
        return Shown(context=[], answers=[[turn]], editable=record["text"])
    messages = record["messages"]
    at = answer_at(messages)
    tools = record.get("tools")
    if at is None:
        return Shown(context=messages, answers=[[]], tools=tools)
    return Shown(
        context=messages[:at],
        answers=[messages[at:]],
        editable=messages[at]["content"] or "",
        tools=tools,
    )


def corrected(record: Mapping[str, Any], kind: Kind, answer: str) -> dict[str, Any]:
    """The content of a record with another answer.

    Raises:
        ValueError: it has no answer to replace.
    """
    if kind == "document":
        return {**record, "text": answer}
    at = answer_at(record["messages"]) if kind == "example" else None
    if at is None:
        raise ValueError(f"the {kind} {record['id']} has no answer that could be corrected.")
    turns = [dict(m) for m in record["messages"]]
    turns[at]["content"] = answer
    return {**record, "messages": turns}


def swapped(record: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with its answers the other way round."""
    return {**record, "chosen": record["rejected"], "rejected": record["chosen"]}


def derived(record: Mapping[str, Any], ident: str) -> str:
    """The `meta` of a record that was made from another, whose id becomes its parent."""
    meta = json.loads(record["meta"]) if record.get("meta") else {}
    before = meta.get("parents")
    earlier = before if isinstance(before, list) else [before] if before is not None else []
    return canonical_json({**meta, "parents": [*earlier, ident]})


def answer_at(messages: Sequence[Message]) -> int | None:
    """The place of the last answer among messages; None: there is none."""
    found = [n for n, m in enumerate(messages) if m["role"] == "assistant"]
    return found[-1] if found else None
