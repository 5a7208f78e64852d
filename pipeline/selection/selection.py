"""Select: scores + rule + budget -> the ledger, one row per input row with verdict and reason.

The ledger answers "why is this row in, or out?". Rows fall in this order: quarantined at ingest;
dropped by cleaning; exact copies of an earlier row; without a score; left out by the rule; beyond
the budget. What remains is kept.
"""

# N = rows

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.ordering import Ints, best_first, fitting
from gristmill.pipeline.records.schema import KEY, LEDGER, SCORES, check
from gristmill.pipeline.selection.verdicts import NO_TEXT, Verdicts, clean, note, notes_of, refuse

NOT_FINITE = "the score is not a finite number"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much to keep: exactly one of rows, fraction and tokens; never exceeded.

    A fraction is of the candidates, the rows that are neither quarantined, dropped nor copies, with
    or without a score; it is rounded down, and is at least one row. Tokens are filled in the rule's
    order; a row that does not fit is skipped and the next is tried.
    """

    rows: int | None = None
    fraction: float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in vars(self).items() if v is not None}
        if len(given) != 1:
            found = " and ".join(f"{k}={v}" for k, v in given.items()) or "none"
            raise ValueError(f"give exactly one of rows, fraction and tokens; found {found}.")
        ((name, value),) = given.items()
        if not 0 < value < math.inf:
            raise ValueError(f"a budget of {name} must be above 0; found {value}.")
        if self.fraction is not None and self.fraction > 1:
            raise ValueError(f"a fraction is at most 1; found {value} (write rows={value:g}?).")

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """A budget as a user writes it: "10%", "500" (rows) or "20000tok"."""
        parts = re.fullmatch(r"\s*(\d[\d_,]*(?:\.\d+)?)\s*(%|tok(?:ens)?|rows)?\s*", text)
        number = Fraction(re.sub("[_,]", "", parts[1])) if parts else Fraction(1, 2)
        unit = parts[2] if parts else None
        if unit == "%":
            return cls(fraction=float(number / 100))
        if number.denominator != 1:
            raise ValueError(
                f"a budget is a share, a number of rows or a number of tokens, such as 10%, 500 or "
                f"20000tok; found {text!r}."
            )
        if unit in ("tok", "tokens"):
            return cls(tokens=int(number))
        return cls(rows=int(number))

    def words(self, of: str) -> str:
        """The budget in words.

        Args:
            of: what a share is of: "the rows that cleaning leaves".
        """
        if self.fraction is not None:
            return f"{self.fraction * 100:g}% of {of}"
        return f"{self.tokens:,} tokens" if self.rows is None else f"{self.rows:,} rows"

    def amount(self, candidates: int) -> int:
        """How much may be taken, in rows or in tokens."""
        if self.fraction is not None:
            share = Fraction(repr(float(self.fraction)))  # 0.29 of 100 is 29, not 28.999...
            return min(candidates, max(1, math.floor(share * candidates)))
        amount = self.rows if self.tokens is None else self.tokens
        assert amount is not None, "checked at construction"
        return amount


def select(
    scores: pl.DataFrame,
    *,
    rule: Rule,
    budget: Budget | None = None,
    drops: Sequence[pl.DataFrame] = (),
    extra: pl.DataFrame | None = None,
    stage: str = "select",
) -> pl.DataFrame:
    """Decide on every row.

    Args:
        scores: the table of `schema.SCORES`, one row per input row, with any `score_<part>`.
        rule: puts the candidates in order.
        budget: cuts the order; None keeps all of it.
        drops: rows dropped by cleaning, keyed by id, source and row, with any of `NOTES`. The first
            frame that names a row decides. A drop holds for the row it names; one that
            `contaminates` a benchmark also for every copy, so that no leak returns by another file.
        extra: further columns that the rule needs (cluster, license ...), keyed the same way.
        stage: the ledger's name for this step.

    Returns:
        The table of `schema.LEDGER` in the order of `scores`, score parts after `score`, and last
        `order`: a row's place in the rule's order. It tells what would enter at a larger budget,
        and in which order to train.
    """
    table = check(scores, SCORES, "scores")
    verdicts = Verdicts.none(table.height)
    refuse(clean(table, notes_of(drops), verdicts))
    candidates = len(verdicts.open)
    table = _with_extra(table, extra)
    unscored(table, verdicts, stage)
    remaining = math.inf if budget is None else budget.amount(candidates)
    places = _rank(_scored(table, verdicts.open, rule, budget), rule, remaining, stage, verdicts)
    heads = verdicts.heads()
    stays = pl.col("id").is_in(heads.implode()) if len(heads) else pl.lit(False)
    return concluded(table, verdicts, places, stays)


def unscored(table: pl.DataFrame, verdicts: Verdicts, stage: str) -> None:
    """Assign the open rows whose score is no finite number."""
    finite = table["score"].gather(verdicts.open).is_finite().fill_null(False)
    lost = verdicts.open[~finite.to_numpy()]
    why = table["reason"].gather(lost).fill_null(NOT_FINITE)
    reasons = why.unique(maintain_order=True)
    which = why.replace_strict(reasons, range(len(reasons)), return_dtype=pl.Int64).to_numpy()
    verdicts.assign(lost, note("dropped", stage, "unscored: " + reasons), which)


def concluded(
    table: pl.DataFrame,
    verdicts: Verdicts,
    places: Mapping[str, pl.Series],
    stays: pl.Expr | pl.Series,
) -> pl.DataFrame:
    """The ledger of rows that all have a verdict.

    The `cluster` is what cleaning said, else what the data said; a row that stays is in its own.

    Args:
        table: the scores, perhaps with `cluster`.
        verdicts: of its rows.
        places: their `rank`, `order` and `weight`.
        stays: whether another row went because of this one.
    """
    given = table["cluster"] if "cluster" in table.columns else NO_TEXT
    parts = [c for c in table.columns if c.startswith("score_")]
    table = table.select(*(c for c in SCORES if c != "reason"), *parts)
    decided = table.hstack(verdicts.columns()).with_columns(**places)
    own = pl.when(stays).then("id")
    return ledger_of(decided.with_columns(cluster=pl.coalesce("cluster", given, own)))


def _with_extra(table: pl.DataFrame, extra: pl.DataFrame | None) -> pl.DataFrame:
    """The table with those columns of `extra` that it lacks."""
    if extra is None:
        return table
    keys = table.select(*KEY)
    if not keys.equals(extra.select(*KEY)):
        extra = keys.join(extra, on=KEY, how="left", validate="1:1", maintain_order="left")
    return table.hstack([extra[c] for c in extra.columns if c not in table.columns])


def _scored(table: pl.DataFrame, rows: Ints, rule: Rule, budget: Budget | None) -> pl.DataFrame:
    """What the rule sees: the scored candidates, with the `cost` of each."""
    demand_columns(rule, table.columns)
    parts = [c for c in table.columns if c.startswith("score")]
    scored = table.select(*dict.fromkeys(("id", *parts, "tokens", *rule.needs)))
    scored = scored if len(rows) == table.height else scored[rows]
    if budget is None or budget.tokens is None:
        return scored.with_columns(cost=pl.lit(1, pl.Int64))
    uncounted = scored.filter(pl.col("tokens").is_null())
    if uncounted.height:
        demand_tokens(uncounted.height, uncounted["id"][0])
    return scored.with_columns(cost="tokens")


def demand_columns(rule: Rule, columns: Sequence[str]) -> None:
    """Refuse a rule that reads a column which is not there."""
    lacking = [c for c in rule.needs if c not in columns]
    if lacking:
        raise ValueError(
            f"the rule {type(rule).__name__} needs the column {lacking[0]!r}, which neither scores "
            f"nor data have (found: {', '.join(columns)})."
        )


def demand_tokens(uncounted: int, first: str) -> NoReturn:
    """Refuse a budget in tokens where rows have none."""
    raise ValueError(
        f"a budget in tokens needs the tokens of every row; {uncounted:,} have none, "
        f"first id {first}: score with a tokenizer, or give rows or a fraction."
    )


def _rank(
    scored: pl.DataFrame, rule: Rule, remaining: float, stage: str, verdicts: Verdicts
) -> dict[str, pl.Series]:
    """Assign the rows still open by rule and budget; their rank, order and weight."""
    rows, height = verdicts.open, len(verdicts.at_N)
    order = rule.order(scored, remaining)
    at, weight = order["index"].to_numpy(), order["weight"].to_numpy()
    kept = fitting(scored["cost"].to_numpy()[at], remaining)
    verdicts.assign(rows[at[kept]], note("kept", stage))
    verdicts.assign(rows[at[~kept]], note("dropped", stage, "below_budget"))
    verdicts.assign(verdicts.open, note("dropped", stage, rule.exclusion_reason))
    return {
        "rank": _spread(np.arange(1, len(rows) + 1), rows[best_first(scored)], height),
        "order": _spread(np.arange(1, len(at) + 1), rows[at], height),
        "weight": _spread(weight[kept], rows[at[kept]], height),
    }


def _spread(values: NDArray[Any], rows: Ints, height: int) -> pl.Series:
    """A column of `height` with `values` at `rows` and null elsewhere."""
    full = np.zeros(height, values.dtype)
    full[rows] = values
    here = np.zeros(height, bool)
    here[rows] = True
    return pl.select(pl.when(pl.Series(here)).then(pl.Series(full))).to_series()


def ledger_of(table: pl.DataFrame) -> pl.DataFrame:
    """The columns of the ledger, score parts after `score`, `order` last."""
    named = [pl.col(c).cast(t) for c, t in LEDGER.items()]
    after = list(LEDGER).index("score") + 1
    parts = [c for c in table.columns if c.startswith(("score_", "rank_"))]
    return table.select(*named[:after], *parts, *named[after:], "order")
