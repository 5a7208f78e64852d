"""Rows that a trainer takes as they are: the masks of this project, for one tokenizer.

A trainer that renders chats itself draws masks of its own: TRL labels every token of `messages`
unless the template marks what assistants say, and counts the line break behind an end marker to a
completion. So where the target's tokenizer is known, one more config ships what was checked:

| records | config | columns | read by |
|---|---|---|---|
| examples | `tokens` | `input_ids`, `labels` (-100 = no loss) | any trainer that takes tokens |
| pairs | `rendered` | `prompt`, `chosen`, `rejected`: one message each, its content rendered text; `chat_template_kwargs`: the template that writes contents as they are | TRL's DPO |

Documents are trained whole; they need no such config. A row of which no answer can be shown (it was
cut away, the template fails or hides it) is in the dataset and not in this config; the reasons are
counted.
"""  # noqa: E501

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from gristmill.pipeline.export import shards
from gristmill.pipeline.export.plan import config_of
from gristmill.pipeline.export.views import TURN
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.report.facts import Config
from gristmill.pipeline.report.rendered import TrainerRows
from gristmill.pipeline.signals.pair_signals import SIDES, as_one, continued
from gristmill.pipeline.signals.views import Dialogue

TOKENS, RENDERED = "tokens", "rendered"
IGNORED = -100  # the label of a token without loss
VERBATIM = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
OTHERWISE = "other_tokens_as_text"  # e.g. a control marker that a user typed

_SCHEMAS: dict[str, dict[str, Any]] = {
    TOKENS: {
        "id": pa.string(),
        "input_ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
    },
    RENDERED: {
        "id": pa.string(),
        **{column: pa.list_(TURN) for column in ("prompt", *SIDES)},
        "chat_template_kwargs": pa.struct([("chat_template", pa.string())]),
    },
}
_CONFIGS: dict[Kind, str] = {"example": TOKENS, "pair": RENDERED}
_Row = dict[str, Any] | str  # a row, or the reason why there is none


def columns(config: str) -> list[str]:
    """What a trainer is to read of a config."""
    return [c for c in _SCHEMAS[config] if c != "id"]


def write(
    rows: Path, kind: Kind, chat: ChatTokenizer, work: Path, shard_bytes: int
) -> tuple[Config, TrainerRows] | None:
    """Write the config for trainers beside the others; None where there is none to write.

    Args:
        rows: where the shipped records were dealt.
        kind: of the records.
        chat: the target's tokenizer, template and length limit.
        work: the folder that is being made.
        shard_bytes: about how large a file grows.
    """
    name = _CONFIGS.get(kind)
    if name is None:
        return None
    count: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    splits = []
    for split in ("train", "validation"):
        frames = (frame.filter(pl.col("split") == split) for frame in shards.read(rows))
        made = _tables(frames, name, chat, count, reasons)
        splits.append(shards.write(made, work, name, split, shard_bytes=shard_bytes))
    found = tuple(s for s in splits if s is not None)
    if not any(split.name == "train" for split in found):
        return None
    told = TrainerRows(
        config=name,
        rows=sum(split.height for split in found),
        tokens=count["tokens"],
        trained=count["trained"],
        left_out=dict(sorted(reasons.items())),
        limit=chat.limit,
    )
    return config_of(work, name, splits), told


def _tables(
    frames: Iterable[pl.DataFrame],
    name: str,
    chat: ChatTokenizer,
    count: Counter[str],
    reasons: Counter[str],
) -> Iterator[pa.Table]:
    made = _tokens if name == TOKENS else _rendered
    for frame in frames:
        rows = []
        for record in frame.iter_rows(named=True):
            row = made(record, chat, count)
            if isinstance(row, str):
                reasons[row.partition(":")[0]] += 1
            else:
                rows.append({"id": record["id"], **row})
        yield pa.Table.from_pylist(rows, schema=pa.schema(list(_SCHEMAS[name].items())))


def _tokens(record: Mapping[str, Any], chat: ChatTokenizer, count: Counter[str]) -> _Row:
    encoded = Dialogue().encode(record, chat)
    if encoded.reason is not None:
        return encoded.reason
    _add(encoded, count, end=len(encoded.ids))
    pairs = zip(encoded.ids, encoded.turn, strict=True)
    return {
        "input_ids": list(encoded.ids),
        "labels": [ident if turn else IGNORED for ident, turn in pairs],
    }


def _rendered(record: Mapping[str, Any], chat: ChatTokenizer, count: Counter[str]) -> _Row:
    shown = {side: continued(record["prompt"], record[side], chat) for side in SIDES}
    sides = {side: as_one(shown, side, record) for side in SIDES}
    reason = next((e.reason for e in sides.values() if e.reason is not None), None)
    if reason is not None:
        return reason
    row: dict[str, Any] = {"chat_template_kwargs": {"chat_template": VERBATIM}}
    for side, encoded in sides.items():
        prompt, answer = _halves(encoded, chat)
        if not _as_shown(prompt, answer, encoded, chat):
            return OTHERWISE
        row |= {"prompt": [_turn("user", prompt)], side: [_turn("assistant", answer)]}
    for encoded in sides.values():
        _add(encoded, count, end=_ends(encoded)[1])
    return row


def _halves(encoded: Encoded, chat: ChatTokenizer) -> tuple[str, str]:
    """The text before the answer, and the answer with its end marker; the cut is the trainer's."""
    inside = [at for at, turn in zip(encoded.offsets, encoded.turn, strict=True) if turn]
    first, last = inside[0][0], len(encoded.text) if encoded.cut else inside[-1][1]
    tokens = zip(encoded.ids, encoded.offsets, strict=True)
    own = takewhile(lambda token: token[1] == (0, 0), tokens)  # a BOS that is not the template's
    start = "".join(chat.tokenizer.decode([ident]) for ident, _ in own)
    return start + encoded.text[:first], encoded.text[first:last]


def _as_shown(prompt: str, answer: str, encoded: Encoded, chat: ChatTokenizer) -> bool:
    """Whether a trainer that tokenises the halves sees the tokens that were checked."""
    start, end = _ends(encoded)
    texts = [prompt, prompt + answer]
    before, whole = chat.tokenizer(texts, add_special_tokens=False)["input_ids"]
    seen = [list(before), list(whole[: chat.limit])]
    return seen == [list(encoded.ids[:start]), list(encoded.ids[:end])]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _ends(encoded: Encoded) -> tuple[int, int]:
    """The first token of the only answer, and the first behind it."""
    start = next(i for i, turn in enumerate(encoded.turn) if turn)
    return start, start + encoded.answer_tokens


def _add(encoded: Encoded, count: Counter[str], *, end: int) -> None:
    count["tokens"] += end
    count["trained"] += encoded.answer_tokens
