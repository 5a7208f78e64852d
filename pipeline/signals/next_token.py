"""Judges: a record stands inside a question, and the model's next token is read as its answer.

`JudgePrompt` is the view (question in, record in it, header of the judge's turn behind it);
`NextTokenProbs` is the signal: how likely each allowed answer ("yes", "4") is to come next. Nothing
is generated, and a row costs one forward pass and a few numbers.
"""

# B = batch rows, T = tokens, D = hidden size, V = vocabulary, A = allowed answers, S = spellings

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Need, PassSignal, View, of_role
from gristmill.pipeline.models.chat_tokenizer import (
    TULU_TEMPLATE,
    ChatTokenizer,
    Encoded,
    reason_of,
)
from gristmill.pipeline.models.forward import Batch, logits
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.text import message_text

PLACES = ("text", "prompt", "answer")
_PLACE = re.compile(r"\{(" + "|".join(PLACES) + r")\}")
_SLACK = 8  # tokens that may come about where a part meets the question


@dataclass(frozen=True, kw_only=True)
class JudgePrompt(View):
    """A record inside a question to a judge, which answers next. Nothing in it carries loss.

    Attributes:
        label: short name of the wording.
        question: what is asked; `{text}` is the whole record, `{prompt}` what was
            asked in it and `{answer}` for the (last) answer.
        cue: how the judge's own turn begins ("Answer:"). Small judges that would rather talk give
            the allowed answers most of their belief after it.
        part_tokens: longest text of the record in tokens, all places together. What is longer is
            cut at the ends of the longest places, never in the question.
        turn: show the k-th exchange alone (from 0); None = the whole record.
        rendered: "chat" = as a user's turn in the judge's own chat template; "plain" = the bare
            question after the start token, for judges trained on a format of their own.
    """

    version: ClassVar[int] = 2
    label: str
    question: str
    cue: str = ""
    part_tokens: int = 512
    turn: int | None = None
    rendered: Literal["chat", "plain"] = "chat"

    def __post_init__(self) -> None:
        if not _PLACE.search(self.question):
            raise ValueError(
                f"the question {self.label!r} shows nothing of the record: write "
                "{text}, {prompt} or {answer} where it shall stand."
            )
        if self.part_tokens < 1:
            raise ValueError(f"part_tokens is at least 1; found {self.part_tokens}.")

    @property
    def name(self) -> str:
        told = [self.question, self.cue, self.part_tokens, self.turn, self.rendered]
        return f"judge_{self.label}_{digest(told)[:8]}"

    def cut_at(self, limit: int) -> str:
        return f"{min(self.part_tokens, limit):,} tokens of the record in a question"

    def encode(self, record: Mapping[str, Any], chat: ChatTokenizer) -> Encoded:
        parts, reason = record_parts(record, self.turn)
        places = tuple(dict.fromkeys(_PLACE.findall(self.question)))
        shown = {place: parts.get(place, "") for place in places}
        if reason is not None and (reason != "no_assistant_turn" or "answer" in places):
            return Encoded(reason=reason)
        if not all(text.strip() for text in shown.values()):
            return Encoded(reason="empty_answer" if shown.get("prompt") else "empty_text")
        try:
            own = len(self._tokens(dict.fromkeys(places, ""), chat)[1])
            shown = {place: chat.hold(text) for place, text in shown.items()}
            ids = {place: chat.tokenise(text) for place, text in shown.items()}
            remaining = chat.limit - own - _SLACK
            if remaining < 1:
                return Encoded(reason=f"too_long: the question alone has {own} tokens")
            sizes = {place: len(found[0]) for place, found in ids.items()}
            if sum(sizes.values()) > remaining and chat.overlong == "skip":
                return Encoded(reason=f"too_long: {own + sum(sizes.values())} tokens")
            fair = shares(sizes, min(remaining, self.part_tokens))
            gone = next((place for place, size in fair.items() if not size), None)
            if gone is not None:
                return Encoded(reason=f"{gone}_cut", cut=sum(sizes.values()))
            for place, size in fair.items():
                if size < sizes[place]:
                    shown[place] = shown[place][: ids[place][1][size - 1][1]]
            text, tokens, offsets = self._tokens(shown, chat)
        except Exception as error:  # a template may fail in any way; it costs its row alone
            return Encoded(reason=reason_of(error))
        if len(tokens) > chat.limit:
            return Encoded(reason=f"too_long: {len(tokens)} tokens")
        cut = sum(sizes.values()) - sum(fair.values())
        whole = Encoded(
            text=text,
            ids=tokens,
            offsets=offsets,
            turn=[0] * len(tokens),
            cut=cut,
            length=len(tokens) + cut,
        )
        return chat.released(whole)

    def _tokens(
        self, shown: Mapping[str, str], chat: ChatTokenizer
    ) -> tuple[str, list[int], list[Any]]:
        asked = _PLACE.sub(lambda place: shown[place[1]], self.question)
        if self.rendered == "plain":
            text, start = asked + self.cue, [chat.start_id]
        else:
            asked = chat.markers.release(asked)
            text = chat.render([{"role": "user", "content": asked}], generation=True) + self.cue
            own = chat.tokenizer.bos_token_id if chat.template == TULU_TEMPLATE else None
            start = [] if own is None else [int(own)]
        ids, offsets = chat.tokenise(text)
        return text, [*start, *ids], [(0, 0)] * len(start) + list(offsets)


