"""Records to token rows, the order in which they are seen, and batches.

A **token row** has an `id`, and for SFT `input_ids` and `labels` (-100 = no loss), for pairs
`chosen_ids`, `chosen_labels`, `rejected_ids`, `rejected_labels`; `weight` is optional. Records
become token rows through the chat template (`models/encoding.py`); rows that come as tokens are
taken as they are, so that any mask can be trained on.
"""

# N = rows, B = batch rows, T = tokens

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer, Encoded
from gristmill.pipeline.records.schema import CONTENT, content_id, digest, kind_of, uniform
from gristmill.pipeline.signals.pair_signals import alike
from gristmill.pipeline.signals.views import Dialogue

IGNORED = -100
SEQUENCE = ("input_ids", "labels")
PAIR = ("chosen_ids", "chosen_labels", "rejected_ids", "rejected_labels")
Shape = Literal["sequence", "pair"]
_TOKENS = {"sequence": SEQUENCE, "pair": PAIR}
_RECORDS = {"sequence": (("messages",), ("text",)), "pair": (("prompt", "chosen", "rejected"),)}
Collate = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]


def check(frame: pl.DataFrame, shape: Shape, stage: str) -> None:
    """Refuse a frame that the stage cannot train on, in one sentence."""
    ways = (_TOKENS[shape], *_RECORDS[shape])
    if "id" not in frame.columns or not any(set(w) <= set(frame.columns) for w in ways):
        expected = ", or ".join("id, " + ", ".join(w) for w in ways)
        other = next((s for s, w in _RECORDS.items() if s != shape and _has(frame, w)), None)
        hint = {"pair": " These are preference pairs: use dpo.", None: ""}.get(
            other, " These are examples: use sft."
        )
        raise ValueError(f"{stage} needs the columns {expected} (found: {frame.columns}).{hint}")
    if frame.is_empty():
        raise ValueError(f"{stage} got no rows; give at least one.")
    needed = next(w for w in ways if set(w) <= set(frame.columns))
    empty = frame.filter(pl.any_horizontal(pl.col("id", *needed).is_null()))
    if empty.height:
        raise ValueError(f"{stage}: row {empty['id'][0]} has a null in one of {needed}; fill it.")
    if "weight" in frame.columns:
        weight = pl.col("weight").cast(pl.Float64)
        bad = frame.filter(weight.is_null() | ~weight.is_finite() | (weight < 0))
        if bad.height:
            raise ValueError(
                f"{stage}: row {bad['id'][0]} has the weight {bad['weight'][0]}; weights are "
                "numbers from 0, 1 being plain training."
            )


def _has(frame: pl.DataFrame, ways: Sequence[Sequence[str]]) -> bool:
    return any(set(w) <= set(frame.columns) for w in ways)


def fingerprint(frame: pl.DataFrame) -> str:
    """Content hash of what is trained on, whatever the order of the rows.

    Ids are not trusted: the content counts, of records as of rows that come as tokens.
    """
    columns = [c for c in (*SEQUENCE, *PAIR, "token_mask") if c in frame.columns]
    weight = pl.col("weight").cast(pl.Float64) if "weight" in frame.columns else pl.lit(1.0)
    kind = None if {*SEQUENCE, *PAIR} & set(columns) else kind_of(frame.columns)
    content = [c for c in CONTENT[kind] if c in frame.columns] if kind else []
    rows = frame.select("id", *columns, *content, weight=weight).sort("id", "weight")
    parts = [digest(rows["id"].to_list()), digest(rows["weight"].to_list())]
    if kind:
        parts += [content_id(kind, row) for row in rows.select(content).iter_rows(named=True)]
    for name in columns:
        raw = hashlib.blake2b(digest_size=16)
        raw.update(rows[name].list.len().to_numpy().astype(np.int64).tobytes())
        raw.update(rows[name].explode().drop_nulls().to_numpy().astype(np.int64).tobytes())
        parts.append(f"{name}:{raw.hexdigest()}")
    return digest(parts)


