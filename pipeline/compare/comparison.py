"""The comparison: train every cell, measure it, and hold every arm against random."""

# D = draws, S = seeds, N = items

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.compare.arms import Arm
from gristmill.pipeline.compare.cells import Cell, Recipe
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.numerics.effects import Effect, effect, holm
from gristmill.pipeline.records.dataset import Dataset

CELLS = ("arm", "draw", "seed", "rate", "rows", "test", "value", "model")
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a comparison holds fixed.

    Attributes:
        recipe: how every cell is trained and measured.
        tests: test rows by name; the first is the target, the others show what it costs elsewhere.
        validation: rows on which each arm's learning rate is chosen; None: the recipe's own rate.
        rates: learning rates to choose from.
        seeds: training seeds.
        against: the control that a method must beat.
        level: of intervals and of Holm's family.
    """

    recipe: Recipe
    tests: Mapping[str, pl.DataFrame]
    validation: pl.DataFrame | None = None
    rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    against: str = "random"
    level: float = 0.95


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An arm's cells on one test set.

    Attributes:
        arm: the arm.
        value_DSN: of every item under every model; larger is better.
        effect: against the control; None for the control itself.
        adjusted: Holm's p over the methods; None for controls.
    """

    arm: Arm
    rate: float
    rows: float
    value_DSN: Floats
    effect: Effect | None = None
    adjusted: float | None = None


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """What a comparison found.

    Attributes:
        cells: a row per cell and test set: `CELLS`.
        outcomes: by test set and arm.
        items: a row per cell, test set and item: arm, draw, seed, test, id, value, weight.
    """

    cells: pl.DataFrame
    outcomes: Mapping[str, Mapping[str, Outcome]]
    items: pl.DataFrame = field(repr=False)


def compare(context: RunContext, pool: Dataset, arms: Sequence[Arm], design: Design) -> Leaderboard:
    """Train what is missing, measure, and hold every arm against the control.

    Args:
        context: store, passes and progress of the run.
        pool: the records that arms choose from.
        arms: methods and controls at one budget; names are distinct.
        design: what all cells share.

    Raises:
        ValueError: there is no control of the name, it has one draw, or rows overlap.
    """
    _check(pool, arms, design)
    records = pool.frame().unique("id", keep="first", maintain_order=True).sort("id")
    cells = list(_cells(context, records, arms, design))
    outcomes = {test: _outcomes(arms, cells, design, test) for test in design.tests}
    return Leaderboard(cells=_table(cells), outcomes=outcomes, items=_items(cells))


def _check(pool: Dataset, arms: Sequence[Arm], design: Design) -> None:
    names = [a.name for a in arms]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"two arms are called {twice[0]!r}: give each its own name.")
    control = next((a for a in arms if a.name == design.against), None)
    if control is None or len(control.draws) < 2:
        found = "missing" if control is None else f"there with {len(control.draws)} draw"
        raise ValueError(
            f"a comparison needs 2 draws or more of {design.against!r}, better 5; it is {found}."
        )
    if len(design.seeds) < 3:
        raise ValueError("a comparison needs 3 training seeds or more: fewer say little of noise.")
    trained = set(pl.concat([d for a in arms for d in a.draws])["id"])
    held = {**design.tests}
    if design.validation is not None:
        held["validation"] = design.validation
    seen: dict[str, str] = {}
    for name, frame in held.items():
        both = trained.intersection(frame["id"])
        if both:
            raise ValueError(
                f"{len(both):,} rows of {name!r} are among the rows that are trained on, first id "
                f"{min(both)}: take them out of the pool (cleaning does, given as a benchmark)."
            )
        for ident in sorted(set(frame["id"])):
            if seen.setdefault(ident, name) != name:
                raise ValueError(f"row {ident} is in {seen[ident]!r} and in {name!r}: keep one.")


