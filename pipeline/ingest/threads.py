"""Rows that are single turns: read as the dialogues that they make together.

Turns name the dialogue that they belong to (`conversation_id`), or the turn that they answer
(`parent_id`, as OASST writes its trees). Of a tree each way from the root to a last answer is a
dialogue. A JSON array of nothing but turns is one dialogue.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gristmill.pipeline.ingest import bounds
from gristmill.pipeline.ingest.chat_formats import ROLES
from gristmill.pipeline.ingest.columns import Columns, folded
from gristmill.pipeline.ingest.raw_rows import BadRow, Items
from gristmill.pipeline.ingest.readers import Format
from gristmill.pipeline.ingest.verdicts import UNDESIRABLE, number_of

UNANSWERED = "unanswered_turn"
_ROLES = ("role", "from", "speaker", "author_role")
_TEXTS = ("content", "text", "value", "message", "utterance")
_OWN = ("message_id", "id", "turn_id", "uuid", "node_id")
_PARENTS = ("parent_id", "parent_message_id", "parent", "reply_to", "reply_to_id", "in_reply_to")
_DIALOGUES = (
    *("conversation_id", "conv_id", "dialogue_id", "dialog_id", "chat_id", "thread_id"),
    *("session_id", "conversation_hash", "conversation", "dialogue", "message_tree_id", "tree_id"),
)
_ORDERS = (
    *("turn", "turn_id", "turn_index", "turn_idx", "turn_number", "message_index", "message_idx"),
    *("position", "index", "idx", "order", "step", "seq", "sequence", "created_at", "timestamp"),
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How rows that are turns make dialogues.

    Attributes:
        role: the column of the speaker.
        text: the column of what is said.
        own: the column of a turn's own id, where `parent` names that of another turn.
        parent: the column of the turn that is answered.
        dialogue: the column of the dialogue; without it and `parent` the file is one.
        order: the column by which the turns of a dialogue are sorted; else they are in order.
    """

    role: str
    text: str
    own: str | None = None
    parent: str | None = None
    dialogue: str | None = None
    order: str | None = None


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """Some rows of a file that are one dialogue."""

    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row that is in no dialogue, and why."""

    row: Mapping[str, Any]
    reason: str


def layout_of(rows: Sequence[Mapping[str, Any]], *, whole: bool) -> Layout | None:
    """How these rows make dialogues; None where they are not single turns.

    Args:
        rows: a sample of a file.
        whole: the file may be one dialogue.

    Raises:
        ValueError: they are turns, and nothing says of which dialogue.
    """
    columns = Columns.of(rows, {})
    role = next((c for c in columns.named(_ROLES) if _are_roles(rows, c)), None)
    text = next((c for c in columns.named(_TEXTS) if _are_texts(rows, c)), None)
    if role is None or text is None:
        return None
    made = partial(Layout, role=role, text=text)
    own, parent = (next(iter(columns.named(n)), None) for n in (_OWN, _PARENTS))
    if own is not None and parent is not None:
        return made(own=own, parent=parent)
    order = next((c for c in columns.named(_ORDERS) if c not in (role, text)), None)
    dialogue = next((c for c in columns.named(_DIALOGUES) if c not in (role, text)), None)
    if dialogue is not None:
        return made(dialogue=dialogue, order=order if order != dialogue else None)
    if whole and sum(ROLES[folded(row[role])] == "system" for row in rows) <= 1:
        return made()
    raise ValueError(
        f"its rows are single turns ({role}, {text}) and no column says of which dialogue: add a "
        "column conversation_id, or write each dialogue as one row with a list `messages`; to read "
        "each turn as a text of its own, say kind: document"
    )


def _are_roles(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    found = [row.get(column) for row in rows]
    return bool(found) and all(isinstance(r, str) and folded(r) in ROLES for r in found)


def _are_texts(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    return any(isinstance(row.get(column), (str, list)) for row in rows)


def joined(format: Format, layout: Layout) -> Format:
    """The format of a file whose rows are turns: its raw rows are dialogues."""
    return replace(
        format,
        name=f"{format.name} of turns",
        items=partial(_items, format, layout),
        parse=partial(_parse, format, layout),
        text=partial(_text, format),
        sizes=partial(_sizes, format, layout),
    )


def _items(format: Format, layout: Layout, path: Path) -> Items:
    """Dialogues where their last turn stands, with the rows that are in none."""
    held = 0
    lines: list[tuple[int, dict[str, Any]]] = []
    made: list[tuple[int, Any]] = []
    for (line, raw), size in zip(format.items(path), format.sizes(path), strict=True):
        held += size
        if held > bounds.WHOLE:
            raise ValueError(
                f"{path.name} holds single turns, which must be held whole, in more than "
                f"{bounds.WHOLE >> 20} MiB: write each dialogue as one row with a list `messages`"
            )
        try:
            lines.append((line, format.parse(raw)))
        except BadRow:
            made.append((line, raw))
    if layout.parent is not None:
        made += _ways(lines, layout)
    else:
        made += _groups(lines, layout)
    yield from sorted(made, key=lambda item: item[0])


def _groups(lines: Sequence[tuple[int, dict[str, Any]]], layout: Layout) -> Iterator[Any]:
    groups: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for line, row in lines:
        key = None if layout.dialogue is None else row.get(layout.dialogue)
        if key is None and layout.dialogue is not None:
            yield line, Refused(row=row, reason=f"missing_field: {layout.dialogue}")
        else:
            groups.setdefault(str(key), []).append((line, row))
    for group in groups.values():
        if layout.order is not None:
            group.sort(key=lambda item: _place(item[1].get(layout.order or "")))
        yield max(line for line, _ in group), Dialogue(rows=[row for _, row in group])


def _place(value: object) -> tuple[float, str]:
    number = number_of(value)
    return (0.0, str(value)) if number is None or number != number else (number, "")


def _ways(lines: Sequence[tuple[int, dict[str, Any]]], layout: Layout) -> Iterator[Any]:
    """Each way from a root to a last answer, and the turns that are on none."""
    assert layout.own is not None, "a tree's turns have ids"
    assert layout.parent is not None, "a tree's turns have parents"
    turns = {str(row[layout.own]): (line, row) for line, row in lines if layout.own in row}
    bad: dict[str, str] = {}
    for ident in turns:
        _refuse(ident, turns, layout.parent, bad)
    answers = {
        i for i, (_, row) in turns.items() if i not in bad and _role(row, layout) == "assistant"
    }
    passed: set[str] = set()  # turns below which another answer stands
    for ident in answers:
        for above in _above(turns[ident][1], turns, layout.parent):
            passed.add(above)
    used: set[str] = set()
    for ident in answers - passed:
        line, row = turns[ident]
        way = [ident, *_above(row, turns, layout.parent)]
        used.update(way)
        yield line, Dialogue(rows=[turns[i][1] for i in reversed(way)])
    for line, row in lines:
        ident = str(row.get(layout.own))
        if layout.own not in row:
            yield line, Refused(row=row, reason=f"missing_field: {layout.own}")
        elif turns[ident][1] is not row:
            yield line, Refused(row=row, reason=f"repeated_turn: {ident[:40]}")
        elif ident not in used:
            yield line, Refused(row=row, reason=bad.get(ident, UNANSWERED))


def _refuse(
    ident: str, turns: Mapping[str, tuple[int, dict[str, Any]]], parent: str, bad: dict[str, str]
) -> None:
    """Find out why a turn, or one above it, can be in no dialogue."""
    way: list[str] = []
    while ident not in bad and ident not in way:
        way.append(ident)
        row = turns[ident][1]
        above = row.get(parent)
        if row.get("deleted") is True:
            reason = f"{UNDESIRABLE}: deleted=True"
        elif row.get("review_result") is False:
            reason = f"{UNDESIRABLE}: review_result=False"
        elif above not in (None, "") and str(above) not in turns:
            reason = f"missing_parent: {str(above)[:40]}"
        elif above in (None, ""):
            return
        else:
            ident = str(above)
            continue
        bad |= dict.fromkeys(way, reason)
        return
    bad |= dict.fromkeys(way, bad.get(ident, f"circular_parents: {ident[:40]}"))


def _above(
    row: Mapping[str, Any], turns: Mapping[str, tuple[int, dict[str, Any]]], parent: str
) -> Iterator[str]:
    while (above := row.get(parent)) not in (None, ""):
        yield str(above)
        row = turns[str(above)][1]


def _role(row: Mapping[str, Any], layout: Layout) -> str | None:
    name = row.get(layout.role)
    return ROLES.get(folded(name)) if isinstance(name, str) else None


def _parse(format: Format, layout: Layout, raw: object) -> dict[str, Any]:
    if isinstance(raw, Refused):
        raise BadRow(raw.reason)
    if not isinstance(raw, Dialogue):
        return format.parse(raw)
    first, last = raw.rows[0], raw.rows[-1]
    shared = {
        k: v
        for k, v in first.items()
        if k not in (layout.role, layout.text) and all(k in r and r[k] == v for r in raw.rows)
    }
    own = {} if layout.own is None else {"id": str(last[layout.own])}
    turns = [
        {"role": r.get(layout.role), "content": r.get(layout.text)}
        | {k: v for k, v in r.items() if k not in (*shared, layout.role, layout.text)}
        for r in raw.rows
    ]
    return {**shared, **own, "messages": turns}


def _text(format: Format, raw: object) -> str:
    match raw:
        case Refused(row=row):
            return json.dumps(row, ensure_ascii=False)
        case Dialogue(rows=rows):
            return json.dumps(list(rows), ensure_ascii=False)
    return format.text(raw)


def _sizes(format: Format, layout: Layout, path: Path) -> Iterator[int]:
    return (_size(raw) for _, raw in _items(format, layout, path))


def _size(raw: object) -> int:
    rows = raw.rows if isinstance(raw, Dialogue) else [raw.row] if isinstance(raw, Refused) else []
    return sum(len(str(value)) for row in rows for value in row.values())
