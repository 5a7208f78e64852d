"""Tasks: what a row of a target set is an example of."""

import polars as pl

TASK_COLUMNS = ("meta", "source")  # record columns that name a target row's task


def tasks_of(copies: pl.DataFrame) -> pl.DataFrame:
    """Each `id` with its `task`, once for each of its tasks, sorted by both.

    The task is `task` in the `meta` of any copy of a row (a column "task" of the user's file), else
    that copy's source.

    Args:
        copies: `id` and TASK_COLUMNS of every row, copies of a record included.
    """
    task = pl.coalesce(pl.col("meta").str.json_path_match("$.task"), "source", pl.lit("target"))
    return copies.select("id", task=task).unique().sort("id", "task")