def _cells(
    context: RunContext, records: pl.DataFrame, arms: Sequence[Arm], design: Design
) -> Iterator[Cell]:
    total = sum(max(1, len(a.draws)) * (len(design.seeds) if a.draws else 1) for a in arms)
    done = 0
    for arm in arms:
        rate = _rate(context, records, arm, design)
        for draw, chosen in enumerate(arm.draws) if arm.draws else ((-1, None),):
            for seed in design.seeds if chosen is not None else design.seeds[:1]:
                context.advance("compare", done, total)
                rows = _rows(records, chosen) if chosen is not None else records.clear()
                model = design.recipe.base
                if chosen is not None:
                    model = design.recipe.train(context, rows, seed=seed, rate=rate)
                yield Cell(
                    arm=arm.name,
                    draw=draw,
                    seed=seed,
                    rate=rate if chosen is not None else 0.0,
                    model=model,
                    rows=rows.height,
                    items={
                        name: design.recipe.measure(context, model, test)
                        for name, test in design.tests.items()
                    },
                )
                done += 1
    context.advance("compare", total, total)


def _rate(context: RunContext, records: pl.DataFrame, arm: Arm, design: Design) -> float:
    """The learning rate under which the arm's first draw does best on the validation rows."""
    own = design.recipe.training().learning_rate
    if design.validation is None or not arm.draws or len(design.rates) < 2:
        return design.rates[0] if design.rates else own
    rows, seed = _rows(records, arm.draws[0]), design.seeds[0]
    found = {}
    for rate in design.rates:
        model = design.recipe.train(context, rows, seed=seed, rate=rate)
        items = design.recipe.measure(context, model, design.validation)
        found[rate] = _mean(items)
    return max(design.rates, key=lambda rate: (found[rate], -rate))


def _rows(records: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    return records.join(chosen, on="id", how="inner", validate="1:1").sort("id")


def _outcomes(
    arms: Sequence[Arm], cells: Sequence[Cell], design: Design, test: str
) -> dict[str, Outcome]:
    """Every arm on one test set, on the items that every model could be asked."""
    common = set.intersection(*({*c.items[test]["id"]} for c in cells))
    if len(common) < 2:
        raise ValueError(f"test set {test!r} has {len(common)} rows that every model can be asked.")
    ids = sorted(common)
    weight_N = _column(cells[0].items[test], ids, "weight")
    found: dict[str, Outcome] = {}
    for arm in arms:
        own = [c for c in cells if c.arm == arm.name]
        value = [_column(c.items[test], ids, "value") for c in own]
        seeds = len(design.seeds)
        value_DSN = np.stack(value).reshape(-1, seeds if arm.draws else 1, len(ids))
        if not arm.draws:  # one model, the same under every seed
            value_DSN = np.repeat(value_DSN, seeds, axis=1)
        rows = math.fsum(c.rows for c in own) / len(own)
        found[arm.name] = Outcome(arm=arm, rate=own[0].rate, rows=rows, value_DSN=value_DSN)
    control = found[design.against].value_DSN
    effects = {
        name: effect(o.value_DSN, control, ids, weight_N=weight_N, level=design.level)
        for name, o in found.items()
        if name != design.against
    }
    adjusted = holm({n: e.p for n, e in effects.items() if not found[n].arm.control})
    return {
        name: replace(o, effect=effects.get(name), adjusted=adjusted.get(name))
        for name, o in found.items()
    }


def _column(items: pl.DataFrame, ids: Sequence[str], name: str) -> Floats:
    order = pl.DataFrame({"id": list(ids)})
    return order.join(items, on="id", how="left", maintain_order="left")[name].to_numpy()


def _mean(items: pl.DataFrame) -> float:
    return float(np.average(items["value"].to_numpy(), weights=items["weight"].to_numpy()))


def _table(cells: Sequence[Cell]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "arm": c.arm, "draw": c.draw, "seed": c.seed, "rate": c.rate, "rows": c.rows,
                "test": test, "value": _mean(items), "model": c.model,
            }
            for c in cells
            for test, items in c.items.items()
        ],
        schema_overrides={"draw": pl.Int64, "seed": pl.Int64},
    ).select(CELLS)  # fmt: skip


def _items(cells: Sequence[Cell]) -> pl.DataFrame:
    return pl.concat(
        [
            items.select(
                arm=pl.lit(c.arm), draw=pl.lit(c.draw), seed=pl.lit(c.seed), test=pl.lit(test),
                id="id", value="value", weight="weight",
            )
            for c in cells
            for test, items in c.items.items()
        ]
    )  # fmt: skip
