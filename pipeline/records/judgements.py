"""What people said of records: one row a click, as a review page writes them and runs read them.

A judgement names the record, never the side of a screen: whoever shows two answers in a random
order turns "left" back into "chosen" or "rejected" before it writes. The last judgement of an
annotator on an item counts; earlier ones stay in the table.
"""

from typing import Any, Literal

import polars as pl

from gristmill.pipeline.records.schema import check

Judgement = Literal["chosen", "rejected", "tie", "both_bad", "skip", "keep", "drop", "fix"]
OF_PAIRS: tuple[Judgement, ...] = ("chosen", "rejected", "tie", "both_bad", "skip")
OF_ROWS: tuple[Judgement, ...] = ("keep", "drop", "fix", "skip")
JUDGEMENTS: dict[str, Any] = {
    "item": pl.String,  # id of the record
    "annotator": pl.String,
    "number": pl.Int64,  # 0, 1, 2 ... of this annotator, in the order in which they were given
    "judgement": pl.String,  # of `OF_PAIRS` or `OF_ROWS`; null: the annotator took the last back
    "shown_first": pl.String,  # "chosen" or "rejected": which answer stood first; null for rows
    "answer": pl.String,  # the corrected answer of "fix"
    "comment": pl.String,
    "given_at": pl.String,  # ISO 8601, UTC
    "seconds": pl.Float64,  # that the item was on the screen
}


def current(judgements: pl.DataFrame) -> pl.DataFrame:
    """The judgements that count: the last of each annotator on each item, unless taken back.

    Args:
        judgements: of the columns `JUDGEMENTS`, in any order.

    Returns:
        `JUDGEMENTS`, at most one row an item and annotator, sorted by both.

    Raises:
        ValueError: a column is missing.
    """
    table = check(judgements, JUDGEMENTS, "a table of judgements")
    last = table.sort("number").unique(["item", "annotator"], keep="last")
    return last.filter(pl.col("judgement").is_not_null()).sort("item", "annotator")
