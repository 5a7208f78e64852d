"""Leaderboards in closed form, without a pool: an arm is worth what a test says it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from gristmill.pipeline.compare.arms import MATCHED, Arm
from gristmill.pipeline.compare.cells import Cell
from gristmill.pipeline.compare.comparison import Design, Leaderboard
from gristmill.pipeline.compare.measures import Evaluation
from gristmill.pipeline.compare.outcomes import outcomes
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.records.schema import uniform

SHARED = {"random": 0.0, "balanced_random": 0.01, "canary": 0.0, "full": 0.2, "zero_shot": -1.0}
ROWS = 1_000  # of the pool


@dataclass(frozen=True, kw_only=True)
class Untrained:
    """A recipe that nobody trains with."""

    base: str = "tiny-model"
    training: Training = field(default_factory=Training)
    facts: Mapping[str, str] = field(default_factory=dict)

    def train(self, context, rows, *, seed, rate):
        raise AssertionError

    def trained(self, context, rows, *, seed, rate):
        raise AssertionError

    def fingerprint(self, context, model):
        raise AssertionError


@dataclass(frozen=True, kw_only=True)
class Told:
    """A measure whose values a test makes up."""

    rows: pl.DataFrame
    unit: str
    facts: Mapping[str, str] = field(default_factory=dict)

    def items(self, context, model):
        raise AssertionError


def evaluation(
    part: str = "target", *, items: int = 10, unit: str = "log-likelihood, nats a token"
) -> Evaluation:
    """An evaluation of so many rows."""
    rows = pl.DataFrame({"id": [f"{i}" for i in range(items)]})
    return Evaluation(measure=Told(rows=rows, unit=unit), part=part)


def board(
    worth: Mapping[str, float],
    *,
    budgets: Sequence[str] = ("10%",),
    evaluations: Mapping[str, Evaluation] | None = None,
    times: Mapping[str, float] | None = None,
    shared: Mapping[str, float] = SHARED,
    matched: Mapping[str, float] | None = None,
    cost: Mapping[str, float] | None = None,
    draws: int = 4,
    noise: float = 0.01,
    renamed: str = "",
    trained: str = "",
) -> Leaderboard:
    """The leaderboard of methods that are worth so much.

    Args:
        worth: of every method.
        budgets: at which each is worth the same.
        evaluations: by name; one target by default.
        times: how often an evaluation counts an arm's worth; once by default.
        shared: what the controls are worth.
        matched: what a method's matched controls are worth; as random, by default.
        cost: of the methods.
        draws: of the random controls.
        noise: between draws, seeds and items.
        renamed: put before the ids of the items, which makes them others.
        trained: another word gives other models of the same worth.
    """
    asked = evaluations or {"maths": evaluation()}
    one = pl.DataFrame({"id": ["a"], "weight": [1.0], "tokens": [10]})
    kinds = {k: k for k in shared} | {f"{k}:{m}": k for m in worth for k in MATCHED}
    value = {**worth, **shared}
    value |= {f"{k}:{m}": (matched or {}).get(k, 0.0) for m in worth for k in MATCHED}
    several = {"random", "balanced_random", *MATCHED}
    arms = [Arm(name=m, kind="method", draws=(one,), cost=(cost or {}).get(m, 0.0)) for m in worth]
    for name, kind in kinds.items():
        count = draws if kind in several else 0 if kind == "zero_shot" else 1
        beside = name.partition(":")[2] or None
        arms.append(Arm(name=name, kind=kind, draws=(one,) * count, matched=beside))
    seeds = (0, 1, 2)

    def items(name: str, budget: str, arm: str, draw: int, seed: int) -> pl.DataFrame:
        own = value[arm] * (times or {}).get(name, 1.0)
        own += noise * (
            uniform(draw, f"{trained}{budget} {arm}", name)
            - 0.5
            + uniform(seed, f"{trained}{arm}", name)
            - 0.5
        )
        ids = asked[name].measure.rows["id"]
        level = [1.0 + noise * uniform(seed, f"{trained}{arm} {draw} {name}", i) for i in ids]
        return pl.DataFrame(
            {"id": [f"{renamed}{i}" for i in ids], "value": [own + v for v in level], "weight": 1.0}
        )

    cells = [
        Cell(
            budget=budget,
            arm=arm.name,
            draw=draw,
            seed=seed,
            rate=1e-3 if arm.draws else 0.0,
            model=f"{trained}{arm.name} {draw} {seed}",
            rows=ROWS if arm.kind == "full" else 100 * (place + 1) if arm.draws else 0,
            tokens=10 * ROWS if arm.kind == "full" else 1_000 * (place + 1) if arm.draws else 0,
            items={name: items(name, budget, arm.name, draw, seed) for name in asked},
        )
        for place, budget in enumerate(budgets)
        for arm in arms
        for draw in (range(len(arm.draws)) if arm.draws else (-1,))
        for seed in (seeds if arm.draws else seeds[:1])
    ]
    return Leaderboard(
        design=Design(recipe=Untrained(), evaluations=asked, seeds=seeds),
        cells=cells,
        outcomes={
            name: {
                budget: outcomes(
                    arms,
                    [c for c in cells if c.budget == budget],
                    name,
                    against="random",
                    level=0.95,
                )
                for budget in budgets
            }
            for name in asked
        },
    )
