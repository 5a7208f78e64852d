"""What changed between two versions of a dataset: rows in, rows out, rows re-scored, and why."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from gristmill.pipeline.report.markdown import table

READ = ("id", "verdict", "reason", "score")


def changes(old: Path, new: Path) -> pl.DataFrame:
    """Rows by change and reason between two published folders; see `difference`."""
    return summary(difference(ledger(old), ledger(new)))


def ledger(folder: Path) -> pl.DataFrame:
    """What a difference reads of the published ledger of a folder."""
    return read_ledger(folder, READ)


def read_ledger(folder: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of the published ledger of a folder, by name or by pattern."""
    paths = [Path(folder) / name for name in ledger_files(folder)]
    if not paths:
        raise ValueError(f"{folder} holds no ledger: it is not a published dataset.")
    return pl.concat([pl.scan_parquet(p).select(*map(pl.col, columns)).collect() for p in paths])


def ledger_files(folder: Path) -> list[str]:
    """The files of the published ledger, relative to the folder."""
    folder = Path(folder)
    return [p.relative_to(folder).as_posix() for p in sorted(folder.glob("ledger/*.parquet"))]


def difference(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """One row per content id that changed: `id, change, reason, before, after` (scores).

    A row is "added" if it is kept now and was not, "dropped" the other way round, "re-scored" if
    both versions keep it with another score. Copies share an id: the id is kept if one of them is,
    and what became of it is told of the first of them that is no copy.
    """
    before, after = _by_id(old, "old"), _by_id(new, "new")
    both = before.join(after, on="id", how="full", coalesce=True)
    was = pl.col("old_kept").fill_null(False)
    now = pl.col("new_kept").fill_null(False)
    moved = pl.col("old_score").ne_missing(pl.col("new_score"))
    change = (
        pl.when(now & ~was)
        .then(pl.lit("added"))
        .when(was & ~now)
        .then(pl.lit("dropped"))
        .when(was & now & moved)
        .then(pl.lit("re-scored"))
    )
    reason = (
        pl.when(change == "added")
        .then(
            pl.when(pl.col("old_kept").is_null())
            .then(pl.lit("new in the pool"))
            .otherwise(pl.format("was dropped: {}", pl.col("old_reason").fill_null("no reason")))
        )
        .when(change == "dropped")
        .then(
            pl.when(pl.col("new_kept").is_null())
            .then(pl.lit("no longer in the pool"))
            .otherwise(pl.col("new_reason").fill_null("no reason"))
        )
        .when(change == "re-scored")
        .then(
            pl.when(pl.col("new_score") > pl.col("old_score"))
            .then(pl.lit("higher"))
            .when(pl.col("new_score") < pl.col("old_score"))
            .then(pl.lit("lower"))
            .otherwise(pl.lit("scored in one version only"))
        )
    )
    found = both.with_columns(change=change).with_columns(reason=reason)
    found = found.filter(pl.col("change").is_not_null())
    return found.select("id", "change", "reason", before="old_score", after="new_score").sort("id")


def summary(difference: pl.DataFrame) -> pl.DataFrame:
    """Rows by change and reason."""
    return (
        difference.group_by("change", "reason")
        .agg(rows=pl.len())
        .sort("change", "rows", "reason", descending=[False, True, False])
    )


def changelog(
    version: str, rows: int, previous: Path | None, now: pl.DataFrame, history: str = ""
) -> str:
    """CHANGELOG.md: this version's entry above those of the versions before it."""
    head = f"## {version}\n\n{rows:,} rows."
    if previous is None:
        entry = f"{head} First version.\n"
    else:
        counts = summary(difference(ledger(previous), now))
        lines = [(r["change"], r["reason"], f"{r['rows']:,}") for r in counts.iter_rows(named=True)]
        told = table(("change", "reason", "rows"), lines) if lines else "No row changed.\n"
        entry = f"{head} Against {previous.name}:\n\n{told}"
    older = history.partition("\n## ")[2]
    return f"# Changes\n\n{entry}" + (f"\n## {older}" if older else "")


def _by_id(frame: pl.DataFrame, prefix: str) -> pl.DataFrame:
    kept = (pl.col("verdict") == "kept").alias("kept")
    copy = pl.col("reason").eq_missing("exact_duplicate")
    first = frame.with_columns(kept).sort(~kept, copy, "id", pl.col("reason"), "score")
    one = first.select("id", "kept", "reason", "score").unique("id", keep="first")
    return one.rename({c: f"{prefix}_{c}" for c in ("kept", "reason", "score")})
