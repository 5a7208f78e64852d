"""Select: scores + rule + budget -> the ledger, one row per input row with verdict and reason.

The ledger answers "why is this row in, or out?". Rows fall in this order: quarantined at ingest;
dropped by cleaning; exact copies of an earlier row; without a score; left out by the rule; beyond
the budget. What remains is kept.
"""

# N = rows

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.ordering import Ints, best_first, fitting
from gristmill.pipeline.records.schema import KEY, LEDGER, SCORES, check

QUARANTINED = "quarantine:"  # how the reason of a row that ingest set aside begins
NOTES = ("cluster", "duplicate_of", "contaminates", "reason", "stage")  # what a drop may say
NO_TEXT = pl.lit(None, pl.String)


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
    verdicts = _Verdicts(at_N=np.full(table.height, -1, np.int32), notes=[])
    _clean(table, drops, verdicts)
    candidates = len(verdicts.open)
    table = _with_extra(table, extra)

    lost = verdicts.open[
        ~table["score"].gather(verdicts.open).is_finite().fill_null(False).to_numpy()
    ]
    why = table["reason"].gather(lost).fill_null("the score is not a finite number")
    reasons = why.unique(maintain_order=True)
    which = why.replace_strict(reasons, range(len(reasons)), return_dtype=pl.Int64).to_numpy()
    verdicts.assign(lost, _note("dropped", stage, "unscored: " + reasons), which)
    remaining = math.inf if budget is None else budget.amount(candidates)
    places = _rank(_scored(table, verdicts.open, rule, budget), rule, remaining, stage, verdicts)

    given = table["cluster"] if "cluster" in table.columns else NO_TEXT
    parts = [c for c in table.columns if c.startswith("score_")]
    table = table.select(*(c for c in SCORES if c != "reason"), *parts)
    decided = table.hstack(verdicts.columns()).with_columns(**places)
    return ledger_of(decided.with_columns(cluster=_cluster(decided, given)))


def _cluster(decided: pl.DataFrame, given: pl.Series | pl.Expr) -> pl.Expr:
    """What cleaning said, else what the data said; the row that stays is in its own cluster."""
    said = decided.select(pl.coalesce("cluster", "duplicate_of"))
    heads = said.to_series().drop_nulls().unique()
    stays = pl.when(pl.col("id").is_in(heads.implode())).then("id") if len(heads) else NO_TEXT
    return pl.coalesce("cluster", given, stays)


@dataclass(frozen=True, kw_only=True)
class _Verdicts:
    """What became of each row: `at_N` is its place in the notes, -1 while the row is open.

    Rows with the same verdict share one note, so millions of rows need few strings.
    """

    at_N: NDArray[np.int32]
    notes: list[pl.DataFrame]

    @property
    def open(self) -> Ints:
        return np.flatnonzero(self.at_N < 0)

    def assign(self, rows: Ints, notes: pl.DataFrame, which: Ints | int = 0) -> None:
        """Assign open rows by `which` of the notes each."""
        assert (self.at_N[rows] < 0).all(), "assigned twice"
        self.at_N[rows] = sum(n.height for n in self.notes) + which
        self.notes.append(notes)

    def assign_each(self, notes: pl.DataFrame) -> None:
        """Assign the open rows `at` by a note each."""
        own = notes.select("verdict", *NOTES)
        self.assign(notes["at"].to_numpy(), own, np.arange(notes.height))

    def columns(self) -> pl.DataFrame:
        """Verdict and notes of every row."""
        assert not len(self.open), "a row has no verdict"
        return pl.concat(self.notes)[self.at_N]


def _note(verdict: str, stage: str, reason: str | pl.Series | None = None) -> pl.DataFrame:
    """A note that says no more than a reason, or one for each reason."""
    reasons = reason if isinstance(reason, pl.Series) else pl.Series([reason], dtype=pl.String)
    return (
        reasons.alias("reason")
        .to_frame()
        .select(
            pl.lit(verdict).alias("verdict"),
            *[NO_TEXT.alias(c) for c in NOTES[:3]],
            "reason",
            pl.lit(stage).alias("stage"),
        )
    )


