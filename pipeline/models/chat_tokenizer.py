"""The chat tokenizer: chats as tokens, with the mask of what the model is trained to say.

A chat is rendered through the tokenizer's own template, once whole and once per growing prefix, as
*text*; the prefixes give the character span of each assistant turn. Where a template's prefixes are
no prefixes of the whole (it rewrites earlier turns, or knows no generation prompt), the turn is
rendered with two other contents instead: what differs is where its content stands. The whole text
is tokenised once and the spans are mapped by offsets, so that token merges at a boundary cannot
shift the mask.

Texts on the way from a template to the tokenizer hold typed control markers apart (see
`control_markers`); an `Encoded` shows them again as they were typed.
"""

# T = tokens

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.models.chat_template import TooMuchWork, Work, render
from gristmill.pipeline.models.control_markers import ControlMarkers, NotTokenised
from gristmill.pipeline.records.text import CALLS, fields_of, further, is_context, whole

# The layout of Tulu: role markers in plain text, so that no token has to be added to a vocabulary.
# Used for models without a template of their own; BOS is left to the tokenizer.
TULU_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{% if m['tool_calls'] %}{{ m['tool_calls'] | tojson }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ eos_token or '' }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# Characters of one sequence, for each token of the limit and at the least; few tokens hold more.
CHARACTERS_PER_TOKEN = 16
CHARACTERS = 1_000_000
BATCH = 256  # texts that are tokenised at once
# Of the template, for a row: what any chat may take, and what a chat of many turns takes beyond.
STEPS = 1_000_000
STEPS_PER_TURN = 64
RENDERINGS_PER_TURN = 4  # two of its prefixes, or two with other contents
MOST_STEPS = 64_000_000
# Two contents that share no character at either end, and that no template trims.
PROBES = ("<0>", "[1]")
HIDDEN = "template_hides_the_answer"


class TooLong(NotTokenised):
    """A text of too many characters."""


