"""Shortfall: what a selection could not keep of what its budget and its shares ask for.

A selection that keeps less than it was asked for is still made, since the rows that are not there
cannot be kept; but it is told wherever the result is shown.
"""

import math

import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.selection.selection import Budget

GRAIN = 0.01  # of a budget in tokens: less than this stays empty because rows are whole


def shortfalls(
    ledger: pl.DataFrame,
    rule: Rule,
    budget: Budget | None,
    *,
    stage: str = "select",
    extra: pl.DataFrame | None = None,
) -> list[str]:
    """What a stage could not keep of what was asked, a sentence each; mostly none.

    Args:
        ledger: after the stage.
        rule: of the stage.
        budget: of the stage; None: as much as the rule gives.
        stage: its name in the ledger.
        extra: the columns that the rule was given beside the scores, with the key of every row.
    """
    open_rows = ledger.filter((pl.col("verdict") == "kept") | (pl.col("stage") == stage))
    tokens = budget is not None and budget.tokens is not None
    cost = pl.col("tokens").fill_null(0) if tokens else pl.lit(1, pl.Int64)
    open_rows = open_rows.with_columns(cost=cost)
    remaining = math.inf if budget is None else budget.amount(open_rows.height)
    return [
        *_of_budget(open_rows, remaining, "tokens" if tokens else "rows", stage),
        *_of_rule(open_rows, rule, remaining, extra),
    ]


def _of_budget(rows: pl.DataFrame, remaining: float, unit: str, stage: str) -> list[str]:
    kept = rows.filter(verdict="kept")
    taken = int(kept["cost"].sum())
    if math.isinf(remaining) or taken >= remaining:
        return []
    if unit == "tokens" and not _wanting(rows, remaining - taken, remaining):
        return []
    unscored = rows.filter(pl.col("reason").str.starts_with("unscored: ")).height
    passed = rows.height - kept.height - unscored
    why = [f"{unscored:,} have no score"] if unscored else []
    why += [f"{passed:,} were left out by the rule"] if passed else []
    rest = f" of {rows.height:,} candidates, {' and '.join(why)}." if why else " there are no more."
    return [
        f"stage {stage!r} kept {taken:,} of the {int(remaining):,} {unit} that its budget names:"
        f"{rest}"
    ]


def _wanting(rows: pl.DataFrame, empty: float, remaining: float) -> bool:
    """Whether tokens stay empty for want of rows, and not because no row fits any more."""
    passed = rows.filter((pl.col("verdict") != "kept") & pl.col("score").is_not_null())
    if passed.is_empty():
        return True
    fits = int(passed["cost"].min() or 0) <= empty  # type: ignore[arg-type]  # an integer column
    return fits and empty > GRAIN * remaining


def _of_rule(
    rows: pl.DataFrame, rule: Rule, remaining: float, extra: pl.DataFrame | None
) -> list[str]:
    if extra is not None:
        new = [c for c in extra.columns if c not in rows.columns]
        rows = rows.join(extra.select(*KEY, *new), on=KEY, how="left", maintain_order="left")
    scored = rows.filter(pl.col("score").is_not_null())
    if any(column not in scored.columns for column in rule.needs):
        return []  # a rule that cannot be read has kept nothing, and was refused
    return rule.short(scored, remaining)
