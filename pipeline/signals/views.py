"""Views: how a record is shown to a model, as one token sequence with what of it is answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from gristmill.pipeline.contracts import View
from gristmill.pipeline.models.chat_tokenizer import (
    TULU_TEMPLATE,
    ChatTokenizer,
    Encoded,
    nothing,
    trained,
)
from gristmill.pipeline.models.control_markers import NotTokenised
from gristmill.pipeline.records.text import message_text


@dataclass(frozen=True, kw_only=True)
class Dialogue(View):
    """The record as the model would be trained on it.

    An example is its whole chat, a pair the prompt and the chosen (or rejected) response, a
    document its text (all of it "answer").
    """

    version: ClassVar[int] = 3
    side: Literal["chosen", "rejected"] = "chosen"
    template: Literal["model", "tulu"] = "model"

    @property
    def name(self) -> str:
        parts = [self.side if self.side != "chosen" else "", self.template]
        return "_".join(["dialogue", *(p for p in parts if p not in {"", "model"})])

    def encode(self, record: Mapping[str, Any], chat: ChatTokenizer) -> Encoded:
        if self.template == "tulu":
            chat = replace(chat, template=TULU_TEMPLATE)
        if "text" in record:
            return chat.finish(_document(record["text"], chat))
        if "messages" in record:
            messages = record["messages"]
        else:
            messages = [*record["prompt"], *record[self.side]]
        return chat.finish(_chat(messages, record.get("tools"), chat))

    def encode_tokens(
        self, records: Sequence[Mapping[str, Any]], chat: ChatTokenizer
    ) -> list[Encoded]:
        if not records or "text" not in records[0]:
            return super().encode_tokens(records, chat)
        return _tokens([r["text"] for r in records], chat, start=[chat.start_id])


@dataclass(frozen=True, kw_only=True)
class AnswerAlone(View):
    """The content of the last assistant turn without its prompt: the turn's header, the answer.

    The tokens are those of the whole dialogue, so that both sides of a comparison see the same. The
    header is what the template opens an assistant's turn with, behind the start of the text, if the
    dialogue has one; a single start token stands for a header that the template does not show. In
    ChatML that token would be the marker of any role, behind which no model expects an answer.
    """

    version: ClassVar[int] = 3

    @property
    def name(self) -> str:
        return "answer_alone"

    def encode(self, record: Mapping[str, Any], chat: ChatTokenizer) -> Encoded:
        whole = Dialogue().encode(record, chat)
        if whole.reason is not None:
            return whole
        answer = np.flatnonzero(np.asarray(whole.turn) == whole.last).tolist()
        if not answer:
            reason = "answer_cut" if whole.cut else "empty_answer"
            return replace(nothing(whole), reason=reason)
        before = _header(whole, answer[0], chat)
        shown = [*before, *answer]
        start = [] if before else [chat.start_id]
        return replace(
            whole,
            ids=[*start, *(whole.ids[i] for i in shown)],
            offsets=[(0, 0)] * len(start) + [whole.offsets[i] for i in shown],
            turn=[0] * len(start) + [whole.turn[i] for i in shown],
            length=len(start) + len(shown) + whole.cut,
        )


def _header(whole: Encoded, first: int, chat: ChatTokenizer) -> list[int]:
    """Places of the tokens that open the turn whose content begins at `first`; none: not shown."""
    begin = whole.offsets[first][0]
    header = chat.header
    if not header or not whole.text[:begin].endswith(header):
        return []
    opening = begin - len(header)
    places = [
        i for i in range(first) if whole.offsets[i][0] >= opening and whole.offsets[i][1] > opening
    ]
    begins = chat.tokenizer.bos_token_id is not None and whole.ids[0] == chat.tokenizer.bos_token_id
    return [0, *places] if begins and 0 not in places else places


@dataclass(frozen=True, kw_only=True)
class PlainText(View):
    """Prompt and answer as bare text, one paragraph a turn: what a sentence embedder reads."""

    version: ClassVar[int] = 3
    part: Literal["all", "prompt", "answer"] = "all"

    @property
    def name(self) -> str:
        return "text" if self.part == "all" else f"text_{self.part}"

    def encode(self, record: Mapping[str, Any], chat: ChatTokenizer) -> Encoded:
        text = plain_text(record, self.part)
        if not text.strip():
            return Encoded(reason="empty_text")
        try:
            text = chat.hold(text)
            ids, offsets = chat.tokenise(text, special=True)
        except NotTokenised as error:
            return Encoded(reason=str(error))
        whole = Encoded(text=text, ids=ids, offsets=offsets, turn=[1] * len(ids))
        return chat.finish(whole)

    def encode_tokens(
        self, records: Sequence[Mapping[str, Any]], chat: ChatTokenizer
    ) -> list[Encoded]:
        return _tokens([plain_text(r, self.part) for r in records], chat, special=True)


def plain_text(record: Mapping[str, Any], part: str = "all") -> str:
    """What a record's turns say, joined by newlines, without any template."""
    if "text" in record:
        return str(record["text"])
    if "messages" in record:
        messages = list(record["messages"])
    else:
        messages = [*record["prompt"], *record["chosen"]]
    if part != "all":
        messages = [m for m in messages if (m["role"] == "assistant") == (part == "answer")]
    return "\n".join(text for m in messages if (text := message_text(m)))


def _tokens(
    texts: Sequence[str], chat: ChatTokenizer, *, start: Sequence[int] = (), special: bool = False
) -> list[Encoded]:
    """Bare texts by their ids and turns; `start` stands before each, and is no answer."""
    shown = [text if text.strip() else "" for text in texts]
    found = []
    for text, ids in zip(shown, chat.tokenise_many(shown, special=special), strict=True):
        if not text or isinstance(ids, NotTokenised):
            found.append(Encoded(reason=str(ids) if text else "empty_text"))
            continue
        turn_T = np.ones(len(start) + len(ids), dtype=np.int8)
        turn_T[: len(start)] = 0
        found.append(chat.finish(Encoded(ids=[*start, *ids], turn=turn_T)))
    return found


def _chat(messages: Sequence[Mapping[str, Any]], tools: str | None, chat: ChatTokenizer) -> Encoded:
    if not any(m["role"] == "assistant" for m in messages):
        return Encoded(reason="no_assistant_turn")
    text, spans, lost = chat.spans(messages, tools)
    if not spans:
        return Encoded(reason=lost)
    try:
        encoded = chat.masked(text, spans, start=chat.template == TULU_TEMPLATE)
    except NotTokenised as error:
        return Encoded(reason=str(error))
    return replace(encoded, turn=trained(encoded.turn, messages))


def _document(text: str, chat: ChatTokenizer) -> Encoded:
    if not text.strip():
        return Encoded(reason="empty_text")
    try:
        text = chat.hold(text)
        ids, offsets = chat.tokenise(text)
    except NotTokenised as error:
        return Encoded(reason=str(error))
    ids, offsets = [chat.start_id, *ids], [(0, 0), *offsets]
    return Encoded(text=text, ids=ids, offsets=offsets, turn=[0] + [1] * (len(ids) - 1))