def reason_of(error: Exception) -> str:
    """Why a row could not be rendered or tokenised."""
    if isinstance(error, NotTokenised):
        return str(error)
    return f"template_error: {' '.join(str(error).split())[:80]}"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One token sequence.

    Attributes:
        text: what was tokenised.
        ids: token ids, T of them.
        offsets: T pairs of character positions in `text`; (0, 0) for tokens without text.
        turn: T integers: 0 = context, k > 0 = content of the k-th assistant turn, -k = its end
            marker. Tokens with turn != 0 carry loss.
        cut: tokens removed because the sequence was longer than the limit.
        length: tokens before the cut; null if the record could not be rendered.
        last: number of the last assistant turn, whether it was cut off or not.
        reason: why the record cannot be shown, or None.
    """

    text: str = ""
    ids: Sequence[int] = ()
    offsets: Sequence[tuple[int, int]] = ()
    turn: Sequence[int] | npt.NDArray[np.integer] = ()
    cut: int = 0
    length: int | None = None
    last: int = 0
    reason: str | None = None

    @property
    def answer_tokens(self) -> int:
        return int(np.count_nonzero(np.asarray(self.turn)))


@dataclass(frozen=True, kw_only=True)
class ChatTokenizer:
    """A tokenizer with a chat template and a length limit.

    Attributes:
        tokenizer: a fast transformers tokenizer (offsets are needed).
        template: the Jinja text in use.
        limit: longest sequence in tokens.
        overlong: "cut" at the end, or "skip" the record with the reason `too_long`.
    """

    tokenizer: Any
    template: str
    limit: int
    overlong: Literal["cut", "skip"] = "cut"

    @property
    def template_sha(self) -> str:
        return hashlib.sha256(self.template.encode()).hexdigest()

    @cached_property
    def markers(self) -> ControlMarkers:
        return ControlMarkers(tokenizer=self.tokenizer)

    @property
    def start_id(self) -> int:
        """The id that stands before a text without context: BOS, or else EOS, or else pad."""
        for ident in (
            self.tokenizer.bos_token_id,
            self.tokenizer.eos_token_id,
            self.tokenizer.pad_token_id,
        ):
            if ident is not None:
                return int(ident)
        return 0

    @property
    def pad_id(self) -> int:
        ident = self.tokenizer.pad_token_id
        return self.start_id if ident is None else int(ident)

    @property
    def characters(self) -> int:
        """The longest text that is rendered and tokenised."""
        return max(CHARACTERS, CHARACTERS_PER_TOKEN * self.limit)

    def work(self, messages: Sequence[Mapping[str, Any]]) -> Work:
        """What the template may do for a row; some intermediate texts are longer than a row."""
        turns = len(messages)
        once = STEPS_PER_TURN * turns + _size(messages) // 8
        steps = min(MOST_STEPS, STEPS + RENDERINGS_PER_TURN * turns * once)
        return Work(steps=steps, characters=4 * self.characters)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: str | None = None,
        *,
        generation: bool = False,
        work: Work | None = None,
    ) -> str:
        """The chat as text, typed control markers held.

        Args:
            messages: with role and content, and further fields as JSON in `extra`.
            tools: JSON schemas as JSON.
            generation: append the header of the next assistant turn.
            work: what the template may still do, shared by the renderings of a row.

        Raises:
            NotTokenised: e.g. the chat or its text has more characters than are tokenised.
            Exception: of any kind that a template can raise.
        """
        self._check_length(_size(messages) + len(tools or ""))
        chat = [whole(self._held(m)) for m in messages]
        text = render(
            self.template,
            chat,
            json.loads(self.markers.hold(tools)) if tools else None,
            self.tokenizer.special_tokens_map,
            work or self.work(messages),
            generation=generation,
        )
        self._check_length(len(text))
        return text

    def _held(self, message: Mapping[str, Any]) -> dict[str, Any]:
        told = {key: message.get(key) for key in ("content", "extra")}
        return {**message, **{k: v and self.markers.hold(v) for k, v in told.items()}}

    def drawing(
        self, messages: Sequence[Mapping[str, Any]], tools: str | None
    ) -> Callable[..., str]:
        """`render` for the variants of one row, which share what the template may do."""
        return partial(self.render, tools=tools, work=self.work(messages))

    def check_template(self) -> None:
        """Render two words.

        Raises:
            TooMuchWork: the template does more for them than any chat needs.
        """
        words = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
        work = self.work(words)
        for shown, generation in ((words, False), (words[:1], True)):
            try:
                self.render(shown, generation=generation, work=work)
            except TooMuchWork:
                raise
            except Exception:  # e.g. a template that wants a system turn; each row tells
                continue

    def _check_length(self, characters: int) -> None:
        if characters > self.characters:
            raise TooLong(f"too_long_to_tokenize: {characters} characters")

    @cached_property
    def has_header(self) -> bool:
        """Whether the template opens the next assistant turn when it is asked to, and only then."""
        asked, opened = self._opened
        return asked != opened

    @cached_property
    def header(self) -> str:
        """How the template opens an assistant's turn; "" if it cannot be told."""
        asked, opened = self._opened
        return opened[len(asked) :] if opened.startswith(asked) else ""

    @cached_property
    def _opened(self) -> tuple[str, str]:
        """A question as text, without and with the header of its answer."""
        probe = [{"role": "user", "content": "x"}]
        try:
            return self.render(probe), self.render(probe, generation=True)
        except Exception:  # a template may fail in any way; then its prefixes are of no use
            return "", ""

    def spans(
        self, messages: Sequence[Mapping[str, Any]], tools: str | None = None
    ) -> tuple[str, list[tuple[int, int]], str | None]:
        """The whole text, the span of each assistant turn, and why there are none."""
        draw = self.drawing(messages, tools)
        try:
            text = draw(messages)
            spans: list[tuple[int, int]] = []
            for i, message in enumerate(messages):
                if message["role"] != "assistant":
                    continue
                span = self._by_prefix(messages, draw, i, text) or self._by_probe(
                    messages, draw, i, text
                )
                if span is None or (
                    not is_context(message) and self._mute(messages, draw, i, text)
                ):
                    return text, [], HIDDEN
                spans.append(span)
        except Exception as error:  # a template may fail in any way; it costs its row alone
            return "", [], reason_of(error)
        return text, spans, None

    def hides(
        self,
        messages: Sequence[Mapping[str, Any]],
        draw: Callable[..., str],
        i: int,
        text: str,
        names: Sequence[str],
    ) -> bool:
        """Whether turn i has some of the named further fields and the rendered `text` none.

        `draw` renders a chat with the record's tools.
        """
        found = fields_of(messages[i], names)
        if not found:
            return False
        left = {k: v for k, v in further(messages[i]["extra"]).items() if k not in found}
        bare = {**messages[i], "extra": json.dumps(left)}
        try:
            return draw([*messages[:i], bare, *messages[i + 1 :]]) == text
        except TooMuchWork:
            raise
        except Exception:  # a template that fails without them reads them
            return False

    def _mute(
        self, messages: Sequence[Mapping[str, Any]], draw: Callable[..., str], i: int, text: str
    ) -> bool:
        """Whether the calls of turn i are not shown, or nothing of a turn without words.

        Reasoning beside words may be left out: many templates do so in all turns but the last.
        """
        wordless = not (messages[i]["content"] or "").strip()
        every = tuple(further(messages[i].get("extra"))) if wordless else ()
        return self.hides(messages, draw, i, text, CALLS) or (
            wordless and self.hides(messages, draw, i, text, every)
        )

    def _by_prefix(
        self, messages: Sequence[Mapping[str, Any]], draw: Callable[..., str], i: int, text: str
    ) -> tuple[int, int] | None:
        if i == 0 or not self.has_header:
            return None
        try:
            before = draw(messages[:i], generation=True)
            after = text if i + 1 == len(messages) else draw(messages[: i + 1])
        except TooMuchWork:
            raise
        except Exception:  # e.g. a template that needs the later turns
            return None
        if not (text.startswith(before) and text.startswith(after) and len(before) < len(after)):
            return None
        shown = text[len(before) : len(after)]
        for token in self.markers.texts:
            shown = shown.replace(token, "")
        hidden = messages[i]["content"].strip() and not shown.strip()
        return None if hidden else (len(before), len(after))

    def _by_probe(
        self, messages: Sequence[Mapping[str, Any]], draw: Callable[..., str], i: int, text: str
    ) -> tuple[int, int] | None:
        """Where contents differ; without further fields first, so that they lie in the span."""
        bare = {**messages[i], "extra": None}
        around = messages[:i], messages[i + 1 :]
        found = self._between(*around, bare, draw, text) if messages[i].get("extra") else None
        return found or self._between(*around, messages[i], draw, text)

    def _between(
        self,
        before: Sequence[Mapping[str, Any]],
        after: Sequence[Mapping[str, Any]],
        message: Mapping[str, Any],
        draw: Callable[..., str],
        text: str,
    ) -> tuple[int, int] | None:
        try:
            one, two = (draw([*before, {**message, "content": probe}, *after]) for probe in PROBES)
        except TooMuchWork:
            raise
        except Exception:
            return None
        first, tail = shared(one, two), shared(one[::-1], two[::-1])
        last = len(text) - tail
        same = text[:first] == one[:first] and text[last:] == one[len(one) - tail :]
        if one == two or not same or not first <= last:
            return None
        for token in self.markers.texts:  # the end marker belongs to the turn
            if text.startswith(token, last):
                return first, last + len(token)
        return first, last

    def tokenise(self, text: str, *, special: bool = False) -> tuple[list[int], list[Any]]:
        """Ids and character offsets. `special` lets the tokenizer add its own BOS or EOS.

        Control markers in the text are markers: `hold` a text of a record first.

        Raises:
            NotTokenised: e.g. the text has more characters than are tokenised.
        """
        self._check_length(len(text))
        return self.markers.tokenise(text, special=special)

    def tokenise_many(
        self, texts: Sequence[str], *, special: bool = False
    ) -> list[list[int] | NotTokenised]:
        """Ids of many texts of records, or why there are none: as `hold` and `tokenise` give them.

        The tokenizer reads a batch on all processors that it may (`TOKENIZERS_PARALLELISM`).
        """
        found: list[list[int] | NotTokenised] = []
        for first in range(0, len(texts), BATCH):
            batch = texts[first : first + BATCH]
            short = [text if len(text) <= self.characters else "" for text in batch]
            read = self.markers.tokenise_many(short, special=special)
            for text, ids in zip(batch, read, strict=True):
                if ids is not None and len(text) <= self.characters:
                    found.append(ids)
                    continue
                try:
                    found.append(self.tokenise(self.hold(text), special=special)[0])
                except NotTokenised as error:
                    found.append(error)
        return found

    def hold(self, text: str) -> str:
        """A text of a record as `tokenise` wants it: its control markers are no markers."""
        return self.markers.hold(text)

    def released(self, encoded: Encoded) -> Encoded:
        """The sequence with its text as it was typed."""
        text, offsets = self.markers.released(encoded.text, encoded.offsets)
        return encoded if text == encoded.text else replace(encoded, text=text, offsets=offsets)

    def masked(
        self, text: str, spans: Sequence[tuple[int, int]], *, start: bool = False
    ) -> Encoded:
        """A rendered chat as tokens, its spans as turns.

        Args:
            text: what `render` gave.
            spans: of its assistant turns that carry loss.
            start: let the tokenizer add its own BOS or EOS.

        Raises:
            NotTokenised: see `tokenise`.
        """
        ids, offsets = self.tokenise(text, special=start)
        turn = turns(text, ids, offsets, spans, self.markers.ids)
        return Encoded(text=text, ids=ids, offsets=offsets, turn=turn)

    def finish(self, encoded: Encoded) -> Encoded:
        """Apply the length limit, show typed markers again and say what cannot be scored."""
        if encoded.reason is not None:
            return encoded
        encoded = self.released(encoded)
        length = len(encoded.ids)
        over = max(0, length - self.limit)
        last = int(np.abs(encoded.turn).max(initial=0))
        said = replace(encoded, length=length, last=last, cut=over)
        if over and self.overlong == "skip":
            return replace(nothing(said), cut=0, reason=f"too_long: {length} tokens")
        if over:
            said = replace(
                said,
                ids=encoded.ids[: self.limit],
                offsets=encoded.offsets[: self.limit],
                turn=encoded.turn[: self.limit],
            )
        if said.answer_tokens == 0:
            return replace(nothing(said), reason="answer_cut" if over else "empty_answer")
        return said


