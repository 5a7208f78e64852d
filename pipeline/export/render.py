"""The render check: what a trainer will see of the shipped rows, proved before they are published.

Rows are rendered with the target's tokenizer and template. A mask that is empty or full, a stop
token without loss, a doubled or missing BOS: each is silent in training, so each stops the export.
Truncation, answers that repeat their prompt and answers of which the template hides a part are
counted, and stop it above a limit. Control markers that someone typed are counted and told.
"""

# T = tokens

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import polars as pl

from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.records.text import REASONING, fields_of
from gristmill.pipeline.report.rendered import Render, RenderCheck, Rendered
from gristmill.pipeline.signals.views import Dialogue

CHECKED_ROWS = 10_000
CHOSEN, REJECTED = Dialogue(), Dialogue(side="rejected")


def check_render(
    frames: Iterable[pl.DataFrame], shipped: int, render: Render, *, limit: int | None = None
) -> RenderCheck:
    """Render the rows of `frames`, or a keyed sample of them above `CHECKED_ROWS`.

    Args:
        frames: records.
        shipped: how many rows `frames` have in all.
        render: the target's rendering; `renderer` makes one.
        limit: what `render` cuts at, for the record.
    """
    share = min(1.0, CHECKED_ROWS / max(1, shipped))
    found: dict[str, list[str]] = {}
    lengths: list[tuple[int, str, Rendered]] = []
    rows = trained = tokens = 0
    for frame in frames:
        for record in frame.iter_rows(named=True):
            ident = record["id"]
            if share < 1 and uniform(0, "render check", ident) >= share:
                continue
            seen = render(record)
            rows += 1
            for problem in _problems(seen, record):
                found.setdefault(problem, []).append(ident)
            trained += sum(seen.trained)
            tokens += len(seen.trained)
            lengths.append((len(seen.tokens), ident, seen))
            if len(lengths) > 256:  # bounded: keep quantiles, not every rendering
                lengths = sorted(lengths, key=lambda item: item[:2])[::2]
    lengths.sort(key=lambda item: item[:2])
    picks = sorted({int(q * (len(lengths) - 1)) for q in (0.1, 0.5, 0.9)}) if lengths else []
    return RenderCheck(
        rows=rows,
        shipped=shipped,
        found=found,
        examples=tuple(lengths[i][1:] for i in picks),
        trained_share=trained / tokens if tokens else 0.0,
        limit=limit,
    )


def _problems(seen: Rendered, record: Mapping[str, Any]) -> list[str]:
    problems = set(seen.problems)
    if seen.cut:
        problems.add("truncated")
    elif not any(seen.trained):
        problems.add("empty_mask")
    if "text" not in record and seen.trained and all(seen.trained):
        problems.add("full_mask")
    if "chosen" in record and _repeats(record):
        problems.add("prompt_repeated")
    return sorted(problems)


def _repeats(record: Mapping[str, Any]) -> bool:
    asked = [m["content"] or "" for m in record["prompt"] if m["role"] == "user"]
    answer = "".join(m["content"] or "" for m in record["chosen"]).lstrip()
    return bool(asked) and len(asked[-1]) >= 20 and answer.startswith(asked[-1].strip())


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """The rendering by a chat tokenizer: a dialogue, or a prompt with both its answers.

    Of a pair the answers alone carry loss, whatever the assistant said in its prompt.

    Attributes:
        load: gives the tokenizer; called with the first record.
    """

    load: Callable[[], ChatTokenizer]

    @cached_property
    def chat(self) -> ChatTokenizer:
        return self.load()

    @cached_property
    def _starts(self) -> bool:
        """Whether the tokenizer itself would put a BOS."""
        bos = self.chat.tokenizer.bos_token_id
        return bos is not None and self.chat.tokenizer("a")["input_ids"][:1] == [bos]

    def __call__(self, record: Mapping[str, Any]) -> Rendered:
        chat, pair = self.chat, "rejected" in record
        views = (CHOSEN, REJECTED) if pair else (CHOSEN,)
        seen = [view.encode(record, chat) for view in views]
        if pair:
            asked = sum(m["role"] == "assistant" for m in record["prompt"])
            seen = [replace(e, turn=[t if abs(t) > asked else 0 for t in e.turn]) for e in seen]
        ends = "text" not in record
        parts = [_read(e, chat, starts=self._starts, ends=ends) for e in seen]
        problems = {problem for part in parts for problem in part.problems}
        if _hides(record, seen, chat):
            problems.add("answer_hidden")
        if _typed(record, chat):
            problems.add("typed_markers")
        return Rendered(
            tokens=parts[0].tokens,
            trained=parts[0].trained if all(any(p.trained) for p in parts) else (),
            cut=sum(p.cut for p in parts),
            problems=tuple(sorted(problems)),
            reason=next((p.reason for p in parts if p.reason), None),
        )


def renderer(chat: ChatTokenizer) -> Renderer:
    """The rendering by a tokenizer that is loaded."""
    return Renderer(load=lambda: chat)


def _hides(record: Mapping[str, Any], seen: Sequence[Encoded], chat: ChatTokenizer) -> bool:
    """Whether the last answer's reasoning, or what tells two answers apart, is not shown."""
    if "text" in record or any(e.reason for e in seen):
        return False
    if len({e.text for e in seen}) < len(seen):
        return True
    prompt = record.get("prompt", ())
    answers = [record[c] for c in ("messages", "chosen", "rejected") if c in record]
    for answer in answers:
        messages = [*prompt, *answer]
        last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
        if not fields_of(messages[last], REASONING):
            continue
        draw = chat.drawing(messages, record.get("tools"))
        if chat.hides(messages, draw, last, draw(messages), REASONING):
            return True
    return False


def _typed(record: Mapping[str, Any], chat: ChatTokenizer) -> bool:
    """Whether a text of the record holds a control marker of the tokenizer."""
    columns = ("messages", "prompt", "chosen", "rejected")
    turns = [m for c in columns for m in record.get(c) or ()]
    texts = [m[part] for m in turns for part in ("content", "extra")]
    texts += [record.get("text"), record.get("tools")]
    return any(chat.markers.typed(text) for text in texts if text)


def _read(encoded: Encoded, chat: ChatTokenizer, *, starts: bool, ends: bool) -> Rendered:
    """`starts`: the tokenizer itself would put a BOS; `ends`: every turn needs a stop token."""
    if encoded.reason is not None:
        over = encoded.cut or int(encoded.reason.startswith("too_long"))
        return Rendered(cut=over, reason=encoded.reason)
    tokens = []
    before = (0, 0)
    for ident, (a, b) in zip(encoded.ids, encoded.offsets, strict=True):
        if (a, b) == before and b > a:  # a further byte of one character
            tokens.append("")
        else:
            tokens.append(encoded.text[a:b] or chat.tokenizer.decode([ident]))
        before = (a, b)
    problems = []
    open_turns = {t for t in encoded.turn if t > 0} - {-t for t in encoded.turn if t < 0}
    if ends and open_turns and not encoded.cut:
        problems.append("stop_untrained")
    bos = chat.tokenizer.bos_token_id
    doubled = bos is not None and list(encoded.ids[:2]) == [bos, bos]
    if doubled or (starts and encoded.ids[0] != bos):
        problems.append("bos")
    return Rendered(
        tokens=tokens,
        trained=[t != 0 for t in encoded.turn],
        cut=encoded.cut,
        problems=tuple(problems),
    )
