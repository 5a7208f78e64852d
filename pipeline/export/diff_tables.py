"""Diff tables: mixture, scores and sources of two ledgers, one beside the other.

| measure | is |
|---|---|
| mixture | total variation distance: half the summed change of the sources' shares of kept rows |
| a score's distance | Kolmogorov-Smirnov: the largest gap of two distribution functions, 0 to 1 |
| its chance | the distance that two samples of these sizes from one distribution exceed in 1 % |

The distance is told of the kept rows, before and after, and of the pool's new rows against its old
ones, all as the new version scores them: data that change show there first. Where no old row is
left in the pool, the new ones are held against the older version's pool.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.report import plots, tables
from gristmill.pipeline.report.plots import Floats

_CHANCE = math.sqrt(-math.log(0.01 / 2) / 2)  # of the Kolmogorov distribution, at 1 %
MIXTURE: dict[str, Any] = {
    "source": pl.String,
    "rows_before": pl.Int64,
    "rows_after": pl.Int64,
    "tokens_before": pl.Int64,
    "tokens_after": pl.Int64,
    "share_before": pl.Float64,
    "share_after": pl.Float64,
}
SCORES: dict[str, Any] = {
    "score": pl.String,
    "of": pl.String,
    "rows_before": pl.Int64,
    "rows_after": pl.Int64,
    "mean_before": pl.Float64,
    "mean_after": pl.Float64,
    "median_before": pl.Float64,
    "median_after": pl.Float64,
    "distance": pl.Float64,
    "chance": pl.Float64,
}
SOURCES: dict[str, Any] = {
    "source": pl.String,
    "change": pl.String,
    "pool": pl.Int64,
    "kept": pl.Int64,
}
KEPT_ROWS, NEW_ROWS = "kept rows", "new rows of the pool"  # what a line of `SCORES` is of


def kept(ledger: pl.DataFrame) -> pl.DataFrame:
    """The rows that a ledger keeps."""
    return ledger.filter(tables.KEPT)


def mixture(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Kept rows and tokens by source, with their shares."""
    parts = []
    for when, ledger in (("before", old), ("after", new)):
        taken = kept(ledger)
        counts = taken.group_by("source").agg(
            pl.len().cast(pl.Int64).alias(f"rows_{when}"),
            pl.col("tokens").sum().cast(pl.Int64).alias(f"tokens_{when}"),
        )
        share = pl.col(f"rows_{when}") / max(1, taken.height)
        parts.append(counts.with_columns(share.alias(f"share_{when}")))
    both = parts[0].join(parts[1], on="source", how="full", coalesce=True, nulls_equal=True)
    numbers = [c for c in MIXTURE if c != "source"]
    both = both.with_columns(pl.col(numbers).fill_null(0))
    return both.select(pl.col(c).cast(t) for c, t in MIXTURE.items()).sort(
        -pl.col("rows_after"), -pl.col("rows_before"), "source"
    )


def scores(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """A line a score that both have, of the kept rows and of the new ones."""
    known = old.select("id").unique()
    stayed, came = new.join(known, on="id", how="semi"), new.join(known, on="id", how="anti")
    before = stayed if stayed.height else old  # by the same scores, where there are such rows
    pairs = ((KEPT_ROWS, kept(old), kept(new)), (NEW_ROWS, before, came))
    named = [c for c in tables.score_columns(new) if c in old.columns]
    lines = [_score(c, of, a, b) for c in named for of, a, b in pairs]
    return pl.DataFrame([line for line in lines if line is not None], schema=SCORES)


def _score(
    column: str, of: str, before: pl.DataFrame, after: pl.DataFrame
) -> dict[str, Any] | None:
    """A line of `SCORES`; None: there is no score on one side."""
    parts = [
        frame.sort("id", column, nulls_last=True)
        .unique("id", keep="first", maintain_order=True)[column]
        .drop_nulls()
        for frame in (before, after)
    ]
    a, b = (p.cast(pl.Float64).filter(p.is_finite()) for p in parts)
    if a.is_empty() or b.is_empty():
        return None
    far, chance = distance(a.to_list(), b.to_list())
    return {
        "score": column,
        "of": of,
        "rows_before": len(a),
        "rows_after": len(b),
        "mean_before": a.mean(),
        "mean_after": b.mean(),
        "median_before": a.median(),
        "median_after": b.median(),
        "distance": far,
        "chance": chance,
    }


def sources(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Sources that are in one pool and not in the other."""
    lines = []
    for change, here, there in (("new", new, old), ("gone", old, new)):
        known = set(there["source"])
        counts = here.group_by("source").agg(pool=pl.len(), kept=tables.KEPT.sum())
        lines += [
            {"source": s, "change": change, "pool": pool, "kept": kept}
            for s, pool, kept in counts.sort("source").iter_rows()
            if s not in known
        ]
    return pl.DataFrame(lines, schema=SOURCES)


def drawn(old: pl.DataFrame, new: pl.DataFrame) -> dict[str, tuple[Floats, Floats]]:
    """By score, edges of bins and the share of kept rows in each, before and after."""
    found = {}
    for column in tables.score_columns(kept(new)):
        if column in old.columns:
            before, after = (kept(f)[column].drop_nulls() for f in (old, new))
            bins = plots.bins(before.cast(pl.Float64).to_numpy(), after.cast(pl.Float64).to_numpy())
            if bins is not None:
                found[column] = bins
    return found


def distance(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of two samples, and what chance exceeds in 1 % of all cases."""
    a_N, b_M = np.sort(np.asarray(a, np.float64)), np.sort(np.asarray(b, np.float64))
    at = np.concatenate([a_N, b_M])
    below_a = np.searchsorted(a_N, at, side="right") / len(a_N)
    below_b = np.searchsorted(b_M, at, side="right") / len(b_M)
    chance = _CHANCE * math.sqrt((len(a_N) + len(b_M)) / (len(a_N) * len(b_M)))
    return float(np.abs(below_a - below_b).max()), chance
