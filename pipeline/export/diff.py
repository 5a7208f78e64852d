"""Diff: what changed between two versions of a dataset, from their ledgers alone.

Rows in and out, and why; the mixture of sources; how scores are distributed, of what is kept and of
what is new in the pool; sources that came and went (`diff_tables`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.export import changes, diff_tables, verify
from gristmill.pipeline.export.changes import difference, ledger_files, summary
from gristmill.pipeline.export.diff_tables import kept
from gristmill.pipeline.report import tables
from gristmill.pipeline.report.plots import Floats

READ = ("id", "source", "license", "tokens", "verdict", "reason", "weight", r"^score(_.*)?$")
PAGE, FACTS, ROWS = "diff.html", "diff.json", "diff.parquet"  # beside the report
NEXT = "the next version"
TABLES = ("rows", "changes", "mixture", "scores", "sources")
# Changes of rows that stay and keep their score, counted and told of no row by itself.
QUIET = {"re-weighted": "with another weight", "relabelled": "under another source or licence"}


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
        told = f"kept rows: {n['rows_before']:,} before, {n['rows_after']:,} now"
        quiet = "".join(f", {n[name]:,} {said}" for name, said in QUIET.items() if n[name])
        return [
            f"{told}; {n['added']:,} came, {n['dropped']:,} went, {n['re-scored']:,} stay with "
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
    found = changes.read_ledger(folder, READ)
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
        mixture=diff_tables.mixture(old, new),
        scores=diff_tables.scores(old, new),
        sources=diff_tables.sources(old, new),
        drawn=diff_tables.drawn(old, new),
    )


_AMOUNTS: Mapping[str, Callable[[pl.DataFrame], int]] = {
    "rows": lambda f: kept(f).height,
    "tokens": lambda f: int(kept(f)["tokens"].sum()),
    "pool": lambda f: f.height,
}


def _other(old: pl.DataFrame, new: pl.DataFrame, column: pl.Expr) -> int:
    """How many ids both keep, with other values of an expression."""
    parts = [kept(f).group_by("id").agg(value=column.sort()) for f in (old, new)]
    both = parts[0].join(parts[1], on="id")
    return both.filter(pl.col("value") != pl.col("value_right")).height


def _where(ledger: pl.DataFrame) -> pl.DataFrame:
    """Source and tokens of each id: of its kept copy, if it has one, else of the first."""
    order = ledger.sort(~tables.KEPT, "source", "id")
    return order.unique("id", keep="first", maintain_order=True).select("id", "source", "tokens")


def _some(names: Sequence[str | None]) -> str:
    told = [name or "none stated" for name in names]
    more = f" and {len(told) - 5:,} more" if len(told) > 5 else ""
    return ", ".join(told[:5]) + more
