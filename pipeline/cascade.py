"""Cascades: cheap scores thin the pool, dear ones decide; one ledger says where a row fell."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.schema import KEY, SCORES, check
from gristmill.pipeline.selection import NOTES, Budget, ledger_of, select


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a cascade; `name` is what the ledger's `stage` says of the rows it drops."""

    name: str
    scores: pl.DataFrame
    rule: Rule
    budget: Budget | None = None


def cascade(
    stages: Sequence[Stage],
    *,
    drops: Sequence[pl.DataFrame] = (),
    extra: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Select in steps, each among the rows that the step before kept; one ledger for all.

    `score`, `rank` and `order` are the last stage's; earlier ones stand beside them as
    `score_<stage>`, `score_<stage>_<part>` and `rank_<stage>`. Weights multiply. Later tables of
    scores need only the rows that are still there.
    """
    if not stages or len({s.name for s in stages}) < len(stages):
        names = [s.name for s in stages]
        raise ValueError(f"a cascade needs stages of distinct names; found {names}.")
    first, *later = stages
    ledger = select(
        first.scores,
        rule=first.rule,
        budget=first.budget,
        drops=drops,
        extra=extra,
        stage=first.name,
    )
    earlier: list[pl.Series] = []
    for done, step in zip(stages, later, strict=False):
        earlier += [
            ledger[c].alias(re.sub("^(score|rank)", rf"\g<0>_{done.name}", c))
            for c in ledger.columns
            if c.startswith(("score", "rank"))
        ]
        before = ledger
        ledger = select(
            _continued(before, step),
            rule=step.rule,
            budget=step.budget,
            drops=[before.filter(verdict="dropped").select(*KEY, *NOTES)],
            extra=extra,
            stage=step.name,
        ).with_columns(
            cluster=pl.coalesce("cluster", before["cluster"]),
            weight=pl.col("weight") * before["weight"],
        )
    return ledger_of(ledger.hstack(earlier))


def _continued(before: pl.DataFrame, step: Stage) -> pl.DataFrame:
    """The scores of a later stage for all rows of the cascade."""
    scores = before.select(*KEY, "kind", "tokens", "verdict", ingest="reason").join(
        check(step.scores, SCORES, f"scores of stage {step.name!r}").drop("kind", "tokens"),
        on=KEY,
        how="left",
        validate="1:1",
        maintain_order="left",
    )
    lost = scores.filter(verdict="kept").filter(
        pl.col("score").is_null(), pl.col("reason").is_null()
    )
    if lost.height:
        raise ValueError(
            f"scores of stage {step.name!r} lack {lost.height:,} rows that the stage before kept, "
            f"first id {lost['id'][0]}: score them."
        )
    quarantined = pl.col("verdict") == "quarantined"
    reason = pl.when(quarantined).then("ingest").otherwise("reason")
    return scores.with_columns(reason=reason).drop("verdict", "ingest")