def token_rows(frame: pl.DataFrame, shape: Shape, chat: ChatTokenizer) -> pl.DataFrame:
    """Token rows of a frame, one for each of its rows, in order.

    A row that cannot be shown has null tokens and a `reason`; `cut` tells of one that was too long.
    """
    encode = _sequence if shape == "sequence" else _pair
    given = set(_TOKENS[shape]) <= set(frame.columns)
    nothing = dict.fromkeys(_TOKENS[shape])
    types: dict[str, Any] = dict.fromkeys(_TOKENS[shape], pl.List(pl.Int32))
    more = {"weight": pl.Float64, "reason": pl.String, "cut": pl.Boolean}
    blocks = [pl.DataFrame(schema={"id": pl.String, **types, **more})]
    for block in frame.iter_slices(1_024):  # tokens as Python integers take ten times the memory
        rows = []
        for record in block.iter_rows(named=True):
            row, reason = _given(record, shape, chat) if given else encode(record, chat)
            weight = float(record["weight"]) if "weight" in frame.columns else 1.0
            facts = {"reason": None if row else reason, "cut": bool(row) and reason == "cut"}
            rows.append({"id": record["id"], **(row or nothing), "weight": weight, **facts})
        blocks.append(pl.DataFrame(rows, schema=blocks[0].schema))
    return pl.concat(blocks)


def trainable_rows(
    frame: pl.DataFrame, shape: Shape, chat: ChatTokenizer, model: str
) -> tuple[pl.DataFrame, list[str]]:
    """Token rows that can be trained on, and sentences on what became of the others.

    Raises:
        ValueError: no row is left.
    """
    every = token_rows(frame, shape, chat)
    told = [
        f"{n:,} of {frame.height:,} rows are left out: {reason}."
        for reason, n in sorted(Counter(every["reason"].drop_nulls()).items())
    ]
    if every["cut"].any():
        told.append(
            f"{every['cut'].sum():,} of {frame.height:,} rows exceed {chat.limit:,} tokens and "
            "were cut at the end."
        )
    if not chat.tokenizer.chat_template and not set(_TOKENS[shape]) <= set(frame.columns):
        told.append(f"{model} has no chat template: a plain one is used, and kept with the result.")
    rows = every.filter(pl.col("reason").is_null()).drop("reason", "cut")
    if rows.is_empty():
        raise ValueError(f"none of the {frame.height} rows can be trained on: {' '.join(told)}")
    return rows, told


def _sequence(
    record: Mapping[str, Any], chat: ChatTokenizer
) -> tuple[dict[str, Any] | None, str | None]:
    encoded = Dialogue().encode(record, chat)
    if encoded.reason is not None:
        return None, encoded.reason.partition(":")[0]
    labels = _labels(encoded)
    mask = record.get("token_mask")
    if mask is not None:
        if len(mask) != len(labels):
            raise ValueError(
                f"row {record['id']} has {len(labels)} tokens and a token_mask of {len(mask)}; "
                "make the mask with the tokenizer and the max_length of this run."
            )
        labels = [t if keep else IGNORED for t, keep in zip(labels, mask, strict=True)]
    return {"input_ids": list(encoded.ids), "labels": labels}, "cut" if encoded.cut else None


def _pair(
    record: Mapping[str, Any], chat: ChatTokenizer
) -> tuple[dict[str, Any] | None, str | None]:
    # assistant turns of the prompt are common to both sides: they are context, not response
    first = 1 + sum(m["role"] == "assistant" for m in record["prompt"])
    row: dict[str, Any] = {}
    cut = False
    for side in ("chosen", "rejected"):
        encoded = Dialogue(side="chosen" if side == "chosen" else "rejected").encode(record, chat)
        if encoded.reason is not None:
            return None, f"{side}_{encoded.reason.partition(':')[0]}"
        labels = _labels(encoded, first)
        if not any(t != IGNORED for t in labels):
            return None, f"{side}_answer_cut"
        row |= {f"{side}_ids": list(encoded.ids), f"{side}_labels": labels}
        cut |= encoded.cut > 0
    if row["chosen_ids"] == row["rejected_ids"]:
        return None, alike(record, cut=cut)
    return row, "cut" if cut else None


