"""What a raw row means: which columns are the prompt, the answer, the pair, the text.

A `Shape` binds fields to the columns of one file, found by their usual names (`ALIASES`) or given
by the user, and turns rows of that file into record content. Columns that no field claims travel
as `meta`. Self-instruct's `instances` gives one row: the first instance; the others stay in `meta`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.pipeline.ingest import chat_formats as dialogue
from gristmill.pipeline.ingest.chat_formats import Message
from gristmill.pipeline.ingest.readers import BadRow
from gristmill.pipeline.records.schema import Kind, canonical_json, content_id

# Usual column names of each field, the surest first.
ALIASES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "prompt": ("prompt", "instruction", "question", "query", "problem", "input", "context"),
    "ranking": ("output", "completion", "response"),  # a list of answers, best first
    "completion": ("completion", "response", "output", "answer", "solution", "target", "instances"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "text": ("text", "content"),
    "input": ("input", "context"),  # what the instruction is about
    "system": ("system", "system_prompt"),
    "history": ("history",),  # earlier turns, as pairs
    "tools": ("tools",),
    "preferred": (),  # 1: chosen won, 2: rejected won; only by explicit mapping
    "user_id": ("user_id", "id", "uid", "uuid", "_id", "idx", "task_id"),
    "source": ("source",),
    "license": ("license",),
}
# Aliases in a user's mapping; where two fields share one ("input"), the later field has it.
_FIELD = {alias: field for field, names in ALIASES.items() for alias in names}
_FIELD.update({field: field for field in ALIASES})
_ASIDE = ("input", "system", "history", "tools", "preferred", "user_id", "source", "license")
# Kind, fields it must have, fields it may have; the first that fits a row is its shape.
_SHAPES: tuple[tuple[Kind, tuple[str, ...], tuple[str, ...]], ...] = (
    ("pair", ("messages", "chosen", "rejected"), ("system", "preferred")),
    ("pair", ("prompt", "chosen", "rejected"), ("input", "system", "history", "preferred")),
    ("pair", ("chosen", "rejected"), ("system", "preferred")),
    ("example", ("messages",), ("system", "tools")),
    ("pair", ("prompt", "ranking"), ("input", "system", "history")),
    ("example", ("prompt", "completion"), ("input", "system", "history", "tools")),
    ("document", ("text",), ()),
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The meaning of one file's columns.

    Attributes:
        kind: what its rows become.
        fields: content field -> its column; a row without it is bad.
        options: further field -> columns that may hold it; the first that is there counts.
    """

    kind: Kind
    fields: Mapping[str, str]
    options: Mapping[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        """The columns that carry the content, for people."""
        return "/".join(self.fields.values())

    def record(
        self,
        raw: Mapping[str, Any],
        *,
        source: str,
        license: str | None,
        revision: str | None,
        named: bool = False,
    ) -> dict[str, Any]:
        """The record of a raw row (all columns but `row`), or `BadRow`.

        Args:
            raw: the row.
            source: what the file's rows are called.
            license: of the file; a row's own prevails.
            revision: of the file.
            named: the user gave `source`: it prevails over a row's own, which stays in `meta`.
        """
        rest = dict(raw)  # each field takes its column out; what remains is meta
        if self.kind == "document":
            content: dict[str, Any] = {"text": self._text(rest)}
        elif self.kind == "pair":
            content = dict(self._pair(rest))
        else:
            content = self._example(rest)
        ident = content_id(self.kind, content)
        user_id = self._option(rest, "user_id", str, int)
        if rest.get("id") == ident:  # a data set of ours, read again
            del rest["id"]
        own_source = None if named else self._option(rest, "source", str)
        own_license = self._option(rest, "license", str)
        return {
            "id": ident,
            "source": own_source or source,
            "user_id": None if user_id is None or user_id == ident else str(user_id),
            "license": own_license or license,
            "revision": revision,
            "meta": _meta(rest),
            **content,
        }

    def _text(self, rest: dict[str, Any]) -> str:
        text = self._need(rest, "text")
        if not isinstance(text, str):
            raise BadRow(f"bad_field: {self.fields['text']}")
        if not text.strip():
            raise BadRow(f"empty_field: {self.fields['text']}")
        return text

    def _example(self, rest: dict[str, Any]) -> dict[str, Any]:
        if "messages" in self.fields:
            turns = dialogue.messages(self._need(rest, "messages"))
        else:
            column = self.fields["completion"]
            value = self._need(rest, "completion")
            context = None
            if isinstance(value, list) and value and isinstance(value[0], str):
                value = value[0]
            elif column == "instances" and isinstance(value, list) and value:
                first = value[0] if isinstance(value[0], dict) else {}
                context, more, value = first.get("input"), value[1:], first.get("output", "")
                if more:
                    rest[column] = more
            turns = self._question(rest, context) + dialogue.answer(value, column)
        turns = self._with_system(rest, turns)
        if not any(t["role"] == "assistant" for t in turns):
            raise BadRow("no_assistant_turn")
        return {"messages": turns, "tools": self._tools(rest)}

    def _pair(self, rest: dict[str, Any]) -> Mapping[str, list[Message]]:
        prompt: list[Message] = []
        if "messages" in self.fields:
            prompt = dialogue.messages(self._need(rest, "messages"))
        elif "prompt" in self.fields:
            prompt = self._question(rest, None)
        prompt = self._with_system(rest, prompt)
        if "ranking" in self.fields:
            column = self.fields["ranking"]
            ranked = self._need(rest, "ranking")
            if not isinstance(ranked, list) or len(ranked) < 2:
                raise BadRow(f"bad_field: {column}")
            if ranked[1:-1]:
                rest[column] = ranked[1:-1]
            sides = [dialogue.answer(ranked[i], column) for i in (0, -1)]
        else:
            sides = [dialogue.answer(self._need(rest, f), f) for f in ("chosen", "rejected")]
        preferred = self._option(rest, "preferred", str, int)
        if str(preferred).strip() == "2":
            sides.reverse()
        elif preferred is not None and str(preferred).strip() != "1":
            raise BadRow(f"no_preference: {str(preferred)[:40]}")
        return dialogue.pair(prompt, *sides)

    def _question(self, rest: dict[str, Any], context: str | None) -> list[Message]:
        value = self._need(rest, "prompt")
        context = self._option(rest, "input", str) or context
        earlier = dialogue.history(self._option(rest, "history", list) or [])
        if isinstance(value, str):
            return earlier + dialogue.question(value, context)
        return earlier + dialogue.messages(value, self.fields["prompt"])

    def _with_system(self, rest: dict[str, Any], turns: list[Message]) -> list[Message]:
        system = self._option(rest, "system", str)
        if not system or not system.strip() or (turns and turns[0]["role"] == "system"):
            return turns
        return [dialogue.turn("system", system), *turns]

    def _tools(self, rest: dict[str, Any]) -> str | None:
        tools = self._option(rest, "tools", str, list, dict)
        if isinstance(tools, str) and tools.strip():
            tools = dialogue.loads(tools, "bad_field: tools")
        return canonical_json(tools) if tools and not isinstance(tools, str) else None

    def _need(self, rest: dict[str, Any], field: str) -> Any:  # noqa: ANN401  (JSON)
        column = self.fields[field]
        value = rest.pop(column, None)
        if value is None:
            raise BadRow(f"missing_field: {column}")
        return value

    def _option(self, rest: dict[str, Any], field: str, *types: type) -> Any:  # noqa: ANN401
        for column in self.options.get(field, ()) if rest else ():
            if isinstance(rest.get(column), types):
                return rest.pop(column)
        return None


def shape_of(
    rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str], kind: Kind | None
) -> Shape | None:
    """The shape that fits most of `rows`, or None if none fits any.

    Args:
        rows: a sample of one file.
        columns: field (or one of its usual names) -> column, as the user gave it.
        kind: the only kind to look for, or None.
    """
    unknown = sorted(set(columns) - set(_FIELD))
    if unknown:
        raise ValueError(f"no field is called {unknown[0]!r}; fields: {', '.join(ALIASES)}")
    mapped = {_FIELD[name]: column for name, column in columns.items()}
    bound = (_bind(row, mapped, kind) for row in rows)
    votes = Counter(b for b in bound if b is not None)
    if not votes:
        return None
    (index, found), _ = votes.most_common(1)[0]
    kind, needed, optional = _SHAPES[index]
    used = {*found, *mapped.values()}
    options = {
        field: (mapped[field],)
        if field in mapped
        else tuple(c for c in ALIASES[field] if c not in used)
        for field in (*optional, "user_id", "source", "license")
    }
    return Shape(kind=kind, fields=dict(zip(needed, found, strict=True)), options=options)


