"""The render check: what a trainer will see of the shipped rows, proved before they are published.

Rows are rendered with the target's tokenizer and template. A mask that is empty or full, a stop
token without loss, a doubled or missing BOS: each is silent in training, so each stops the export.
Truncation, answers that repeat their prompt and answers of which the template hides a part are
counted, and stop it above a limit.
"""

# T = tokens

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from gristmill.pipeline.models.encoding import ChatTokenizer, Dialogue, Encoded
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.records.text import REASONING

CHECKED_ROWS = 10_000
TRUNCATED_LIMIT = 0.1
HIDDEN_LIMIT = 0.05
REPEATED_LIMIT = 0.05  # an answer may open with its question now and then; a column mix-up always
REMEDY = {
    "empty_mask": "no token of them is trained; drop them or use a template that shows the answer",
    "full_mask": "every token of them is trained, the prompt too; use another chat template",
    "stop_untrained": "the end-of-turn token carries no loss; use a template that ends each turn",
    "bos": "they do not start with exactly one BOS; mend the template or the tokenizer's add_bos",
    "answer_hidden": "the template shows no reasoning of their last turn, or chosen and rejected "
    "alike; use one that shows it, or leave out what it hides",
    "prompt_repeated": "the chosen answer begins with the prompt; remove it from chosen",
    "truncated": "they exceed the length limit; raise max_length or select shorter rows",
}


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """One record as its trainer sees it.

    Attributes:
        tokens: the text of each token, T of them.
        trained: which tokens carry loss, T of them.
        cut: tokens lost to the length limit.
        problems: keys of `REMEDY`.
        reason: why the record has no mask, if it has none.
    """

    tokens: Sequence[str] = ()
    trained: Sequence[bool] = ()
    cut: int = 0
    problems: tuple[str, ...] = ()
    reason: str | None = None


Render = Callable[[Mapping[str, Any]], Rendered]


@dataclass(frozen=True, kw_only=True)
class RenderCheck:
    """What the check found.

    Attributes:
        rows: rows rendered.
        shipped: rows that will be shipped.
        found: problem -> ids of the rows that have it.
        examples: up to three (id, rendered), short, middling and long.
        trained_share: trained tokens over all tokens.
        limit: the tokenizer's length limit, if there is one.
    """

    rows: int
    shipped: int
    found: Mapping[str, Sequence[str]] = field(default_factory=dict)
    examples: tuple[tuple[str, Rendered], ...] = ()
    trained_share: float = 0.0
    limit: int | None = None

    def summary(self) -> dict[str, Any]:
        """The counts, for manifest and card."""
        return {
            "rows_rendered": self.rows,
            "rows_shipped": self.shipped,
            "trained_token_share": round(self.trained_share, 4),
            "max_length": self.limit,
            "problems": {name: len(self.found.get(name, ())) for name in REMEDY},
        }

    def demand(self) -> None:
        """Raise one sentence if a row would train wrongly."""
        allowed = {
            "truncated": TRUNCATED_LIMIT,
            "answer_hidden": HIDDEN_LIMIT,
            "prompt_repeated": REPEATED_LIMIT,
        }
        for name, remedy in REMEDY.items():
            ids = self.found.get(name, ())
            if len(ids) > allowed.get(name, 0.0) * self.rows:
                raise ValueError(
                    f"the render check stops the export ({name}): {len(ids):,} of {self.rows:,} "
                    f"rows, first {ids[0]}: {remedy}."
                )


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


def renderer(chat: ChatTokenizer) -> Render:
    """The rendering by a chat tokenizer: a dialogue, or a prompt with both its answers."""
    bos = chat.tokenizer.bos_token_id
    starts = bos is not None and chat.tokenizer("a")["input_ids"][:1] == [bos]
    chosen, rejected = Dialogue(), Dialogue(side="rejected")

    def render(record: Mapping[str, Any]) -> Rendered:
        views = (chosen, rejected) if "rejected" in record else (chosen,)
        seen = [view.encode(record, chat) for view in views]
        parts = [_read(e, chat, starts=starts, ends="text" not in record) for e in seen]
        problems = {problem for part in parts for problem in part.problems}
        if _hides(record, seen, chat):
            problems.add("answer_hidden")
        return Rendered(
            tokens=parts[0].tokens,
            trained=parts[0].trained if all(any(p.trained) for p in parts) else (),
            cut=sum(p.cut for p in parts),
            problems=tuple(sorted(problems)),
            reason=next((p.reason for p in parts if p.reason), None),
        )

    return render


def _hides(record: Mapping[str, Any], seen: Sequence[Encoded], chat: ChatTokenizer) -> bool:
    """Whether the last answer's reasoning, or what tells two answers apart, is not shown."""
    if "text" in record or any(e.reason for e in seen):
        return False
    if len({e.text for e in seen}) < len(seen):
        return True
    prompt = record.get("prompt", ())
    answers = [record[c] for c in ("messages", "chosen", "rejected") if c in record]
    for answer, e in zip(answers, seen, strict=True):
        messages = [*prompt, *answer]
        last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
        draw = chat.drawing(messages, record.get("tools"))
        if chat.hides(messages, draw, last, e.text, REASONING):
            return True
    return False


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
