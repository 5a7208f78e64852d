"""Shortfall: what a selection could not keep of what its budget and its shares ask for.

A selection that keeps less than it was asked for is still made, since the rows that are not there
cannot be kept; but it is told wherever the result is shown.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.selection.selection import Budget

SHORT = "short"  # where a ledger's note says what could not be kept of what was asked
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
    counts = _Counts.of(ledger, budget, stage)
    remaining = math.inf if budget is None else budget.amount(counts.candidates)
    told = _of_rule(_scored(ledger, budget, stage), rule, remaining, extra)
    return [*counts.short(budget, remaining, stage), *told]


def shortfalls_in_parts(
    parts: Iterable[pl.DataFrame], rule: Rule, budget: Budget | None, *, stage: str = "select"
) -> list[str]:
    """The same of a ledger that is read in parts.

    Args:
        parts: of the ledger, with the columns that name the rule's groups, or else all it needs.
        rule: of the stage.
        budget: of the stage; None: as much as the rule gives.
        stage: its name in the ledger.
    """
    counts, sums = _Counts(), []
    for part in parts:
        counts += _Counts.of(part, budget, stage)
        if tells(rule):
            scored = _scored(part, budget, stage)
            summed = scored.group_by(*rule.groups).agg(pl.sum("cost")) if rule.groups else scored
            sums.append(summed)
    remaining = math.inf if budget is None else budget.amount(counts.candidates)
    told = rule.short(pl.concat(sums), remaining) if sums else []
    return [*counts.short(budget, remaining, stage), *told]


def tells(rule: Rule) -> bool:
    """Whether a rule can fall short of its own settings."""
    return type(rule).short is not Rule.short


def _cost(budget: Budget | None) -> pl.Expr:
    """What a row takes of a budget."""
    tokens = budget is not None and budget.tokens is not None
    return pl.col("tokens").fill_null(0) if tokens else pl.repeat(1, pl.len(), dtype=pl.Int64)


def _open(stage: str) -> pl.Expr:
    """The rows that a stage decided on."""
    return (pl.col("verdict") == "kept") | (pl.col("stage") == stage)


def _scored(ledger: pl.DataFrame, budget: Budget | None, stage: str) -> pl.DataFrame:
    """The rows with a score that a stage decided on, with what each takes of its budget."""
    rows = ledger.filter(_open(stage) & pl.col("score").is_not_null())
    return rows.with_columns(cost=_cost(budget))


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """What a stage decided.

    Attributes:
        candidates: rows.
        kept: rows.
        taken: of the budget, by the rows that were kept.
        unscored: rows.
        cheapest: what the cheapest row with a score takes of those that were not kept; infinite:
            there is none.
    """

    candidates: int = 0
    kept: int = 0
    taken: int = 0
    unscored: int = 0
    cheapest: float = math.inf

    @classmethod
    def of(cls, ledger: pl.DataFrame, budget: Budget | None, stage: str) -> "_Counts":
        kept, scored = pl.col("verdict") == "kept", pl.col("score").is_not_null()
        passed = _open(stage) & ~kept
        cost = _cost(budget)
        counted = ledger.select(
            candidates=_open(stage).sum(),
            kept=kept.sum(),
            taken=cost.filter(kept).sum(),
            unscored=(passed & pl.col("reason").str.starts_with("unscored: ")).sum(),
            cheapest=cost.filter(passed & scored).min(),
        )
        (found,) = counted.to_dicts()
        least = found.pop("cheapest")
        return cls(**found, cheapest=math.inf if least is None else least)

    def __add__(self, other: "_Counts") -> "_Counts":
        return _Counts(
            candidates=self.candidates + other.candidates,
            kept=self.kept + other.kept,
            taken=self.taken + other.taken,
            unscored=self.unscored + other.unscored,
            cheapest=min(self.cheapest, other.cheapest),
        )

    def short(self, budget: Budget | None, remaining: float, stage: str) -> list[str]:
        """What was not kept of what the budget names."""
        if budget is None or self.taken >= remaining:
            return []
        unit = "rows" if budget.tokens is None else "tokens"
        if unit == "tokens" and not self._wanting(remaining - self.taken, remaining):
            return []
        passed = self.candidates - self.kept - self.unscored
        why = [f"{self.unscored:,} have no score"] if self.unscored else []
        why += [f"{passed:,} were left out by the rule"] if passed else []
        of = f" of {self.candidates:,} candidates, {' and '.join(why)}."
        return [
            f"stage {stage!r} kept {self.taken:,} of the {int(remaining):,} {unit} that its budget "
            f"names:{of if why else ' there are no more.'}"
        ]

    def _wanting(self, empty: float, remaining: float) -> bool:
        """Whether tokens stay empty for want of rows, and not because no row fits any more."""
        if math.isinf(self.cheapest):
            return True
        return self.cheapest <= empty and empty > GRAIN * remaining


def _of_rule(
    rows: pl.DataFrame, rule: Rule, remaining: float, extra: pl.DataFrame | None
) -> list[str]:
    if extra is not None:
        new = [c for c in extra.columns if c not in rows.columns]
        rows = rows.join(extra.select(*KEY, *new), on=KEY, how="left", maintain_order="left")
    if any(column not in rows.columns for column in rule.needs):
        return []  # a rule that cannot be read has kept nothing, and was refused
    return rule.short(rows, remaining)
