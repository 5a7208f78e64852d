"""Arms: the rows that a method takes, and those that its controls take at the same budget.

| control | rows |
|---|---|
| `random` | drawn by id; as many draws as are asked for |
| `balanced_random` | drawn alike from every source |
| `length` | those with the most tokens |
| `length_matched` | drawn with the token counts that a method's rows have |
| `token_matched` | drawn until they hold as many tokens as a method's rows: equal tokens |
| `compute_matched` | drawn as many more as training on them costs what the method's choice cost |
| `canary` | random in disguise: a comparison that promotes it is broken |
| `full` | all rows |
| `zero_shot` | none: the base model |

Reference: random and balanced random are what selections most often fail to beat, see "Random is
almost all you need", arXiv:2410.09335.
"""

# N = rows

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.selection.rules.stratified import Stratified
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.selection import Budget, select

Matched = Literal["length_matched", "token_matched", "compute_matched"]
Control = Literal[
    "random", "balanced_random", "length", "canary", "full", "zero_shot",
    "length_matched", "token_matched", "compute_matched",
]  # fmt: skip
MATCHED: tuple[Matched, ...] = get_args(Matched)
BINS = 10  # of token counts, where lengths are matched
_DRAW = pl.Schema({"id": pl.String, "weight": pl.Float64, "tokens": pl.Int64})


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way of choosing rows, and the rows that it chose at one budget.

    Attributes:
        name: of the method's scorer, or of the control.
        kind: "method", or which control it is.
        draws: `id`, `weight` and `tokens` of the chosen rows, one frame a draw; no frame:
            zero-shot.
        matched: the method that a matched control stands beside.
        cost: of choosing the rows, in forward passes of a row by the model that is trained.
    """

    name: str
    kind: Control | Literal["method"]
    draws: tuple[pl.DataFrame, ...]
    matched: str | None = None
    cost: float = 0.0

    @property
    def control(self) -> bool:
        """Whether it is there to be beaten."""
        return self.kind != "method"


def chosen(ledger: pl.DataFrame) -> pl.DataFrame:
    """`id`, `weight` and `tokens` of the rows that a ledger keeps, each once."""
    kept = ledger.filter(verdict="kept").unique("id", keep="first", maintain_order=True)
    return kept.select("id", pl.col("weight").fill_null(1.0), "tokens").sort("id").cast(_DRAW)


def method(name: str, ledger: pl.DataFrame, *, cost: float = 0.0) -> Arm:
    """The arm of a selection that a run made; `cost` as in `Arm`."""
    return Arm(name=name, kind="method", draws=(chosen(ledger),), cost=cost)


def random(table: pl.DataFrame, budget: Budget, draws: int) -> Arm:
    """Rows drawn by id."""
    made = [_drawn(table, budget, Top(), f"random {d}") for d in range(draws)]
    return Arm(name="random", kind="random", draws=tuple(made))


def balanced_random(table: pl.DataFrame, budget: Budget, draws: int) -> Arm:
    """Rows drawn alike from every source."""
    rule = Stratified(by="source")
    made = [_drawn(table, budget, rule, f"balanced random {d}") for d in range(draws)]
    return Arm(name="balanced_random", kind="balanced_random", draws=tuple(made))


def canary(table: pl.DataFrame, budget: Budget) -> Arm:
    """One more random draw that is judged as a method is."""
    return Arm(name="canary", kind="canary", draws=(_drawn(table, budget, Top(), "canary"),))


def length(table: pl.DataFrame, budget: Budget) -> Arm:
    """The rows with the most tokens."""
    scored = table.with_columns(score=pl.col("tokens").cast(pl.Float64))
    return Arm(
        name="length", kind="length", draws=(chosen(select(scored, rule=Top(), budget=budget)),)
    )


def length_matched(table: pl.DataFrame, arm: Arm, draws: int) -> Arm:
    """Rows drawn so that they have the token counts of a method's rows, bin by bin.

    A bin that has too few further rows takes again from the method's own: the lengths are matched
    exactly, whatever that leaves to chance.
    """
    rows, (taken,) = _rows(table), arm.draws[:1]
    own = rows.join(taken, on="id", how="semi")["tokens"].to_numpy()
    rows = rows.filter(pl.col("tokens").is_between(own.min(), own.max()))
    edges = np.unique(np.quantile(own, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, rows["tokens"].to_numpy(), side="right")
    wanted = np.bincount(np.searchsorted(edges, own, side="right"), minlength=len(edges) + 1)
    made = []
    for d in range(draws):
        placed = _shuffled(rows.with_columns(bin=pl.Series(bins)), d, f"length matched {arm.name}")
        picked = [placed.filter(bin=b).head(int(n)) for b, n in enumerate(wanted) if n]
        made.append(_equal(pl.concat(picked)))
    return _matched("length_matched", arm, made)


def token_matched(table: pl.DataFrame, arm: Arm, draws: int) -> Arm:
    """Rows drawn by id until they hold as many tokens as the method's rows do, to half a row."""
    rows, wanted = _rows(table), int(arm.draws[0]["tokens"].sum())
    made = []
    for d in range(draws):
        placed = _shuffled(rows, d, "token matched")
        upto = placed["tokens"].cum_sum() - placed["tokens"] / 2
        made.append(_equal(placed.head(max(1, int((upto <= wanted).sum())))))
    return _matched("token_matched", arm, made)