def _clean(table: pl.DataFrame, drops: Sequence[pl.DataFrame], verdicts: _Verdicts) -> None:
    """Assign what was quarantined, what cleaning dropped, and copies."""
    keys = table.select(*KEY).with_row_index("at")
    # Hashes are cheap to compare; the few rows that share one are then compared by id.
    shared = keys.filter(keys["id"].hash().is_duplicated()).filter(pl.col("id").is_duplicated())
    twice = shared.filter(pl.struct(KEY).is_duplicated())
    if twice.height:
        key = ", ".join(f"{c}={twice[c][0]}" for c in KEY)
        raise ValueError(f"{twice.height:,} rows of scores share their key, first {key}.")

    broken = np.flatnonzero(table["reason"].str.starts_with(QUARANTINED).fill_null(False))
    causes = _note("quarantined", "ingest", table["reason"].gather(broken))
    verdicts.assign_each(causes.with_columns(at=broken))
    notes = _notes(drops)
    verdicts.assign_each(_still(verdicts, _dropped(keys, notes)))

    still = _still(verdicts, shared).sort("source", "row")
    leaks = notes.filter(pl.col("contaminates").is_not_null()).unique("id", maintain_order=True)
    leaked = still.select("at", "id").join(leaks, on="id", maintain_order="left")
    verdicts.assign_each(leaked)
    later = _still(verdicts, still).filter(~pl.col("id").is_first_distinct())
    copy = _note("dropped", "duplicates", "exact_duplicate").drop("duplicate_of")
    verdicts.assign_each(later.select("at", duplicate_of="id").join(copy, how="cross"))


def _still(verdicts: _Verdicts, rows: pl.DataFrame) -> pl.DataFrame:
    """Those of the rows `at` that are still open."""
    return rows.filter(verdicts.at_N[rows["at"].to_numpy()] < 0)


def _notes(drops: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All that cleaning said, in one table."""
    notes = pl.DataFrame(schema=dict.fromkeys(KEY + NOTES, pl.String) | {"row": pl.Int64})
    for frame in drops:
        missing = [NO_TEXT.alias(c) for c in NOTES if c not in frame.columns]
        whole = frame.with_columns(missing)
        notes.vstack(
            whole.select(pl.col(c).cast(t) for c, t in notes.schema.items()), in_place=True
        )
    return notes.with_columns(
        pl.col("reason").fill_null("dropped"),
        pl.col("stage").fill_null("clean"),
        verdict=pl.lit("dropped"),
    )


def _dropped(keys: pl.DataFrame, notes: pl.DataFrame) -> pl.DataFrame:
    """The rows `at` which cleaning dropped, each with the first note on it."""
    notes = notes.unique(KEY, keep="first", maintain_order=True)
    found = keys.join(notes, on=KEY, maintain_order="left")
    if found.height < notes.height:
        stray = notes.join(keys, on=KEY, how="anti")
        raise ValueError(
            f"{stray.height:,} dropped rows are not among the scores, first id {stray['id'][0]} "
            f"of {stray['source'][0]}: make both from the same data."
        )
    return found


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
    lacking = [c for c in rule.needs if c not in table.columns]
    if lacking:
        raise ValueError(
            f"the rule {type(rule).__name__} needs the column {lacking[0]!r}, which neither scores "
            f"nor data have (found: {', '.join(table.columns)})."
        )
    parts = [c for c in table.columns if c.startswith("score")]
    scored = table.select(*dict.fromkeys(("id", *parts, "tokens", *rule.needs)))
    scored = scored if len(rows) == table.height else scored[rows]
    if budget is None or budget.tokens is None:
        return scored.with_columns(cost=pl.lit(1, pl.Int64))
    uncounted = scored.filter(pl.col("tokens").is_null())
    if uncounted.height:
        raise ValueError(
            f"a budget in tokens needs the tokens of every row; {uncounted.height:,} have none, "
            f"first id {uncounted['id'][0]}: score with a tokenizer, or give rows or a fraction."
        )
    return scored.with_columns(cost="tokens")


def _rank(
    scored: pl.DataFrame, rule: Rule, remaining: float, stage: str, verdicts: _Verdicts
) -> dict[str, pl.Series | pl.Expr]:
    """Assign the rows still open by rule and budget; their rank, order and weight."""
    rows, height = verdicts.open, len(verdicts.at_N)
    order = rule.order(scored, remaining)
    at, weight = order["index"].to_numpy(), order["weight"].to_numpy()
    kept = fitting(scored["cost"].to_numpy()[at], remaining)
    verdicts.assign(rows[at[kept]], _note("kept", stage))
    verdicts.assign(rows[at[~kept]], _note("dropped", stage, "below_budget"))
    verdicts.assign(verdicts.open, _note("dropped", stage, rule.exclusion_reason))
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