def _bind(
    row: Mapping[str, Any], mapped: Mapping[str, str], kind: Kind | None
) -> tuple[int, tuple[str, ...]] | None:
    """Index of the first shape that fits the row, and the columns of its fields."""
    asked = set(mapped) - set(_ASIDE)
    for index, (of_kind, needed, _) in enumerate(_SHAPES):
        if kind in (None, of_kind) and asked <= set(needed):
            columns = [_column(row, field, mapped) for field in needed]
            found = tuple(c for c in columns if c is not None)
            if len(found) == len(needed):
                return index, found
    return None


def _column(row: Mapping[str, Any], field: str, mapped: Mapping[str, str]) -> str | None:
    names = (mapped[field],) if field in mapped else ALIASES[field]
    fits = _is_ranking if field == "ranking" else _is_there
    return next((name for name in names if fits(row.get(name))), None)


def _is_there(value: object) -> bool:
    return value is not None


def _is_ranking(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) for v in value)


def _meta(rest: dict[str, Any]) -> str:
    """All that no field claimed, as one JSON object; a `meta` of ours is opened and joined in."""
    if not rest:
        return "{}"
    earlier = rest.get("meta")
    if isinstance(earlier, str) and earlier.startswith("{"):
        inner = dialogue.loads(earlier, "bad_field: meta")
        rest = {**inner, **{k: v for k, v in rest.items() if k != "meta"}}
    return canonical_json({k: v for k, v in rest.items() if v is not None})