def compute_matched(table: pl.DataFrame, arm: Arm, draws: int, *, trained_row: float) -> Arm:
    """Rows drawn by id, as many as the method's own and what its choice cost would have trained.

    Args:
        table: scores or a ledger of the pool.
        arm: of the method, with its cost.
        draws: how many; one, where all rows are taken.
        trained_row: what training on a row costs, in forward passes of a row.
    """
    rows = _rows(table)
    count = arm.draws[0].height + round(arm.cost / trained_row)
    if count >= rows.height:
        return _matched("compute_matched", arm, [_equal(rows)])
    made = [_equal(_shuffled(rows, d, "compute matched").head(count)) for d in range(draws)]
    return _matched("compute_matched", arm, made)


def full(table: pl.DataFrame) -> Arm:
    """All rows."""
    return Arm(name="full", kind="full", draws=(_equal(_rows(table)),))


def zero_shot() -> Arm:
    """The base model, trained on nothing."""
    return Arm(name="zero_shot", kind="zero_shot", draws=())


def controls(
    table: pl.DataFrame, budget: Budget, names: Sequence[Control], draws: int
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


def beside(
    table: pl.DataFrame, arm: Arm, names: Sequence[Control], draws: int, *, trained_row: float
) -> list[Arm]:
    """The controls that are matched to a method's rows; arguments as those of each."""
    made: dict[str, Callable[[], Arm]] = {
        "length_matched": lambda: length_matched(table, arm, draws),
        "token_matched": lambda: token_matched(table, arm, draws),
        "compute_matched": lambda: compute_matched(table, arm, draws, trained_row=trained_row),
    }
    return [made[name]() for name in names if name in made]


def _drawn(table: pl.DataFrame, budget: Budget, rule: Rule, purpose: str) -> pl.DataFrame:
    draw = pl.Series([uniform(0, f"compare {purpose}", i) for i in table["id"]], dtype=pl.Float64)
    return chosen(select(table.with_columns(score=draw), rule=rule, budget=budget))


def _rows(table: pl.DataFrame) -> pl.DataFrame:
    fit = table.filter(pl.col("reason").is_null())
    return fit.unique("id", keep="first", maintain_order=True).select("id", "tokens").sort("id")


def _shuffled(rows: pl.DataFrame, draw: int, purpose: str) -> pl.DataFrame:
    order = pl.Series([uniform(draw, purpose, i) for i in rows["id"]], dtype=pl.Float64)
    return rows.with_columns(order=order).sort("order", "id")


def _equal(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("id", "tokens", weight=pl.lit(1.0)).select(*_DRAW).sort("id").cast(_DRAW)


def _matched(kind: Matched, arm: Arm, draws: Sequence[pl.DataFrame]) -> Arm:
    return Arm(name=f"{kind}:{arm.name}", kind=kind, draws=tuple(draws), matched=arm.name)
