"""Cascades: cheap scores narrow the pool, expensive ones decide; a ledger says where rows fell."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.ranges import ORDER, Range, Ranges
from gristmill.pipeline.records.schema import KEY, SCORES, check
from gristmill.pipeline.selection import possible
from gristmill.pipeline.selection.selection import Budget, ledger_of, select
from gristmill.pipeline.selection.verdicts import NOTES, QUARANTINED


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a cascade, scored.

    Attributes:
        name: what the ledger's `stage` says of the rows that it drops.
        scores: a table of `schema.SCORES` for (at least) the rows that are still there.
        rule: puts them in order.
        budget: cuts the order; None keeps all of it.
    """

    name: str
    scores: pl.DataFrame
    rule: Rule
    budget: Budget | None = None


def opened(one: Range) -> pl.DataFrame:
    """Every input row of a range, undecided: `KEY`, `kind`, no `tokens`, why it was quarantined."""
    read = one.records(KEY).with_columns(reason=pl.lit(None, pl.String))
    unread = one.quarantine().select(*KEY, reason=QUARANTINED + " " + pl.col("reason"))
    facts = {"kind": pl.lit(one.dataset.kind), "tokens": pl.lit(None, pl.Int64)}
    return pl.concat([read, unread]).with_columns(**facts).sort(*ORDER)


def cascade(
    stages: Sequence[Stage],
    *,
    rows: pl.DataFrame | None = None,
    drops: Sequence[pl.DataFrame] = (),
    extra: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Select in steps, each among the rows that the step before kept; one ledger for all.

    `score`, `rank` and `order` are the last stage's; earlier ones stand beside them as
    `score_<stage>`, `score_<stage>_<part>` and `rank_<stage>`. Weights multiply.

    Args:
        stages: in order.
        rows: every input row, undecided (see `opened`); None: those of the first stage's scores.
        drops: what cleaning dropped.
        extra: further columns that rules need.
    """
    if not stages or len({s.name for s in stages}) < len(stages):
        names = [s.name for s in stages]
        raise ValueError(f"a cascade needs stages of distinct names; found {names}.")
    ledger: pl.DataFrame | None = None
    for number, stage in enumerate(stages):
        done = [s.name for s in stages[:number]]
        ledger = advance(ledger, stage, done=done, rows=rows, drops=drops, extra=extra)
    assert ledger is not None, "there is a stage"
    return ledger


def decided(
    scores: pl.DataFrame,
    rule: Rule,
    budget: Budget | None,
    dataset: Dataset | None = None,
    drops: Sequence[pl.DataFrame] = (),
) -> pl.DataFrame:
    """The ledger of one selection from a table of scores.

    Args:
        scores: a table of `schema.SCORES`.
        rule: puts its rows in order.
        budget: cuts the order; None keeps all of it.
        dataset: the rows that were scored, whose columns the rule may read; the ledger then speaks
            of all of them. None: the ledger has the rows of `scores`.
        drops: what cleaning dropped of the dataset.
    """
    stage = Stage(name="select", scores=scores, rule=rule, budget=budget)
    if dataset is None:
        possible.refuse(possible.nameless(rule, scores))
        return cascade([stage], drops=drops)
    extra = possible.record_columns(dataset, rule)
    possible.refuse(possible.nameless(rule, extra))
    rows = pl.concat(map(opened, Ranges(dataset=dataset)))
    return cascade([stage], rows=rows, drops=drops, extra=extra)


def advance(
    before: pl.DataFrame | None,
    stage: Stage,
    *,
    done: Sequence[str] = (),
    rows: pl.DataFrame | None = None,
    drops: Sequence[pl.DataFrame] = (),
    extra: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """One stage of a cascade: the ledger after it.

    Args:
        before: the ledger of the stage before; None: this is the first.
        stage: what decides now.
        done: names of the stages before, in order.
        rows: of the first stage: every input row (see `opened`); None: those of its scores.
        drops: of the first stage: what cleaning dropped.
        extra: further columns that the rule needs.
    """
    if before is None:
        scores = stage.scores if rows is None else _scored(rows, stage, drops)
        return select(
            scores, rule=stage.rule, budget=stage.budget, drops=drops, extra=extra, stage=stage.name
        )
    fallen = before.filter(verdict="dropped").select(*KEY, *NOTES)
    ledger = select(
        _scored(rows_of(before), stage, [fallen]),
        rule=stage.rule,
        budget=stage.budget,
        drops=[fallen],
        extra=extra,
        stage=stage.name,
    )
    return followed(before, ledger, done)


def followed(before: pl.DataFrame, ledger: pl.DataFrame, done: Sequence[str]) -> pl.DataFrame:
    """What a stage decided, beside what the stages before it said of the same rows.

    Args:
        before: the ledger of the stage before.
        ledger: what the stage decided, of the same rows in the same order.
        done: names of the stages before, in order.
    """
    ledger = ledger.with_columns(
        cluster=pl.coalesce("cluster", before["cluster"]),
        weight=pl.col("weight") * before["weight"],
    )
    own = [c for c in before.columns if c.startswith(("score", "rank")) and not _of(c, done[:-1])]
    carried = [before[c].alias(re.sub("^(score|rank)", rf"\g<0>_{done[-1]}", c)) for c in own]
    earlier = [before[c] for c in before.columns if _of(c, done[:-1])]
    return ledger_of(ledger.hstack([*earlier, *carried]))


def _of(column: str, stages: Sequence[str]) -> bool:
    """Whether a column of the ledger is an earlier stage's."""
    return any(
        column in (f"score_{s}", f"rank_{s}") or column.startswith(f"score_{s}_") for s in stages
    )


def rows_of(ledger: pl.DataFrame) -> pl.DataFrame:
    """The rows of a ledger as `opened` gives them; what was counted of them stays."""
    quarantined = pl.col("verdict") == "quarantined"
    reason = pl.when(quarantined).then(pl.col("reason"))
    return ledger.select(*KEY, "kind", "tokens", reason=reason)


def scored(rows: pl.DataFrame, scores: pl.DataFrame, stage: str) -> pl.DataFrame:
    """The scores of a stage for every input row; those that are gone have none."""
    told = check(scores, SCORES, f"scores of stage {stage!r}").drop("kind")
    told = told.rename({"reason": "why", "tokens": "counted"})
    found = rows.join(told, on=KEY, how="left", validate="1:1", maintain_order="left")
    return found.with_columns(
        reason=pl.coalesce("reason", "why"), tokens=pl.coalesce("tokens", "counted")
    ).drop("why", "counted")


def demand_scores(lost: pl.DataFrame, stage: str) -> None:
    """Refuse rows that a stage was to score and that its scores say nothing of."""
    if lost.height:
        raise ValueError(
            f"scores of stage {stage!r} lack {lost.height:,} rows that are still there, "
            f"first id {lost['id'][0]}: score them."
        )


def _scored(rows: pl.DataFrame, stage: Stage, drops: Sequence[pl.DataFrame]) -> pl.DataFrame:
    scores = scored(rows, stage.scores, stage.name)
    lost = scores.filter(pl.col("score").is_null() & pl.col("reason").is_null())
    for frame in drops:
        lost = lost.join(frame.select(*KEY), on=KEY, how="anti")
    demand_scores(lost, stage.name)
    return scores
