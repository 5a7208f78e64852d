"""Contest: the arms of a comparison, as the road makes them.

Methods take their rows from the pool that cleaning left, by their own rules, and the controls from
the same rows. All methods' passes are made together, as those of one stage are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from gristmill.pipeline.compare import arms
from gristmill.pipeline.compare.arms import Arm, Control
from gristmill.pipeline.contracts import Rule, Scorer
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.records.ranges import Ranges
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.store import Entry
from gristmill.pipeline.road import stages
from gristmill.pipeline.road.stages import Stage
from gristmill.pipeline.score.score import ScoreRun, check_some_scored, score
from gristmill.pipeline.selection import cascade
from gristmill.pipeline.selection.selection import Budget


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What methods are held against.

    Attributes:
        names: which controls.
        draws: of each that is drawn.
        trained_row: what training on a row costs, in forward passes of a row.
        costs: of choosing by each method, in the same unit.
    """

    names: Sequence[Control]
    draws: int
    trained_row: float
    costs: Mapping[str, float] = field(default_factory=dict)

    def of(self, table: pl.DataFrame, budget: Budget, methods: Sequence[Arm]) -> list[Arm]:
        """The methods, and every control of theirs at one budget."""
        shared = arms.controls(table, budget, self.names, self.draws)
        matched = [
            arm
            for method in methods
            for arm in arms.beside(
                table, method, self.names, self.draws, trained_row=self.trained_row
            )
        ]
        return [*methods, *shared, *matched]


def rows_of(pool: Dataset, model: ModelFiles, training: Training) -> pl.DataFrame:
    """Every row of a pool with its tokens as a recipe trains on them: what controls draw from.

    Rows that could not be trained on have a reason, and no control draws them.

    Args:
        pool: the rows that cleaning left.
        model: which is trained.
        training: how.
    """
    chat = load_tokenizer(model, limit=training.max_length, overlong=training.overlong)
    shape: data.Shape = "pair" if pool.kind == "pair" else "sequence"
    sides = ("chosen_ids", "rejected_ids") if shape == "pair" else ("input_ids",)
    found = []
    for block in pool.blocks():
        shown = data.token_rows(block, shape, chat)
        total = sum((pl.col(side).list.len().fill_null(0) for side in sides), pl.lit(0))
        told = shown.select(counted=total.cast(pl.Int64), unfit="reason")
        found.append(block.select(KEY).hstack(told))
    every = pl.concat(map(cascade.opened, Ranges(dataset=pool)))
    rows = every.join(pl.concat(found), on=KEY, how="left", validate="1:1")
    return rows.with_columns(tokens=pl.col("counted"), reason=pl.coalesce("reason", "unfit")).drop(
        "counted", "unfit"
    )


def rows_by_stage(ledger: Entry, names: Sequence[str], pool: Dataset) -> list[int]:
    """How many rows each stage of a run was given.

    Args:
        ledger: after the last stage.
        names: of the stages, in order.
        pool: the rows that cleaning left.
    """
    frame = ledger.frame(["verdict", "stage"])
    left = [len(unique_ids(pool))]
    for name in names[:-1]:
        left.append(left[-1] - frame.filter(verdict="dropped", stage=name).height)
    return left


def of_methods(
    context: RunContext,
    scorers: Mapping[str, Scorer],
    rules: Mapping[str, Rule],
    pool: Dataset,
    reference: Dataset | None,
    budgets: Sequence[str],
    rows: pl.DataFrame,
    controls: Controls,
) -> dict[str, list[Arm]]:
    """Every method at every budget, with its controls.

    Args:
        context: of the run.
        scorers: by name.
        rules: of each scorer.
        pool: the rows that cleaning left.
        reference: the target rows, if the run has any.
        budgets: as texts.
        rows: of the pool, see `rows_of`.
        controls: what methods are held against.
    """
    asked = {
        (name, text): Stage(
            name="select", scorers={name: s}, by=name, rule=rules[name], budget=Budget.parse(text)
        )
        for text in budgets
        for name, s in scorers.items()
    }
    runs: dict[tuple[str, str], ScoreRun] = {}
    for key, stage in asked.items():
        runs[key] = stages.score_runs(context, stage, pool, reference)[key[0]]
    ready = {key: stages.prepared({key[0]: run})[key[0]] for key, run in runs.items()}
    stages.observe_together(list(ready.values()))
    found: dict[str, list[Arm]] = {}
    for text in budgets:
        methods = []
        for number, name in enumerate(scorers):
            context.advance(f"choose {text}, methods", number, len(scorers))
            run = ready[name, text]
            scores = score(run)
            check_some_scored(run, scores)
            ledger = stages.select_stage(context, [asked[name, text]], pool, {name: scores}, [])
            methods.append(_method(name, text, ledger, rows, controls))
        found[text] = controls.of(rows, Budget.parse(text), methods)
    return found


def of_selection(
    name: str, budget: str, ledger: Entry, rows: pl.DataFrame, controls: Controls
) -> dict[str, list[Arm]]:
    """The selection of a run, whatever its stages, with controls of as many rows (or tokens).

    Args:
        name: of the arm.
        budget: in words; one of tokens is that of the controls too.
        ledger: after the last stage.
        rows: that cleaning left, see `rows_of`.
        controls: what it is held against.
    """
    method = _method(name, budget, ledger, rows, controls)
    tokens = Budget.parse(budget) if budget.endswith("tok") else None
    return {budget: controls.of(rows, tokens or Budget(rows=method.draws[0].height), [method])}


def _method(name: str, budget: str, ledger: Entry, rows: pl.DataFrame, controls: Controls) -> Arm:
    counted = rows.select("id", "tokens").unique("id", keep="first")
    kept = ledger.frame().drop("tokens").join(counted, on="id", how="left", validate="m:1")
    method = arms.method(name, kept, cost=controls.costs.get(name, 0.0))
    if method.draws[0].is_empty():
        raise ValueError(
            f"{name} keeps no row at {budget}: give a larger budget, or a rule that keeps more."
        )
    return method
