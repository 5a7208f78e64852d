"""Diff: what changed between two versions of a dataset, from their ledgers alone.

Rows in and out, and why; the mixture of sources; how scores are distributed, of what is kept and of
what is new in the pool; sources that came and went.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.export import changes, verify
from gristmill.pipeline.export.changes import difference, ledger_files, summary
from gristmill.pipeline.report import plots, tables

Floats = NDArray[np.float64]

_CHANCE = math.sqrt(-math.log(0.01 / 2) / 2)  # of the Kolmogorov distribution, at 1 %
_READ = ("id", "source", "license", "tokens", "verdict", "reason", "weight", r"^score(_.*)?$")
PAGE, FACTS, ROWS = "diff.html", "diff.json", "diff.parquet"  # beside the report
NEXT = "the next version"
TABLES = ("rows", "changes", "mixture", "scores", "sources")
MIXTURE = {
    "source": pl.String,
    "rows_before": pl.Int64,
    "rows_after": pl.Int64,
    "tokens_before": pl.Int64,
    "tokens_after": pl.Int64,
    "share_before": pl.Float64,
    "share_after": pl.Float64,
}
SCORES = {
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
SOURCES = {"source": pl.String, "change": pl.String, "pool": pl.Int64, "kept": pl.Int64}
# Changes of rows that stay and keep their score, counted and told of no row by itself.
QUIET = {"re-weighted": "with another weight", "relabelled": "under another source or licence"}
KEPT_ROWS, NEW_ROWS = "kept rows", "new rows of the pool"  # what a line of `SCORES` is of


@dataclass(frozen=True, kw_only=True)
class Diff:
    """What changed between two ledgers.

    Attributes:
        before: the older version's name.
        after: the newer one's.
        counts: rows and tokens kept, rows of the pool, before and after; rows by change, and those
            that changed as `QUIET` says.
        rows: one line a content id that changed: `id, source, tokens, change, reason, before,
            after` (scores).
        changes: rows by `change` and `reason`.
        mixture: kept rows and tokens by source, with shares.
        scores: a line a score, of the kept rows and of the pool's new rows against its old ones.
        sources: sources that are new in the pool, or gone from it.
        drawn: by score, edges of bins and the share of kept rows in each, before and after.
    """

    before: str
    after: str
    counts: Mapping[str, int]
    rows: pl.DataFrame
    changes: pl.DataFrame
    mixture: pl.DataFrame
    scores: pl.DataFrame
    sources: pl.DataFrame
    drawn: Mapping[str, tuple[Floats, Floats]] = field(default_factory=dict, repr=False)

    @property
    def same(self) -> bool:
        """Whether no row came, went, or has another score, weight, source or licence."""
        return self.rows.is_empty() and not any(self.counts[name] for name in QUIET)

    @property
    def shift(self) -> float:
        """Total variation distance of the mixtures."""
        moved = self.mixture["share_after"] - self.mixture["share_before"]
        return float(moved.abs().sum()) / 2

    def ids(self, reason: str) -> list[str]:
        """The ids that changed for a reason that begins so."""
        return self.rows.filter(pl.col("reason").str.starts_with(reason))["id"].to_list()

    @property
    def facts(self) -> dict[str, Any]:
        """All but the rows, as JSON."""
        told = {name: vars(self)[name].to_dicts() for name in TABLES[1:]}
        names = {"before": self.before, "after": self.after}
        return {**names, "counts": dict(self.counts), "shift": self.shift, **told}

    @property
    def sentences(self) -> list[str]:
        """What a person wants to know first."""
        return [*self._rows_told(), *self._told()]

    def _rows_told(self) -> list[str]:
        n = self.counts
        if self.same:
            return ["no row changed."]
        kept = f"kept rows: {n['rows_before']:,} before, {n['rows_after']:,} now"
        quiet = "".join(f", {n[name]:,} {said}" for name, said in QUIET.items() if n[name])
        return [
            f"{kept}; {n['added']:,} came, {n['dropped']:,} went, {n['re-scored']:,} stay with "
            f"another score{quiet}."
        ]

    def _told(self) -> list[str]:
        found = []
        new, gone = (self.sources.filter(change=c)["source"].to_list() for c in ("new", "gone"))
        if new:
            found.append(f"new sources: {_some(new)}.")
        if gone:
            found.append(f"sources that are gone: {_some(gone)}.")
        if self.shift > 0:
            found.append(f"the mixture of sources moved by {self.shift:.1%} of the rows.")
        found += [
            f"{line['score']} of the {line['of']}: distance {line['distance']:.3f}, more than "
            f"chance explains ({line['chance']:.3f})."
            for line in self.scores.iter_rows(named=True)
            if line["distance"] is not None and line["distance"] > line["chance"]
        ]
        return found


def between(old: Path, new: Path) -> Diff:
    """What changed between two published folders.

    Raises:
        ValueError: one of them is not as it was published.
    """
    return since(old, ledger(new), after=new.name)


def since(version: Path, new: pl.DataFrame, *, after: str = NEXT) -> Diff:
    """What changed between a published folder and a later ledger.

    Raises:
        ValueError: the folder is not as it was published.
    """
    return diff(ledger(version), new, before=version.name, after=after)


def ledger(folder: Path) -> pl.DataFrame:
    """What a diff reads of a published ledger, which is hashed first."""
    found = changes.read_ledger(folder, _READ)
    verify.demand(folder, ledger_files(folder))
    return found


def diff(old: pl.DataFrame, new: pl.DataFrame, *, before: str, after: str) -> Diff:
    """What changed between two ledgers.

    Args:
        old: a ledger.
        new: a later one.
        before: what the first is called.
        after: what the second is called.
    """
    found = difference(old, new)
    counts = {
        f"{name}_{when}": amount(frame)
        for when, frame in (("before", old), ("after", new))
        for name, amount in _AMOUNTS.items()
    }
    by_change = dict(found.group_by("change").len().iter_rows())
    counts |= {c: by_change.get(c, 0) for c in ("added", "dropped", "re-scored")}
    labels = [c for c in ("source", "license") if c in old.columns and c in new.columns]
    label = pl.concat_str(*(pl.col(c).fill_null("") for c in labels), separator="\0")
    counts["re-weighted"] = _other(old, new, pl.col("weight").fill_null(1.0))
    counts["relabelled"] = _other(old, new, label)
    where = pl.concat([_where(f) for f in (new, old)]).unique("id", keep="first")
    rows = found.join(where, on="id", how="left", maintain_order="left")
    return Diff(
        before=before,
        after=after,
        counts=counts,
        rows=rows.select("id", "source", "tokens", "change", "reason", "before", "after"),
        changes=summary(found),
        mixture=_mixture(old, new),
        scores=_scores(old, new),
        sources=_sources(old, new),
        drawn=_drawn(old, new),
    )


def distance(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of two samples, and what chance exceeds in 1 % of all cases."""
    a_N, b_M = np.sort(np.asarray(a, np.float64)), np.sort(np.asarray(b, np.float64))
    at = np.concatenate([a_N, b_M])
    below_a = np.searchsorted(a_N, at, side="right") / len(a_N)
    below_b = np.searchsorted(b_M, at, side="right") / len(b_M)
    chance = _CHANCE * math.sqrt((len(a_N) + len(b_M)) / (len(a_N) * len(b_M)))
    return float(np.abs(below_a - below_b).max()), chance


