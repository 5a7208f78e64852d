"""Stages: prepare, observe, score and select the rows that are still there, and no others.

A run is a list of stages over one pool. Each sees the pool without what cleaning dropped and
without what the stages before dropped, so a row that fell costs no pass, trains no warm-up and
takes no greedy pick.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import Given, Rule, Scorer, settings_of
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.records.schema import KEY, digest
from gristmill.pipeline.records.store import Entry, Step
from gristmill.pipeline.score.score import ScoreRun, method_id, ready
from gristmill.pipeline.score.together import asked_of_models
from gristmill.pipeline.selection import possible
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.selection import Budget
from gristmill.pipeline.selection.shortfall import SHORT
from gristmill.pipeline.selection.streaming import scores as units
from gristmill.pipeline.selection.streaming.ledger import made
from gristmill.pipeline.selection.streaming.staged import Staged, all_that_is_left

VERSION = 5


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a run does with the rows that are left.

    Attributes:
        name: what the ledger's `stage` says of the rows that it drops.
        scorers: by the name that the run gives them.
        by: the scorer that decides.
        rule: puts its scores in order.
        budget: cuts the order; None keeps all of it.
    """

    name: str
    scorers: Mapping[str, Scorer]
    by: str
    rule: Rule
    budget: Budget | None = None


def rows_left(
    dataset: Dataset, drops: Sequence[pl.DataFrame], ledger: pl.LazyFrame | None = None
) -> Dataset:
    """The pool without what cleaning and the stages before dropped."""
    if ledger is None:
        return dataset.without(drops)
    fell = ledger.filter(verdict="dropped").select(*KEY).collect()
    return dataset.without([*drops, fell])


def score_runs(
    context: RunContext, stage: Stage, rows: Dataset, reference: Dataset | None
) -> dict[str, ScoreRun]:
    """The scorers of a stage bound to its rows; what cannot work is refused."""
    greedy = any(scorer.greedy for scorer in stage.scorers.values())
    given = picks_of(stage, rows) if greedy else Given()
    runs = {
        name: ScoreRun(
            scorer=scorer.with_given(given) if scorer.greedy else scorer,
            dataset=rows,
            context=context,
            reference=reference if scorer.reference != "none" else None,
        )
        for name, scorer in stage.scorers.items()
    }
    for run in runs.values():
        run.check()
    return runs


def picks_of(stage: Stage, rows: Dataset) -> Given:
    """How much a greedy method is to pick, so that the stage's budget can be filled.

    Under the rule `top` that is the budget; another rule may pass over any pick, so that all rows
    are put in order.
    """
    if stage.budget is None or not isinstance(stage.rule, Top):
        return Given(picks=_candidates(rows))
    return _filling(stage.budget, rows)


def greedy_within(scorer: Scorer, budget: Budget, rows: Dataset) -> Scorer:
    """A greedy method that picks as many of the rows as a budget names.

    Raises:
        ValueError: the method does not pick rows one by one.
    """
    if not scorer.greedy:
        raise ValueError(
            f"{method_id(scorer)} scores every row whatever the budget: leave --budget out here, "
            "and give it to `gristmill select`."
        )
    return scorer.with_given(_filling(budget, rows))


def _filling(budget: Budget, rows: Dataset) -> Given:
    remaining = budget.amount(_candidates(rows))
    return Given(picks=remaining) if budget.tokens is None else Given(tokens=remaining)


def _candidates(rows: Dataset) -> int:
    return len(unique_ids(rows))


def prepared(runs: Mapping[str, ScoreRun]) -> dict[str, ScoreRun]:
    """The runs with their models made; found if they are there."""
    return {name: ready(run) for name, run in runs.items()}


def observe_together(runs: Sequence[ScoreRun]) -> int:
    """One pass per model and view for prepared runs on the same data; the records observed."""
    together = asked_of_models(runs)
    target = next((run.reference for run in runs if run.reference is not None), None)
    rows: dict[str, int] = {}
    for asked in together:  # a model is loaded once, for pool and reference
        pool = runs[0].dataset
        if asked.pool or asked.facts:
            rows[pool.content] = observe(asked.context, pool, asked.pool, facts=asked.facts).rows
        if target is not None and asked.reference:
            rows[target.content] = observe(asked.context, target, asked.reference).rows
    return sum(rows.values())