def _size(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(m["content"] or "") + len(m.get("extra") or "") for m in messages)


def shared(one: str, two: str) -> int:
    """Length of the longest common start of two texts."""
    pairs = zip(one, two, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))


def nothing(encoded: Encoded) -> Encoded:
    """The facts of a sequence that is not shown, without its tokens."""
    return replace(encoded, text="", ids=(), offsets=(), turn=())


def turns(
    text: str,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    special: frozenset[int],
) -> list[int]:
    """Mark every token with its assistant turn; see `Encoded.turn`.

    A token that overlaps a span belongs to it. The first special token that no content follows in
    the span is the end marker; what stands behind it (a template's newline, an end-of-text marker)
    is context again.
    """
    start_T, end_T = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    special_T = np.fromiter((i in special for i in ids), dtype=bool, count=len(ids))
    turn_T = np.zeros(len(ids), dtype=np.int64)
    for k, (first, last) in enumerate(spans, 1):
        inside = np.flatnonzero((end_T > first) & (start_T < last))
        turn_T[inside] = k
        tail = None
        for t in reversed(inside):
            if special_T[t] and end_T[t] <= last:
                tail = t
            elif text[max(first, start_T[t]) : min(last, end_T[t])].strip():
                break
        if tail is not None:
            turn_T[inside[inside > tail]] = 0
            turn_T[tail] = -k
    return [int(t) for t in turn_T]


def trained(
    turn: Sequence[int] | npt.NDArray[np.integer], messages: Sequence[Mapping[str, Any]]
) -> list[int]:
    """`turns` of the messages, with those that carry no loss (a weight of 0) as context."""
    answers = [m for m in messages if m["role"] == "assistant"]
    context = {k for k, message in enumerate(answers, 1) if is_context(message)}
    return [0 if abs(k) in context else int(k) for k in turn]