def _given(
    record: Mapping[str, Any], shape: Shape, chat: ChatTokenizer
) -> tuple[dict[str, Any] | None, str | None]:
    row = {name: record[name][: chat.limit] for name in _TOKENS[shape]}
    for ids, labels in zip(_TOKENS[shape][::2], _TOKENS[shape][1::2], strict=True):
        if len(record[ids]) != len(record[labels]):
            raise ValueError(
                f"row {record['id']} has {len(record[ids])} {ids} and {len(record[labels])} "
                f"{labels}; give one label per token, -100 where there is no loss."
            )
    if shape == "pair" and row["chosen_ids"] == row["rejected_ids"]:
        return None, "chosen_equals_rejected"
    over = any(len(record[n]) > chat.limit for n in _TOKENS[shape])
    if over and chat.overlong == "skip":
        return None, "too_long"
    return row, "cut" if over else None


def _labels(encoded: Encoded, first: int = 1) -> list[int]:
    return [
        t if abs(turn) >= first else IGNORED
        for t, turn in zip(encoded.ids, encoded.turn, strict=True)
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Token rows as a torch dataset; read in sequence, it yields the order of the current epoch.

    The order of epoch e sorts rows by hash(seed, e, id): it does not depend on the order in which
    rows were given, and a row more or less leaves the order of the others as it was. Copies of a
    row (equal id) are told apart by their number.
    """

    frame: pl.DataFrame
    seed: int
    _order: npt.NDArray[np.int64]
    _names: tuple[str, ...]

    @classmethod
    def of(cls, frame: pl.DataFrame, seed: int) -> "Rows":
        frame = frame.sort("id", "weight", maintain_order=True)
        copy = frame.with_columns(copy=pl.int_range(pl.len()).over("id"))["copy"]
        names = tuple(
            ident if k == 0 else f"{ident}#{k}" for ident, k in zip(frame["id"], copy, strict=True)
        )
        rows = cls(frame=frame, seed=seed, _order=np.zeros(len(names), np.int64), _names=names)
        rows.set_epoch(0)
        return rows

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        purpose = f"epoch {epoch}"
        keys = [(uniform(self.seed, purpose, n), n, i) for i, n in enumerate(self._names)]
        self._order[:] = [i for _, _, i in sorted(keys)]

    def ids(self, start: int, stop: int) -> list[str]:
        """Ids of a stretch of the current epoch."""
        return [self.frame["id"][int(i)] for i in self._order[start:stop]]

    def tokens(self, start: int, stop: int) -> int:
        """Tokens of a stretch of the current epoch."""
        at = [int(i) for i in self._order[start:stop]]
        ids = [c for c in self.frame.columns if c.endswith("_ids")]
        return sum(int(self.frame[c].list.len().gather(at).sum()) for c in ids)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.frame.row(int(self._order[position]), named=True)


def pad(sequences: Sequence[Sequence[int]], value: int) -> Any:  # noqa: ANN401  (torch.Tensor)
    """Sequences as one tensor B x T, filled on the right."""
    import torch

    width = max(len(s) for s in sequences)
    padded_BT = np.full((len(sequences), width), value, dtype=np.int64)
    for b, sequence in enumerate(sequences):
        padded_BT[b, : len(sequence)] = sequence
    return torch.from_numpy(padded_BT)


def sequences(rows: Sequence[Mapping[str, Any]], *, pad_id: int) -> dict[str, Any]:
    """A batch for SFT."""
    import torch

    ids = [r["input_ids"] for r in rows]
    return {
        "input_ids": pad(ids, pad_id),
        "attention_mask": pad([[1] * len(i) for i in ids], 0),
        "labels": pad([r["labels"] for r in rows], IGNORED),
        "weight": torch.tensor([r["weight"] for r in rows], dtype=torch.float32),
    }


def pairs(rows: Sequence[Mapping[str, Any]], *, pad_id: int) -> dict[str, Any]:
    """A batch of pairs: the chosen sequences, then the rejected ones."""
    import torch

    ids = [r[f"{side}_ids"] for side in ("chosen", "rejected") for r in rows]
    labels = [r[f"{side}_labels"] for side in ("chosen", "rejected") for r in rows]
    weight_B = torch.tensor([r["weight"] for r in rows], dtype=torch.float32)
    return {
        "input_ids": pad(ids, pad_id),
        "attention_mask": pad([[1] * len(i) for i in ids], 0),
        "completion_mask": pad([[int(t != IGNORED) for t in row] for row in labels], 0),
        "weight": weight_B.repeat(2),
    }