def select_stage(
    context: RunContext,
    stages: Sequence[Stage],
    dataset: Dataset,
    scores: Mapping[str, Entry],
    drops: Sequence[Entry],
    before: Entry | None = None,
) -> Entry:
    """Rule and budget of the last of `stages`: the ledger of every input row after it.

    Args:
        context: of the run.
        stages: this one, and those before it.
        dataset: the whole pool.
        scores: of the scorers of this stage, on the rows that it was given; and of earlier ones.
        drops: what cleaning dropped.
        before: the ledger after the stage before; None: this is the first.
    """
    *earlier, stage = stages
    step = Step(
        name="select",
        version=VERSION,
        settings={
            "stages": [s.name for s in stages],
            "by": stage.by,
            "rule": settings_of(stage.rule),
            "budget": vars(stage.budget) if stage.budget else None,
            "rows": units.UNIT_ROWS,
        },
        inputs={
            "pool": dataset.content,
            "drops": digest([d.content for d in drops]),
            "before": before.content if before else "",
            **{f"scores.{name}": entry.content for name, entry in scores.items()},
        },
    )

    staged = Staged(
        dataset=dataset,
        name=stage.name,
        scores=scores,
        by=stage.by,
        rule=stage.rule,
        budget=stage.budget,
        drops=drops,
        before=before,
        done=tuple(s.name for s in earlier),
    )
    for entry in (*scores.values(), *([before] if before else [])):
        entry.intact()
    possible.refuse(staged.nameless())
    return made(context.store, step, staged.ledger, stage.rule)


def short_of(ledger: Entry | None) -> list[str]:
    """What the stages up to a ledger could not keep of what was asked, a sentence each."""
    return [] if ledger is None else list(ledger.note.get(SHORT, ()))


def without_scores(context: RunContext, dataset: Dataset, drops: Sequence[Entry]) -> Entry:
    """The ledger of a run that has no method: what cleaning leaves is kept."""
    step = Step(
        name="select",
        version=VERSION,
        settings={"stages": [], "rows": units.UNIT_ROWS},
        inputs={"pool": dataset.content, "drops": digest([d.content for d in drops])},
    )

    staged = all_that_is_left(dataset, drops)
    return made(context.store, step, staged.ledger, staged.rule)


def verdicts(ledger: pl.DataFrame | pl.LazyFrame) -> list[dict[str, Any]]:
    """Rows and their tokens by verdict and reason, for a table; those that are kept come first."""
    groups = ledger.lazy().group_by("verdict", "reason")
    counts = groups.agg(rows=pl.len(), tokens=pl.col("tokens").sum()).collect(engine="streaming")
    order = [pl.col("verdict") != "kept", -pl.col("rows").cast(pl.Int64), "verdict", "reason"]
    return counts.sort(order).to_dicts()


def worth_of_weights(ledger: pl.DataFrame | pl.LazyFrame) -> tuple[float, float] | None:
    """Mean weight of the kept rows, and how many equal ones they are worth; None: all are equal."""
    weight = pl.col("weight")
    kept = ledger.lazy().filter(pl.col("verdict") == "kept").select("weight").drop_nulls()
    summed = kept.select(
        low=weight.min(),
        high=weight.max(),
        mean=weight.mean(),
        total=weight.sum(),
        squares=(weight**2).sum(),
    )
    (found,) = summed.collect(engine="streaming").to_dicts()
    if found["low"] == found["high"]:
        return None
    return found["mean"], found["total"] ** 2 / found["squares"] if found["squares"] else 0.0


def effective_size(weight_N: NDArray[np.float64]) -> float:
    """(sum w)^2 / sum w^2: how many equally weighted rows the weights are worth."""
    total, squares = float(weight_N.sum()), float((weight_N**2).sum())
    return total**2 / squares if squares else 0.0
