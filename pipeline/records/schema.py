"""The tables of Gristmill: what a row is, how it is named, and the check that a table is one.

Three kinds of record (example, pair, document) and three tables made from them (scores, ledger,
quarantine). `id` is a content hash, so exact copies share it; a *row* is keyed by
(`id`, `source`, `row`), with `row` the 0-based position in its source file.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import polars as pl

from gristmill.pipeline.records.json_text import finite

Kind = Literal["example", "pair", "document"]
KINDS: tuple[Kind, ...] = ("example", "pair", "document")
KEY = ("id", "source", "row")

# A chat turn. `extra` is canonical JSON of every further field (tool_calls, reasoning_content,
# name, tool_call_id ...) or null, so nothing a template can render is lost.
MESSAGE = pl.Struct({"role": pl.String, "content": pl.String, "extra": pl.String})

_COMMON: dict[str, Any] = {
    "id": pl.String,
    "source": pl.String,
    "row": pl.Int64,
    "user_id": pl.String,
    "license": pl.String,
    "revision": pl.String,
    "meta": pl.String,  # JSON object of all columns that no field claimed
}
EXAMPLE: dict[str, Any] = {**_COMMON, "messages": pl.List(MESSAGE), "tools": pl.String}
PAIR: dict[str, Any] = {
    **_COMMON,
    "prompt": pl.List(MESSAGE),
    "chosen": pl.List(MESSAGE),
    "rejected": pl.List(MESSAGE),
    "tools": pl.String,
}
DOCUMENT: dict[str, Any] = {**_COMMON, "text": pl.String}
RECORDS: dict[Kind, dict[str, Any]] = {"example": EXAMPLE, "pair": PAIR, "document": DOCUMENT}
CONTENT: dict[Kind, tuple[str, ...]] = {
    "example": ("messages", "tools"),
    "pair": ("prompt", "chosen", "rejected", "tools"),
    "document": ("text",),
}

QUARANTINE: dict[str, Any] = {
    "id": pl.String,  # hash of the raw line
    "source": pl.String,
    "row": pl.Int64,
    "file": pl.String,
    "line": pl.Int64,  # 1-based line (JSONL, CSV) or element (arrays, Parquet)
    "reason": pl.String,
    "excerpt": pl.String,  # first 200 characters
}
# `score_<part>` columns follow `score`.
METHOD = "gristmill.method"  # in a file's own metadata: what gave its scores
SCORES: dict[str, Any] = {
    "id": pl.String,
    "source": pl.String,
    "row": pl.Int64,
    "kind": pl.String,
    "tokens": pl.Int64,  # of the rendered record; null without a tokenizer
    "score": pl.Float64,
    "reason": pl.String,
}
# One row per input row. Score columns stand between `score` and `rank`.
LEDGER: dict[str, Any] = {
    "id": pl.String,
    "source": pl.String,
    "row": pl.Int64,
    "kind": pl.String,
    "tokens": pl.Int64,
    "score": pl.Float64,
    "rank": pl.Int64,  # 1 = best, among the rows that could be scored
    "cluster": pl.String,
    "duplicate_of": pl.String,  # "id" of the row that stays
    "contaminates": pl.String,  # benchmark whose item the row repeats
    "verdict": pl.String,
    "reason": pl.String,
    "stage": pl.String,  # where the verdict fell
    "weight": pl.Float64,
}


_FORM: dict[str, Any] = {"sort_keys": True, "ensure_ascii": False, "separators": (",", ":")}


def _base64(value: object) -> str:
    """Bytes that are no text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"{type(value).__name__} is no JSON")


_CANONICAL = json.JSONEncoder(**_FORM, allow_nan=False, default=_base64)
_HASHED = json.JSONEncoder(**_FORM)  # a setting may be infinite, which is not the same as none


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8 characters as they are.

    A null stands for every NaN and infinity, which are no JSON.
    """
    try:
        return _CANONICAL.encode(value)
    except ValueError:
        return _CANONICAL.encode(finite(value))


def digest(value: object) -> str:
    """128-bit blake2b of the canonical JSON, as 32 hex characters."""
    text = _HASHED.encode(value).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def content_id(kind: str, content: Mapping[str, Any]) -> str:
    """Id of a record: the hash of its kind and content, never of where it came from.

    Args:
        kind: "example", "pair" or "document".
        content: the columns of `CONTENT[kind]`; messages as dicts of role, content, extra.
    """
    return digest({"kind": kind, **{k: v for k, v in content.items() if v is not None}})


def uniform(seed: int, purpose: str, ident: str) -> float:
    """A number in (0, 1) that depends on nothing but (seed, purpose, id)."""
    raw = hashlib.blake2b(f"{seed}\0{purpose}\0{ident}".encode(), digest_size=8).digest()
    return (int.from_bytes(raw, "big") + 0.5) / 2.0**64


def kind_of(columns: Iterable[str]) -> Kind:
    """The kind of record whose content columns are all among `columns`."""
    found = set(columns)
    for kind in KINDS:
        if set(CONTENT[kind]) - {"tools"} <= found:
            return kind
    expected = "; ".join(f"{k}: {', '.join(CONTENT[k])}" for k in KINDS)
    raise ValueError(f"no record kind has the columns {sorted(found)}; expected {expected}")


def check(frame: pl.DataFrame, schema: Mapping[str, Any], what: str) -> pl.DataFrame:
    """Return `frame` with the columns of `schema` first and cast, or say what is missing.

    Further columns (score parts, third-party fields) stay, after the named ones.
    """
    return frame.select(checked(frame.columns, schema, what))


def checked(columns: Sequence[str], schema: Mapping[str, Any], what: str) -> list[pl.Expr]:
    """The columns of a frame, those of `schema` first and cast; or say what is missing."""
    missing = [c for c in schema if c not in columns]
    if missing:
        raise ValueError(f"{what} lacks the columns {missing} (found: {list(columns)})")
    rest = [c for c in columns if c not in schema]
    return [*(pl.col(c).cast(t) for c, t in schema.items()), *map(pl.col, rest)]


def rows(frame: pl.DataFrame, columns: Sequence[str]) -> Iterable[dict[str, Any]]:
    """Iterate a frame as plain dicts of the chosen columns."""
    return frame.select(columns).iter_rows(named=True)
