"""Beside: another version's verdict next to each row's own: what came in, went out, or moved."""

from pathlib import Path

import polars as pl

from gristmill.pipeline.explore.opening import Opened, opened
from gristmill.pipeline.export.changes import difference

SAME = "same"
_BEFORE = ("verdict", "reason", "score", "rank")


def beside(now: Opened, other: Path) -> tuple[Opened, pl.DataFrame]:
    """The other version, and the ledger of this one with what the other said.

    Columns `change` ("added", "dropped", "re-scored", or "same"), `before_verdict`,
    `before_reason`, `before_score`, `before_rank`. Rows that only the other version knows stand
    at the end, with no verdict of their own. Copies share an id, and what is said of it: a version
    keeps an id if it keeps one of its copies.
    """
    before = opened(other)
    changed = difference(before.ledger, now.ledger).select("id", "change")
    old = before.ledger.sort(pl.col("verdict") != "kept", "at").unique("id", keep="first")
    told = old.select("id", *(pl.col(c).alias(f"before_{c}") for c in _BEFORE))
    gone = old.join(now.ledger, on="id", how="anti").sort("at")
    absent = gone.select("id", "source", "row", reason=pl.lit("no longer in the pool"))
    rows = pl.concat([now.ledger.drop("at"), absent], how="diagonal_relaxed")
    joined = rows.join(told, on="id", how="left", maintain_order="left")
    joined = joined.join(changed, on="id", how="left", maintain_order="left")
    return before, joined.with_columns(pl.col("change").fill_null(SAME)).with_row_index("at")
