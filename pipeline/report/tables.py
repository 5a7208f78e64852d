"""Every figure of card and report, computed from the ledger: pure, small tables.

A ledger here is any frame with the columns of `schema.LEDGER`; score columns beyond `score` count
as scorers if they are named `score_<scorer>`.
"""

# N = pool rows, K = kept rows, C = scorers

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.numerics.ranks import spearman

KEPT = pl.col("verdict") == "kept"
# What the tables of that name read of a ledger; patterns among them.
REASONS = ("verdict", "stage", "reason")
RANKED = ("id", "source", "row", "verdict", r"score(_.*)?")
LENGTHS = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def scorers(selection: Mapping[str, Any]) -> list[str]:
    """Names of the scorers of a selection: given as names, or as mappings with an id."""
    given = selection.get("scorers", ())
    given = [given] if isinstance(given, (str, Mapping)) else given
    return [str(s.get("id", s.get("name"))) if isinstance(s, Mapping) else str(s) for s in given]


def named_scores(ledger: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The ledger with a lone `score` under its scorer's name.

    With one scorer `score` becomes `score_<scorer>`; with several it stays, as their blend.
    """
    if len(names) == 1 and f"score_{names[0]}" not in ledger.columns:
        return ledger.with_columns(pl.col("score").alias(f"score_{names[0]}"))
    return ledger


def score_columns(ledger: pl.DataFrame) -> list[str]:
    """Columns that hold a score and say something, `score` first unless another repeats it."""
    columns = [c for c in numeric_scores(ledger) if ledger[c].count() > 0]
    repeated = any(ledger["score"].equals(ledger[c]) for c in columns if c != "score")
    return told_scores(columns, repeated=repeated)


def numeric_scores(ledger: pl.DataFrame) -> list[str]:
    """Columns that hold the numbers of a score."""
    columns = [c for c in ledger.columns if c == "score" or c.startswith("score_")]
    return [c for c in columns if ledger[c].dtype.is_numeric()]


def columns_named(names: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Those of the columns that are asked for, by name or by pattern."""
    return [n for n in names if any(n == c or re.fullmatch(c, n) for c in asked)]


def told_scores(columns: Collection[str], *, repeated: bool) -> list[str]:
    """Columns of scores in the order in which they are told of; `score` only if none repeats it."""
    named = sorted(c for c in columns if c != "score")
    return named if repeated or "score" not in columns else ["score", *named]


def drops(ledger: pl.DataFrame) -> pl.DataFrame:
    """Rows by verdict, stage and reason, most first."""
    return (
        ledger.group_by("verdict", "stage", "reason")
        .agg(rows=pl.len())
        .sort("rows", "verdict", "stage", "reason", descending=[True, False, False, False])
    )


def mixture(
    ledger: pl.DataFrame, by: str = "source", target: Mapping[str, float] | None = None
) -> pl.DataFrame:
    """Rows, tokens and shares before and after by a column; `wanted` is the target share."""
    wanted = pl.DataFrame(
        {by: list(target or {}), "wanted": list((target or {}).values())},
        schema={by: pl.String, "wanted": pl.Float64},
    )
    table = (
        ledger.group_by(by)
        .agg(
            before=pl.len(),
            after=KEPT.sum(),
            tokens_before=pl.col("tokens").sum(),
            tokens_after=pl.col("tokens").filter(KEPT).sum(),
            score=pl.col("score").median(),
        )
        .join(wanted, on=by, how="left")
        .with_columns(
            share_before=pl.col("before") / pl.col("before").sum(),
            share_after=pl.col("after") / pl.max_horizontal(pl.col("after").sum(), 1),
        )
    )
    return table.sort("before", by, descending=[True, False])


def per_source(ledger: pl.DataFrame) -> pl.DataFrame:
    """Rows, tokens and median score by source, revision and licence of a published ledger."""
    return (
        ledger.group_by("source", revision="source_revision", license="license")
        .agg(
            rows_in=pl.len(),
            rows_out=KEPT.sum(),
            tokens_in=pl.col("tokens").sum(),
            tokens_out=pl.col("tokens").filter(KEPT).sum(),
            score=pl.col("score").median(),
        )
        .sort("source", "revision", "license")
    )


def agreement(ledger: pl.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Scorers, their Spearman correlations, and the overlap of their top K, K = rows kept.

    Both are over the rows that both scorers could score. Overlap of two random sets is K / N.
    """
    columns = score_columns(ledger)
    size = max(1, ledger.filter(KEPT).height)
    ledger = ledger.with_row_index("at")
    spearman_CC, overlap_CC = np.eye(len(columns)), np.eye(len(columns))
    for i, a in enumerate(columns):
        for j, b in enumerate(columns[:i]):
            both = ledger.filter(pl.col(a).is_not_null() & pl.col(b).is_not_null())
            spearman_CC[i, j] = spearman_CC[j, i] = _spearman(both, a, b)
            k = min(size, both.height)
            shared = _top(both, a, k).is_in(_top(both, b, k).implode()).sum()
            overlap_CC[i, j] = overlap_CC[j, i] = int(shared) / max(1, k)
    return columns, spearman_CC, overlap_CC


def overlaps(ledger: pl.DataFrame) -> pl.DataFrame:
    """How much of the kept set each scorer's own top K holds, and what a random set would."""
    ledger = ledger.with_row_index("at")
    kept = ledger.filter(KEPT)["at"]
    share = kept.len() / max(1, ledger.height)
    lines = [{"against": "a random set of equal size (expected)", "overlap": share}]
    for column in score_columns(ledger):
        scored = ledger.filter(pl.col(column).is_not_null())
        shared = int(_top(scored, column, kept.len()).is_in(kept.implode()).sum())
        lines.append({"against": f"top of {column}", "overlap": shared / max(1, kept.len())})
    return pl.DataFrame(lines, schema={"against": pl.String, "overlap": pl.Float64})


def _spearman(frame: pl.DataFrame, a: str, b: str) -> float:
    rho = spearman(frame[a].to_numpy(), frame[b].to_numpy())
    return float("nan") if rho is None else rho


def _top(frame: pl.DataFrame, column: str, k: int) -> pl.Series:
    """Numbers (`at`) of the k best rows."""
    keys = [column, "id", "source", "row"]
    return frame.sort(keys, descending=[True, False, False, False]).head(k)["at"]


def lengths(ledger: pl.DataFrame, unit: str = "tokens") -> pl.DataFrame:
    """Quantiles of the length of all rows and of the kept ones."""
    kept = ledger.filter(KEPT)
    return pl.DataFrame(
        {
            "quantile": [f"p{q * 100:g}" if q < 1 else "longest" for q in LENGTHS],
            "before": [ledger[unit].quantile(q, "nearest") for q in LENGTHS],
            "after": [kept[unit].quantile(q, "nearest") for q in LENGTHS],
        },
        schema={"quantile": pl.String, "before": pl.Float64, "after": pl.Float64},
    )


def length_alarm(ledger: pl.DataFrame, unit: str = "tokens") -> list[tuple[str, float]]:
    """Scores whose rank correlation with length is above 0.9 either way: length in disguise."""
    known = ledger.filter(pl.col(unit).is_not_null())
    found = []
    for column in score_columns(known):
        rho = _spearman(known.filter(pl.col(column).is_not_null()), column, unit)
        if abs(rho) > 0.9:
            found.append((column, rho))
    return found


def duplicates(ledger: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Clusters by size, and source pairs: whose rows repeat whose."""
    inside = ledger.filter(pl.col("cluster").is_not_null())
    sizes = (
        inside.group_by("cluster")
        .agg(size=pl.len())
        .filter(pl.col("size") > 1)
        .group_by("size")
        .agg(clusters=pl.len())
        .sort("size")
    )
    stays = (
        ledger.group_by("id").agg(original=pl.col("source").min()).rename({"id": "duplicate_of"})
    )
    repeated = ledger.filter(pl.col("duplicate_of").is_not_null()).join(
        stays, on="duplicate_of", how="left"
    )
    pairs = (
        repeated.group_by("source", "original")
        .agg(rows=pl.len())
        .sort("rows", "source", "original", descending=[True, False, False])
    )
    return sizes, pairs


def contamination(ledger: pl.DataFrame, sets: Sequence[str]) -> pl.DataFrame:
    """Hits by benchmark: rows of the pool that repeat one of its items, and how many were kept."""
    hits = (
        ledger.filter(pl.col("contaminates").is_not_null())
        .group_by(benchmark="contaminates")
        .agg(rows=pl.len(), kept=KEPT.sum())
    )
    named = pl.DataFrame({"benchmark": sorted({*sets, *hits["benchmark"]})}, schema=["benchmark"])
    named = named.cast({"benchmark": pl.String})
    return named.join(hits, on="benchmark", how="left").fill_null(0).sort("benchmark")
