"""Exact duplicates: rows that say the same, message by message, after normalisation.

Normalisation is Unicode NFC, lower case, and every run of white space one space (none at either
end of a message). Punctuation, roles, tool calls and tool lists count, so `3-2` is not `3+2`.
Memory: about 150 bytes a row; one pass over the records, block by block.
"""

import hashlib
from collections.abc import Iterable

import polars as pl

from gristmill.pipeline.clean.drops import by_priority, drops
from gristmill.pipeline.records.schema import CONTENT, KEY, MESSAGE, kind_of

_BETWEEN = "\x1f"


def exact_duplicates(
    blocks: Iterable[pl.DataFrame],
    *,
    scores: pl.DataFrame | None = None,
    published: pl.DataFrame | None = None,
    standing: pl.Series | None = None,
) -> pl.DataFrame:
    """Drops frame of all rows but one of each group of equal rows; reason `exact_duplicate`.

    Args:
        blocks: records of one kind.
        scores: which copy stays: the best score, else the first by source and row.
        published: `fingerprints` of rows published before. They always stay, so a new row that
            repeats one is dropped.
        standing: ids of rows that stay before their copies, whatever their score and place.
    """
    prints = [fingerprints(block) for block in blocks]
    if not prints:
        return drops(pl.DataFrame(schema=dict.fromkeys(KEY, pl.String)))
    rows = by_priority(pl.concat(prints), scores, standing)
    stays = rows if published is None else pl.concat([published.select(rows.columns), rows])
    stays = stays.unique("fingerprint", keep="first", maintain_order=True)
    rows = rows.join(stays.select("fingerprint", stay="id"), on="fingerprint", how="left")
    return drops(
        rows.join(stays, on=KEY, how="anti"),
        duplicate_of=pl.col("stay"),
        cluster=pl.col("stay"),
        overlap=pl.lit(1.0),
        reason="exact_duplicate",
    )


def fingerprints(records: pl.DataFrame) -> pl.DataFrame:
    """`KEY` and `fingerprint`: a 128-bit hash of what each record says after normalisation."""
    kind = kind_of(records.columns)
    columns = [c for c in CONTENT[kind] if c in records.columns]
    said = [
        _message_list(c) if records.schema[c] == pl.List(MESSAGE) else pl.col(c).fill_null("")
        for c in columns
    ]
    text = (
        pl.concat_str(said, separator=_BETWEEN)
        .str.normalize("NFC")
        .str.to_lowercase()
        .str.replace_all(r"\s+", " ")
        .str.replace_all(rf" ?{_BETWEEN} ?", _BETWEEN)
        .str.strip_chars(" ")
    )
    texts = records.select(text.alias("text")).to_series()
    prints = [hashlib.blake2b(f"{kind}{t}".encode(), digest_size=16).digest() for t in texts]
    return records.select(KEY).with_columns(pl.Series("fingerprint", prints, dtype=pl.Binary))


def _message_list(column: str) -> pl.Expr:
    fields = [pl.element().struct.field(f).fill_null("") for f in ("role", "content", "extra")]
    return pl.col(column).list.eval(pl.concat_str(fields, separator=_BETWEEN)).list.join(_BETWEEN)
