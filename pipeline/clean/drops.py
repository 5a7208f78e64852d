"""The frame that every cleaner returns, and the order that decides which of several rows stays."""

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from gristmill.pipeline.records.schema import KEY

STAGE = "clean"
Progress = Callable[[int, int], None]  # told of (done, in all)
DROPS: dict[str, Any] = {
    "id": pl.String,
    "source": pl.String,
    "row": pl.Int64,
    "duplicate_of": pl.String,  # id of the row that stays
    "cluster": pl.String,  # id of the cluster's representative: the same row
    "contaminates": pl.String,  # benchmark that is repeated most
    "overlap": pl.Float64,  # how much agrees: Jaccard, cosine or containment, 1 = all
    "reason": pl.String,  # snake_case, with the detail after a colon
    "stage": pl.String,
}


def drops(keys: pl.DataFrame, **columns: pl.Series | pl.Expr | str) -> pl.DataFrame:
    """The drops frame of the rows `keys`, in order of source and row.

    Args:
        keys: rows with `schema.KEY`.
        columns: further columns of `DROPS`; a string is one value for all. The rest is null.
    """
    given: Mapping[str, pl.Series | pl.Expr] = {
        name: pl.lit(value) if isinstance(value, str) else value
        for name, value in {"stage": STAGE, **columns}.items()
    }
    null = {name: pl.lit(None, dtype) for name, dtype in DROPS.items() if name not in KEY}
    frame = keys.with_columns(**{**null, **given})
    return frame.select(pl.col(c).cast(t) for c, t in DROPS.items()).sort("source", "row", "id")


def by_priority(
    rows: pl.DataFrame, scores: pl.DataFrame | None, standing: pl.Series | None = None
) -> pl.DataFrame:
    """Rows in the order in which they deserve to stay: best score, then id; else source and row.

    Args:
        rows: rows with `schema.KEY`.
        scores: a table with `schema.KEY` and `score`; rows without a score come last.
        standing: ids of rows that come before all others; None: of none.
    """
    if scores is None:
        order = rows.sort(*KEY[1:], KEY[0])
    else:
        told = scores.select(*KEY, __score="score")
        scored = rows.join(told, on=KEY, how="left", validate="m:1")
        falling = [True, False, False, False]
        order = scored.sort("__score", *KEY, descending=falling, nulls_last=True).drop("__score")
    if standing is None:
        return order
    return order.sort(~pl.col("id").is_in(standing.implode()), maintain_order=True)


def named(table: pl.DataFrame, where: str) -> pl.DataFrame:
    """The rows that a user's table says are gone: its drops, or the dropped rows of a ledger.

    Args:
        table: of `gristmill clean`, or a ledger.
        where: its file, for the error.

    Raises:
        ValueError: it does not name rows.
    """
    for name in KEY:
        kind = pl.Int64 if name == "row" else pl.String
        if name not in table.columns or table.schema[name] != kind:
            raise ValueError(
                f"{where} has no column {name!r} of {kind}: give a table of `gristmill clean`, or "
                "a ledger."
            )
    return table.filter(verdict="dropped") if "verdict" in table.columns else table


def by_reason(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows by reason, most first; the id that a reason may name is left out."""
    reason = pl.col("reason").str.replace(": [0-9a-f]{32}$", "")
    counts = frame.group_by(reason).agg(rows=pl.len())
    return counts.sort("rows", "reason", descending=[True, False]).to_dicts()


def nobody(done: int, total: int) -> None:
    """Progress that nobody is told of."""
