"""The comparison: train every cell, measure it, and hold every arm against random."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from gristmill.pipeline.compare.arms import Arm
from gristmill.pipeline.compare.cells import Cell, Recipe
from gristmill.pipeline.compare.measures import Evaluation, Measure
from gristmill.pipeline.compare.outcomes import Outcome, outcomes
from gristmill.pipeline.evaluate.disjoint import demand_disjoint
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.records.dataset import Dataset

Arms = Mapping[str, Sequence[Arm]]  # by budget
Frame = pl.DataFrame  # for those who hand frames on and read none


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a comparison holds fixed.

    Attributes:
        recipe: how every cell is trained.
        evaluations: by name; the first is the target.
        validation: rows on which each arm's learning rate is chosen; None: the recipe's own rate.
        rates: learning rates to choose from.
        seeds: training seeds.
        against: the control that a method must beat.
        level: of intervals and of Holm's families.
    """

    recipe: Recipe
    evaluations: Mapping[str, Evaluation]
    validation: Measure | None = None
    rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    against: str = "random"
    level: float = 0.95

    @property
    def target(self) -> str:
        """The evaluation that decides."""
        return next(iter(self.evaluations))


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """What a comparison found.

    Attributes:
        design: what all cells share.
        cells: all models.
        outcomes: by evaluation, budget and arm.
    """

    design: Design
    cells: Sequence[Cell] = field(repr=False)
    outcomes: Mapping[str, Mapping[str, Mapping[str, Outcome]]]


def compare(context: RunContext, pool: Dataset, arms: Arms, design: Design) -> Leaderboard:
    """Train what is missing, measure, and hold every arm against the controls.

    Args:
        context: store, passes and progress of the run.
        pool: the records that arms choose from.
        arms: methods and controls by budget; names are distinct at each.
        design: what all cells share.

    Raises:
        ValueError: there is no control of the name, it has one draw, or rows overlap.
    """
    check(pool, arms, design)
    records = _records(pool)
    cells = list(_cells(context, records, arms, design))
    return Leaderboard(
        design=design,
        cells=cells,
        outcomes={
            name: {
                budget: outcomes(
                    made,
                    [c for c in cells if c.budget == budget],
                    name,
                    against=design.against,
                    level=design.level,
                )
                for budget, made in arms.items()
            }
            for name in design.evaluations
        },
    )


def check(pool: Dataset, arms: Arms, design: Design) -> None:
    """Refuse a comparison that would prove nothing, before anything is trained."""
    for budget, made in arms.items():
        names = [a.name for a in made]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(
                f"two arms are called {twice[0]!r} at {budget}: give each its own name."
            )
        control = next((a for a in made if a.name == design.against), None)
        if control is None or len(control.draws) < 2:
            found = "missing" if control is None else f"there with {len(control.draws)} draw"
            raise ValueError(
                f"a comparison needs 2 draws or more of {design.against!r}, better 5; it is "
                f"{found}."
            )
    if len(set(design.seeds)) < 3:
        raise ValueError("a comparison needs 3 training seeds or more: fewer say little of noise.")
    drawn = {i for made in arms.values() for a in made for d in a.draws for i in d["id"]}
    refuse_overlap(design, _records(pool).filter(pl.col("id").is_in(sorted(drawn))))


def refuse_overlap(design: Design, trained: Dataset | pl.DataFrame) -> None:
    """Refuse held-out rows that repeat rows that are trained on, or one another's.

    The rows that methods were shown must not be test rows either; that a method finds their like in
    the pool is its work.

    Args:
        design: whose evaluations and validation rows are held out.
        trained: what cells are trained on, or may be.

    Raises:
        ValueError: which set, how many rows, the first of them, and what to do.
    """
    every = {name: one.measure.rows for name, one in design.evaluations.items()}
    if design.validation is not None:
        every["validation"] = design.validation.rows
    asked = {name: rows for name, rows in every.items() if rows is not None}
    query = {name for name, one in design.evaluations.items() if one.part == "query"}
    demand_disjoint(asked)
    demand_disjoint({name: rows for name, rows in asked.items() if name not in query}, trained)


def missing(context: RunContext, pool: Dataset, arms: Arms, design: Design) -> list[pl.DataFrame]:
    """The rows of every cell that is still to be trained; of those for the learning rate too."""
    records = _records(pool)
    found, asked = [], set()
    for made in arms.values():
        for arm in made:
            for draw, chosen in enumerate(arm.draws):
                rows = _rows(records, chosen)
                tried = design.rates if draw == 0 and _tries(arm, design) else ()
                cells = {(design.seeds[0], rate) for rate in tried}
                rate = design.rates[0] if design.rates else design.recipe.training.learning_rate
                cells |= {(seed, rate) for seed in design.seeds}  # which rate is not known yet
                for seed, rate in sorted(cells):
                    key = (seed, rate, tuple(rows["id"]), tuple(rows["weight"]))
                    if key in asked:
                        continue
                    asked.add(key)
                    if not design.recipe.trained(context, rows, seed=seed, rate=rate):
                        found.append(rows)
    return found


def _records(pool: Dataset) -> pl.DataFrame:
    return pool.frame().unique("id", keep="first", maintain_order=True).sort("id")


def _cells(
    context: RunContext, records: pl.DataFrame, arms: Arms, design: Design
) -> Iterator[Cell]:
    every = [(budget, arm) for budget, made in arms.items() for arm in made]
    total = sum(max(1, len(a.draws)) * (len(design.seeds) if a.draws else 1) for _, a in every)
    done = 0
    for budget, arm in every:
        rate = _rate(context, records, arm, design)
        for draw, chosen in enumerate(arm.draws) if arm.draws else ((-1, None),):
            for seed in design.seeds if chosen is not None else design.seeds[:1]:
                context.advance("compare, models", done, total)
                rows = _rows(records, chosen) if chosen is not None else records.clear()
                model = design.recipe.base
                if chosen is not None:
                    model = design.recipe.train(context, rows, seed=seed, rate=rate)
                yield Cell(
                    budget=budget,
                    arm=arm.name,
                    draw=draw,
                    seed=seed,
                    rate=rate if chosen is not None else 0.0,
                    model=design.recipe.fingerprint(context, model),
                    rows=rows.height,
                    tokens=int(chosen["tokens"].sum()) if chosen is not None else 0,
                    items={
                        name: one.measure.items(context, model)
                        for name, one in design.evaluations.items()
                    },
                )
                done += 1
    context.advance("compare, models", total, total)


def _rate(context: RunContext, records: pl.DataFrame, arm: Arm, design: Design) -> float:
    """The learning rate under which the arm's first draw does best on the validation rows."""
    if design.validation is None or not _tries(arm, design):
        return design.rates[0] if design.rates else design.recipe.training.learning_rate
    rows, seed = _rows(records, arm.draws[0]), design.seeds[0]
    found = {}
    for rate in design.rates:
        model = design.recipe.train(context, rows, seed=seed, rate=rate)
        items = design.validation.items(context, model)
        found[rate] = float(np.average(items["value"].to_numpy(), weights=items["weight"]))
    return max(design.rates, key=lambda rate: (found[rate], -rate))


def _tries(arm: Arm, design: Design) -> bool:
    return design.validation is not None and bool(arm.draws) and len(design.rates) > 1


def _rows(records: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    drawn = chosen.select("id", "weight")
    return records.join(drawn, on="id", how="inner", validate="1:1").sort("id")
