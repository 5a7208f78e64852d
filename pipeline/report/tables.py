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
from numpy.typing import NDArray

from gristmill.pipeline.numerics.ordering import floats
from gristmill.pipeline.numerics.ranks import spearman

KEPT = pl.col("verdict") == "kept"
SCORES = r"score(_.*)?"  # a pattern of the ledger's columns
Ledger = pl.DataFrame | pl.LazyFrame  # of a lazy one, what a table tells of is read and no more
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


def drops(ledger: Ledger) -> pl.DataFrame:
    """Rows by verdict, stage and reason, most first."""
    return (
        ledger.lazy()
        .group_by("verdict", "stage", "reason")
        .agg(rows=pl.len())
        .collect(engine="streaming")
        .sort("rows", "verdict", "stage", "reason", descending=[True, False, False, False])
    )


def mixture(
    ledger: Ledger, by: str = "source", target: Mapping[str, float] | None = None
) -> pl.DataFrame:
    """Rows, tokens and shares before and after by a column; `wanted` is the target share."""
    wanted = pl.DataFrame(
        {by: list(target or {}), "wanted": list((target or {}).values())},
        schema={by: pl.String, "wanted": pl.Float64},
    )
    table = (
        ledger.lazy()
        .group_by(by)
        .agg(
            before=pl.len(),
            after=KEPT.sum(),
            tokens_before=pl.col("tokens").sum(),
            tokens_after=pl.col("tokens").filter(KEPT).sum(),
            score=pl.col("score").median(),
        )
        .collect(engine="streaming")
        .join(wanted, on=by, how="left")
        .with_columns(
            share_before=pl.col("before") / pl.col("before").sum(),
            share_after=pl.col("after") / pl.max_horizontal(pl.col("after").sum(), 1),
        )
    )
    return table.sort("before", by, descending=[True, False])


def per_source(ledger: Ledger) -> pl.DataFrame:
    """Rows, tokens and median score by source, revision and licence of a published ledger."""
    return (
        ledger.lazy()
        .group_by("source", revision="source_revision", license="license")
        .agg(
            rows_in=pl.len(),
            rows_out=KEPT.sum(),
            tokens_in=pl.col("tokens").sum(),
            tokens_out=pl.col("tokens").filter(KEPT).sum(),
            score=pl.col("score").median(),
        )
        .collect(engine="streaming")
        .sort("source", "revision", "license")
    )


def agreement(ledger: Ledger) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Scorers, their Spearman correlations, and the overlap of their top K, K = rows kept.

    Both are over the rows that both scorers could score. Overlap of two random sets is K / N.
    """
    scores, size = _scores(ledger)
    columns = score_columns(scores)
    spearman_CC, overlap_CC = np.eye(len(columns)), np.eye(len(columns))
    for i, a in enumerate(columns):
        for j, b in enumerate(columns[:i]):
            both = scores.filter(pl.col(a).is_not_null() & pl.col(b).is_not_null())
            spearman_CC[i, j] = spearman_CC[j, i] = _spearman(both, a, b)
            k = min(max(1, size), both.height)
            shared = np.intersect1d(_top(ledger, both, a, k), _top(ledger, both, b, k))
            overlap_CC[i, j] = overlap_CC[j, i] = len(shared) / max(1, k)
    return columns, spearman_CC, overlap_CC


def overlaps(ledger: Ledger) -> pl.DataFrame:
    """How much of the kept set each scorer's own top K holds, and what a random set would."""
    scores, size = _scores(ledger)
    share = size / max(1, scores.height)
    kept_N = scores.filter(KEPT)["at"].to_numpy()
    lines = [{"against": "a random set of equal size (expected)", "overlap": share}]
    for column in score_columns(scores):
        scored = scores.filter(pl.col(column).is_not_null())
        shared = np.intersect1d(_top(ledger, scored, column, size), kept_N)
        lines.append({"against": f"top of {column}", "overlap": len(shared) / max(1, size)})
    return pl.DataFrame(lines, schema={"against": pl.String, "overlap": pl.Float64})


def _spearman(frame: pl.DataFrame, a: str, b: str) -> float:
    rho = spearman(frame[a].to_numpy(), frame[b].to_numpy())
    return float("nan") if rho is None else rho


def _scores(ledger: Ledger) -> tuple[pl.DataFrame, int]:
    """The scores of all rows, numbered by `at`, and how many rows were kept."""
    names = ledger.lazy().collect_schema().names()
    read = columns_named(names, ("verdict", SCORES))
    found = ledger.lazy().select(read).collect().with_row_index("at")
    return found, found.filter(KEPT).height


def _top(ledger: Ledger, scores: pl.DataFrame, column: str, k: int) -> NDArray[np.uint32]:
    """Numbers (`at`) of the k best of some rows; of equal ones, by their key.

    Args:
        ledger: of which keys are read where scores are equal at the cut.
        scores: of the rows, with `at`; none is null.
        column: of the scores.
        k: how many.
    """
    at_N: NDArray[np.uint32] = scores["at"].to_numpy()
    value_N = floats(scores[column])
    if k >= len(at_N):
        return at_N
    if not k:
        return at_N[:0]
    last = np.partition(value_N, len(value_N) - k)[len(value_N) - k]
    above_N, equal_N = at_N[value_N > last], at_N[value_N == last]
    if len(above_N) + len(equal_N) > k:
        rows = ledger.lazy().with_row_index("at").select("at", "id", "source", "row")
        here = pl.col("at").is_in(pl.Series(equal_N).implode())
        equal = rows.filter(here).collect().sort("id", "source", "row")
        equal_N = equal["at"].head(k - len(above_N)).to_numpy()
    return np.concatenate([above_N, equal_N])


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


def duplicates(ledger: Ledger) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Clusters by size, and source pairs: whose rows repeat whose."""
    repeats = pl.col("duplicate_of").is_not_null()
    stay = ledger.lazy().filter(repeats).select(pl.col("duplicate_of").unique()).collect()
    told = repeats | pl.col("cluster").is_not_null()
    told |= pl.col("id").is_in(stay["duplicate_of"].implode())
    ledger = ledger.lazy().select("id", "source", "cluster", "duplicate_of").filter(told).collect()
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
    repeated = ledger.filter(repeats).join(stays, on="duplicate_of", how="left")
    pairs = (
        repeated.group_by("source", "original")
        .agg(rows=pl.len())
        .sort("rows", "source", "original", descending=[True, False, False])
    )
    return sizes, pairs


def contamination(ledger: Ledger, sets: Sequence[str]) -> pl.DataFrame:
    """Hits by benchmark: rows of the pool that repeat one of its items, and how many were kept."""
    hits = (
        ledger.lazy()
        .filter(pl.col("contaminates").is_not_null())
        .group_by(benchmark="contaminates")
        .agg(rows=pl.len(), kept=KEPT.sum())
        .collect(engine="streaming")
    )
    named = pl.DataFrame({"benchmark": sorted({*sets, *hits["benchmark"]})}, schema=["benchmark"])
    named = named.cast({"benchmark": pl.String})
    return named.join(hits, on="benchmark", how="left").fill_null(0).sort("benchmark")