def shares(sizes: Mapping[str, int], remaining: int) -> dict[str, int]:
    """Room for each of several texts: short ones whole, long ones alike (the last gets the odd)."""
    given: dict[str, int] = {}
    for left, (place, size) in zip(
        range(len(sizes), 0, -1), sorted(sizes.items(), key=lambda s: (s[1], s[0])), strict=True
    ):
        given[place] = min(size, (remaining - sum(given.values())) // left)
    return given


def record_parts(
    record: Mapping[str, Any], turn: int | None = None
) -> tuple[dict[str, str], str | None]:
    """The texts of a record that a question may show, and why there are none.

    `text` is the whole (a transcript, if it is a chat), `answer` its last assistant turn and
    `prompt` what stands before that; a pair counts with its chosen answer. With `turn`, they are
    those of the k-th assistant turn and of the messages since the turn before, without context.
    Reasoning and tool calls belong to what a message says (`records.text`).
    """
    if "text" in record:
        return {"text": str(record["text"])}, "no_assistant_turn"
    messages = list(record["messages"] if "messages" in record else record["prompt"])
    messages += [] if "messages" in record else record["chosen"]
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    if not answers:
        asked = transcript(messages)
        return {"text": asked, "prompt": asked}, "no_assistant_turn"
    if turn is not None and turn >= len(answers):
        return {}, "no_such_turn"
    last = answers[-1] if turn is None else answers[turn]
    first = 0 if not turn else answers[turn - 1] + 1
    return {
        "text": transcript(messages[first:] if turn is None else messages[first : last + 1]),
        "prompt": transcript(messages[first:last]),
        "answer": message_text(messages[last]),
    }, None


def transcript(messages: Sequence[Mapping[str, Any]]) -> str:
    """Messages as text, each after its role; a single one without it."""
    told = [(m["role"], text) for m in messages if (text := message_text(m))]
    if len(told) == 1:
        return told[0][1]
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in told)


def spellings(word: str) -> tuple[str, ...]:
    """How a judge may begin a one-word answer: any case, with or without a space before."""
    cases = dict.fromkeys((word, word.lower(), word.capitalize(), word.upper()))
    return tuple(space + case for space in ("", " ") for case in cases)


YES_NO = (spellings("yes"), spellings("no"))


def digits(last: int) -> tuple[tuple[str, ...], ...]:
    """The answers "1" to `last`, for ratings."""
    if not 2 <= last <= 9:
        raise ValueError(f"ratings are the digits from 1 to at most 9; found {last}.")
    return tuple(spellings(str(i)) for i in range(1, last + 1))


@dataclass(frozen=True, kw_only=True)
class NextTokenProbs(PassSignal):
    """Probability of each allowed answer after the prompt, out of the whole vocabulary.

    The probability of an answer is the sum over the distinct first tokens of its spellings. A token
    with which two answers begin (a lone space) counts for neither. One minus the sum over the
    answers is what the judge would rather say.

    Attributes:
        role: "judge", or any role that holds a causal language model.
        view: the question.
        answers: the spellings of each answer.
    """

    role: str = "judge"
    view: View
    answers: tuple[tuple[str, ...], ...] = YES_NO

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}next.{self.view.name}.{digest(self.answers)[:6]}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"last_hidden"})

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Array(pl.Float32, len(self.answers))

    def read(self, batch: Batch) -> Sequence[Any]:
        import torch

        assert batch.model is not None
        tokens = first_tokens(batch.model.chat, self.answers)
        last_BTD = batch.hidden(-1)
        row_B = torch.arange(batch.rows, device=last_BTD.device)
        end_B = torch.tensor(batch.lengths(), device=last_BTD.device) - 1
        with torch.inference_mode():
            logits_BV = logits(batch.model.model, last_BTD[row_B, end_B]).double()
            answer_BS = logits_BV.log_softmax(-1)[:, [i for ids in tokens for i in ids]].exp()
        ends = [0, *accumulate(len(ids) for ids in tokens)]
        p_BA = np.stack(
            [answer_BS[:, a:b].sum(-1).cpu().numpy() for a, b in pairwise(ends)],
            axis=1,
        )
        return list(p_BA.astype(np.float32))


def first_tokens(chat: ChatTokenizer, answers: Sequence[Sequence[str]]) -> list[list[int]]:
    """The tokens with which each answer may begin, and no other answer does.

    Beside the first token of each spelling these are spellings that are tokens of the vocabulary,
    as some tokenizers put a space before any text that they are given alone.

    Raises:
        ValueError: an answer has no such token.
    """
    found: list[set[int]] = []
    for spelled in answers:
        mine = {chat.tokenise(form)[0][0] for form in spelled}
        for form in spelled:
            marks = [form] if form == form.lstrip() else [m + form.lstrip() for m in "Ġ▁"]
            for piece in marks:
                ident = chat.tokenizer.convert_tokens_to_ids(piece)
                if ident is not None and chat.tokenizer.convert_ids_to_tokens(ident) == piece:
                    mine.add(int(ident))
        found.append(mine)
    own = []
    for a, mine in enumerate(found):
        others = set().union(*(ids for b, ids in enumerate(found) if b != a))
        own.append(sorted(mine - others))
        if not own[-1]:
            raise ValueError(
                f"the answer {answers[a][0]!r} begins with the same token as another one in the "
                "judge's tokenizer: give answers that differ in their first token."
            )
    return own