def _kept(ledger: pl.DataFrame) -> pl.DataFrame:
    return ledger.filter(tables.KEPT)


_AMOUNTS = {
    "rows": lambda f: _kept(f).height,
    "tokens": lambda f: int(_kept(f)["tokens"].sum()),
    "pool": lambda f: f.height,
}


def _other(old: pl.DataFrame, new: pl.DataFrame, column: pl.Expr) -> int:
    """How many ids both keep, with other values of an expression."""
    parts = [_kept(f).group_by("id").agg(value=column.sort()) for f in (old, new)]
    both = parts[0].join(parts[1], on="id")
    return both.filter(pl.col("value") != pl.col("value_right")).height


def _drawn(old: pl.DataFrame, new: pl.DataFrame) -> dict[str, tuple[Floats, Floats]]:
    found = {}
    for column in tables.score_columns(_kept(new)):
        if column in old.columns:
            before, after = (_kept(f)[column].drop_nulls() for f in (old, new))
            bins = plots.bins(before.cast(pl.Float64).to_numpy(), after.cast(pl.Float64).to_numpy())
            if bins is not None:
                found[column] = bins
    return found


def _where(ledger: pl.DataFrame) -> pl.DataFrame:
    """Source and tokens of each id: of its kept copy, if it has one, else of the first."""
    order = ledger.sort(~tables.KEPT, "source", "id")
    return order.unique("id", keep="first", maintain_order=True).select("id", "source", "tokens")


def _mixture(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    parts = []
    for when, ledger in (("before", old), ("after", new)):
        kept = _kept(ledger)
        counts = kept.group_by("source").agg(
            pl.len().cast(pl.Int64).alias(f"rows_{when}"),
            pl.col("tokens").sum().cast(pl.Int64).alias(f"tokens_{when}"),
        )
        share = pl.col(f"rows_{when}") / max(1, kept.height)
        parts.append(counts.with_columns(share.alias(f"share_{when}")))
    both = parts[0].join(parts[1], on="source", how="full", coalesce=True, nulls_equal=True)
    numbers = [c for c in MIXTURE if c != "source"]
    both = both.with_columns(pl.col(numbers).fill_null(0))
    return both.select(pl.col(c).cast(t) for c, t in MIXTURE.items()).sort(
        -pl.col("rows_after"), -pl.col("rows_before"), "source"
    )


def _scores(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    known = old.select("id").unique()
    stayed, came = (new.join(known, on="id", how=how) for how in ("semi", "anti"))
    before = stayed if stayed.height else old  # by the same scores, where there are such rows
    pairs = ((KEPT_ROWS, _kept(old), _kept(new)), (NEW_ROWS, before, came))
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


def _sources(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
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


def _some(names: Sequence[str | None]) -> str:
    told = [name or "none stated" for name in names]
    more = f" and {len(told) - 5:,} more" if len(told) > 5 else ""
    return ", ".join(told[:5]) + more
