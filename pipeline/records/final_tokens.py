"""Final-token pairs: at a place of an answer, the token to avoid and those to prefer.

A row is a place where a model began a phrase that is used too often. It holds what stood before
(prompt and answer so far, as tokens), the token that began the phrase, and tokens of the same
distribution that would not have. Rows are of one tokenizer, whose hash they bear.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from gristmill.pipeline.records.schema import check, digest

FINAL_TOKENS: dict[str, Any] = {
    "id": pl.String,  # hash of prefix and rejected token
    "pair": pl.String,  # id of the preference pair that was made of the same answer
    "phrase": pl.String,  # the one that was begun
    "prefix_ids": pl.List(pl.Int32),  # the rendered prompt and the answer up to the place
    "rejected_token": pl.Int32,
    "chosen_tokens": pl.List(pl.Int32),
    "rejected": pl.String,  # the tokens as text, for readers
    "chosen": pl.List(pl.String),
    "tokenizer": pl.String,  # sha256 of the tokenizer
}
FILE = "final_tokens.parquet"  # beside the pairs of a published folder


def row_id(prefix: Sequence[int], rejected: int) -> str:
    """Id of a row: what was read, and what is not to follow."""
    return digest(["final_token", list(prefix), rejected])


def merged(rows: pl.DataFrame) -> pl.DataFrame:
    """One row for each place: the chosen tokens of rows of one id are put together.

    Args:
        rows: of the columns `FINAL_TOKENS`.

    Raises:
        ValueError: a column is missing.
    """
    rows = check(rows, FINAL_TOKENS, "a table of final tokens")
    tokens = rows.explode("chosen_tokens", "chosen").unique(
        ["id", "chosen_tokens"], keep="first", maintain_order=True
    )
    once = [c for c in FINAL_TOKENS if c not in ("id", "chosen_tokens", "chosen")]
    found = tokens.group_by("id", maintain_order=True).agg(
        *(pl.col(c).first() for c in once), pl.col("chosen_tokens", "chosen")
    )
    return found.select(list(FINAL_TOKENS)).sort("id")
