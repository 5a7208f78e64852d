"""What a raw row means: which columns are the prompt, the answer, the pair, the text.

A `Shape` binds fields to the columns of one file (`binding.py` finds it) and turns rows of that
file into record content. What carries content is used, or its row is bad; columns that no field
claims travel as `meta`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.pipeline.ingest import chat_formats as dialogue
from gristmill.pipeline.ingest import media, side_columns
from gristmill.pipeline.ingest.answers import answer, first_of
from gristmill.pipeline.ingest.chat_formats import Message
from gristmill.pipeline.ingest.columns import folded
from gristmill.pipeline.ingest.json_values import is_empty, loads
from gristmill.pipeline.ingest.pairs import best_and_worst, pair, with_system
from gristmill.pipeline.ingest.prompt_texts import about, question
from gristmill.pipeline.ingest.raw_rows import BadRow
from gristmill.pipeline.ingest.verdicts import Judgement, first_wins
from gristmill.pipeline.records.schema import Kind, canonical_json, content_id
from gristmill.pipeline.records.text import is_context

_TURNS = ("messages", "prompt", "history", "chosen", "rejected", "first", "second", "completion")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The meaning of one file's columns.

    Attributes:
        kind: what its rows become.
        fields: content field -> its column; a row without it is bad.
        options: further field -> the columns that hold it.
        verdict: the column that says which of two answers won; None: they are told by name.
        judged: the columns that call an answer good or bad.
    """

    kind: Kind
    fields: Mapping[str, str]
    options: Mapping[str, tuple[str, ...]]
    verdict: str | None = None
    judged: tuple[Judgement, ...] = ()

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
        media.check_columns(raw)
        for judged in self.judged:
            judged.check(raw)
        rest = dict(raw)  # each field takes its column out; what remains is meta
        if self.kind == "document":
            content: dict[str, Any] = {"text": self._text(rest)}
        else:
            made = self._pair(rest) if self.kind == "pair" else self._example(rest)
            content = {**made, "tools": self._tools(rest)}
        ident = content_id(self.kind, content)
        user_id = self._named(rest, "user_id", str, int)
        if rest.get("id") == ident:  # a data set of ours, read again
            del rest["id"]
        own_source = None if named else self._named(rest, "source", str)
        own_license = self._named(rest, "license", str)
        return {
            "id": ident,
            "source": own_source or source,
            "user_id": None if user_id is None or user_id == ident else str(user_id),
            "license": own_license or license,
            "revision": revision,
            "meta": _meta(rest, self._bookkeeping(raw)),
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
            turns = dialogue.messages(self._need(rest, "messages"), self.fields["messages"])
        else:
            said, context = self._answer(rest)
            turns = self._question(rest, context) + self._with_reasoning(rest, said)
        turns = with_system(turns, *self._systems(rest))
        answers = [t for t in turns if t["role"] == "assistant"]
        if not answers:
            raise BadRow("no_assistant_turn")
        if all(map(is_context, answers)):
            raise BadRow("no_trained_turn")
        return {"messages": turns}

    def _answer(self, rest: dict[str, Any]) -> tuple[list[Message], str | None]:
        """The answer of an example, and the input that may stand beside it."""
        if "candidates" in self.fields:
            column = self.fields["candidates"]
            best, worst, others = best_and_worst(self._marked(rest), column)
            left = [*others, *([worst] if worst is not None else [])]
            if left:
                rest[column] = left
            return answer(best, column), None
        column = self.fields["completion"]
        value = self._need(rest, "completion")
        first, context, further = first_of(value, column)
        if further is not None:
            rest[column] = further
        return answer(first, column), context

    def _with_reasoning(self, rest: dict[str, Any], said: list[Message]) -> list[Message]:
        texts = [side_columns.text_of(v) for _, v in self._given(rest, "reasoning")]
        if not texts:
            return said
        extra = loads(said[-1]["extra"] or "{}", "bad_field: extra")
        extra.setdefault("reasoning_content", "\n\n".join(texts))
        return [*said[:-1], {**said[-1], "extra": canonical_json(extra)}]

    def _pair(self, rest: dict[str, Any]) -> Mapping[str, list[Message]]:
        prompt: list[Message] = []
        if "messages" in self.fields:
            prompt = dialogue.messages(self._need(rest, "messages"), self.fields["messages"])
        elif "prompt" in self.fields:
            prompt = self._question(rest, None)
        else:
            prompt = self._history(rest)
        sides = self._sides(rest)
        if self.verdict is not None:
            one, two = list(self.fields.values())[-2:]
            if not first_wins(rest.get(self.verdict), self.verdict, one, two):
                sides.reverse()
        return pair(
            prompt,
            *sides,
            systems=self._systems(rest),
            earlier=not {"messages", "prompt"} & set(self.fields),
        )

    def _sides(self, rest: dict[str, Any]) -> list[list[Message]]:
        """The two answers, in the order of their columns, or the better one first."""
        if "ranking" in self.fields:
            column = self.fields["ranking"]
            ranked = self._need(rest, "ranking")
            if not isinstance(ranked, list) or len(ranked) < 2:
                raise BadRow(f"bad_field: {column}")
            if ranked[1:-1]:
                rest[column] = ranked[1:-1]
            return [answer(ranked[i], column) for i in (0, -1)]
        if "candidates" in self.fields:
            column = self.fields["candidates"]
            best, worst, others = best_and_worst(self._marked(rest), column)
            if worst is None:
                raise BadRow(f"no_preference: {column}")
            if others:
                rest[column] = others
            return [answer(text, column) for text in (best, worst)]
        fields = [f for f in ("chosen", "rejected", "first", "second") if f in self.fields]
        return [self._side(rest, field) for field in fields]

    def _side(self, rest: dict[str, Any], field: str) -> list[Message]:
        column = self.fields[field]
        turns = answer(self._need(rest, field), column)
        judged = rest.get("turn")  # of a conversation whose turns were compared one by one
        if folded(column).startswith("conversation_") and isinstance(judged, int):
            turns = turns[: 2 * judged] or turns
        return turns

    def _marked(self, rest: dict[str, Any]) -> list[Any]:
        column, found = self.fields["candidates"], self._need(rest, "candidates")
        if isinstance(found, str):
            found = loads(found, f"bad_field: {column}")
        if not isinstance(found, list) or not found:
            raise BadRow(f"bad_field: {column}")
        return found

    def _question(self, rest: dict[str, Any], context: str | None) -> list[Message]:
        column, value = self.fields["prompt"], self._need(rest, "prompt")
        earlier, texts = self._history(rest), []
        for beside, about_what in self._given(rest, "input"):
            if dialogue.are_turns(about_what):
                earlier += dialogue.messages(about_what, beside)
            else:
                texts.append(side_columns.text_of(about_what))
        context = "\n\n".join([*texts, *([context] if context and context.strip() else [])])
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
            value = value[0]
        if isinstance(value, str):
            asked = dialogue.turns_in(value, column)
            asked = question(value, context) if asked is None else about(asked, context)
        else:
            asked = about(dialogue.messages(value, column), context)
        first = int(bool(earlier) and asked[0]["role"] == "system")
        return [*asked[:first], *earlier, *asked[first:]]

    def _history(self, rest: dict[str, Any]) -> list[Message]:
        given = self._given(rest, "history")
        return [turn for column, value in given for turn in side_columns.history(value, column)]

    def _systems(self, rest: dict[str, Any]) -> list[str]:
        given = self._given(rest, "system")
        return [side_columns.system_text(value, column) for column, value in given]

    def _tools(self, rest: dict[str, Any]) -> str | None:
        given = self._given(rest, "tools")
        found = [tool for column, value in given for tool in side_columns.tools(value, column)]
        return canonical_json(found) if found else None

    def _need(self, rest: dict[str, Any], field: str) -> Any:  # noqa: ANN401  (JSON)
        column = self.fields[field]
        value = rest.pop(column, None)
        if value is None:
            raise BadRow(f"missing_field: {column}")
        return value

    def _given(self, rest: dict[str, Any], field: str) -> list[tuple[str, Any]]:
        """Every column of an optional field that says something, taken out of the row."""
        found = [(c, rest.pop(c)) for c in self.options.get(field, ()) if c in rest]
        return [(column, value) for column, value in found if not is_empty(value)]

    def _named(self, rest: dict[str, Any], field: str, *types: type) -> Any:  # noqa: ANN401
        """Where a row comes from and what it is called, if it says so in a form of its field."""
        for column in self.options.get(field, ()) if rest else ():
            if isinstance(rest.get(column), types):
                return rest.pop(column)
        return None

    def _bookkeeping(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """What the turns of a row bear beyond their content, by column."""
        columns = [c for f, c in self.fields.items() if f in _TURNS]
        columns += self.options.get("history", ())
        found = {c: dialogue.bookkeeping(raw[c]) for c in columns if c in raw}
        return {column: rest for column, rest in found.items() if rest is not None}


def _meta(rest: dict[str, Any], turns: Mapping[str, Any]) -> str:
    """All that no field claimed, as one JSON object; a `meta` of ours is opened and joined in."""
    if turns:
        rest = {"turn_fields": dict(turns), **rest}
    if not rest:
        return "{}"
    earlier = rest.get("meta")
    if isinstance(earlier, str) and earlier.startswith("{"):
        inner = loads(earlier, "bad_field: meta")
        rest = {**inner, **{k: v for k, v in rest.items() if k != "meta"}}
    return canonical_json({k: v for k, v in rest.items() if v is not None})
