"""Arms: the rows that a method takes, and those that its controls take at the same budget.

| control | rows |
|---|---|
| `random` | drawn by id; as many draws as are asked for |
| `balanced_random` | drawn alike from every source |
| `length` | those with the most tokens |
| `length_matched` | drawn with the token counts that a method's rows have |
| `canary` | random in disguise: a comparison that promotes it is broken |
| `full` | all rows |
| `zero_shot` | none: the base model |

Reference: random and balanced random are what selections most often fail to beat, see "Random is
almost all you need", arXiv:2410.09335.
"""

# N = rows

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.selection.rules.stratified import Stratified
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.selection import Budget, select

Control = Literal[
    "random", "balanced_random", "length", "length_matched", "canary", "full", "zero_shot"
]
BINS = 10  # of token counts, where lengths are matched


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way of choosing rows, and the rows that it chose at one budget.

    Attributes:
        name: of the method's scorer, or of the control.
        control: whether it is there to be beaten.
        draws: `id` and `weight` of the chosen rows, one frame a draw; no frame: zero-shot.
        matched: the method whose lengths a `length_matched` control has.
    """

    name: str
    control: bool
    draws: tuple[pl.DataFrame, ...]
    matched: str | None = None


def chosen(ledger: pl.DataFrame) -> pl.DataFrame:
    """`id` and `weight` of the rows that a ledger keeps, each once."""
    kept = ledger.filter(verdict="kept").unique("id", keep="first", maintain_order=True)
    return kept.select("id", weight=pl.col("weight").fill_null(1.0)).sort("id")


def method(name: str, ledger: pl.DataFrame) -> Arm:
    """The arm of a selection that a run made."""
    return Arm(name=name, control=False, draws=(chosen(ledger),))


def random(table: pl.DataFrame, budget: Budget, draws: int) -> Arm:
    """Rows drawn by id."""
    made = [_drawn(table, budget, Top(), f"random {d}") for d in range(draws)]
    return Arm(name="random", control=True, draws=tuple(made))


def balanced_random(table: pl.DataFrame, budget: Budget, draws: int) -> Arm:
    """Rows drawn alike from every source."""
    rule = Stratified(by="source")
    made = [_drawn(table, budget, rule, f"balanced random {d}") for d in range(draws)]
    return Arm(name="balanced_random", control=True, draws=tuple(made))


def canary(table: pl.DataFrame, budget: Budget) -> Arm:
    """One more random draw that is judged as a method is."""
    return Arm(name="canary", control=True, draws=(_drawn(table, budget, Top(), "canary"),))


def length(table: pl.DataFrame, budget: Budget) -> Arm:
    """The rows with the most tokens."""
    scored = table.with_columns(score=pl.col("tokens").cast(pl.Float64))
    return Arm(
        name="length", control=True, draws=(chosen(select(scored, rule=Top(), budget=budget)),)
    )


def length_matched(table: pl.DataFrame, arm: Arm, draws: int) -> Arm:
    """Rows drawn so that they have the token counts of a method's rows, bin by bin.

    A bin that has too few further rows takes again from the method's own: the lengths are matched
    exactly, whatever that leaves to chance.
    """
    rows = table.unique("id", keep="first", maintain_order=True).select("id", "tokens").sort("id")
    (taken,) = arm.draws[:1]
    own = rows.join(taken, on="id", how="semi")["tokens"].to_numpy()
    rows = rows.filter(pl.col("tokens").is_between(own.min(), own.max()))
    edges = np.unique(np.quantile(own, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, rows["tokens"].to_numpy(), side="right")
    wanted = np.bincount(np.searchsorted(edges, own, side="right"), minlength=len(edges) + 1)
    made = []
    for d in range(draws):
        order = [uniform(d, f"length matched {arm.name}", i) for i in rows["id"]]
        placed = rows.with_columns(bin=pl.Series(bins), order=pl.Series(order)).sort("order", "id")
        picked = [placed.filter(bin=b).head(int(n)) for b, n in enumerate(wanted) if n]
        made.append(pl.concat(picked).select("id", weight=pl.lit(1.0)).sort("id"))
    return Arm(name=f"length_matched:{arm.name}", control=True, draws=tuple(made), matched=arm.name)


def full(table: pl.DataFrame) -> Arm:
    """All rows."""
    ids = table.select("id", weight=pl.lit(1.0)).unique("id").sort("id")
    return Arm(name="full", control=True, draws=(ids,))


def zero_shot() -> Arm:
    """The base model, trained on nothing."""
    return Arm(name="zero_shot", control=True, draws=())


def controls(
    table: pl.DataFrame, budget: Budget, names: tuple[Control, ...], draws: int
) -> list[Arm]:
    """The controls that need no method's rows, in the order of their names."""
    made: dict[str, Callable[[], Arm]] = {
        "random": lambda: random(table, budget, draws),
        "balanced_random": lambda: balanced_random(table, budget, draws),
        "length": lambda: length(table, budget),
        "canary": lambda: canary(table, budget),
        "full": lambda: full(table),
        "zero_shot": zero_shot,
    }
    return [made[name]() for name in names if name in made]


def _drawn(table: pl.DataFrame, budget: Budget, rule: Rule, purpose: str) -> pl.DataFrame:
    draw = pl.Series([uniform(0, f"compare {purpose}", i) for i in table["id"]], dtype=pl.Float64)
    return chosen(select(table.with_columns(score=draw), rule=rule, budget=budget))
