"""Ledgers of published datasets: found, hashed, and asked why a row is in, or out."""

from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.export import verify
from gristmill.pipeline.export.versions import promoted
from gristmill.pipeline.report.images import images


def ledgers(where: Path) -> list[Path]:
    """Ledger tables: a file, a published dataset, or the latest of each dataset in a folder.

    Those of a published dataset are hashed first.
    """
    if where.is_file():
        return [where]
    found = list(where.glob("ledger/*.parquet"))
    if not (where / "ledger").is_dir():
        found = [*where.glob("latest/ledger/*.parquet"), *where.glob("*/latest/ledger/*.parquet")]
        if not found and not where.is_dir():
            raise ValueError(f"there is no published dataset under {where}.")
        if not found:
            raise ValueError(f"{promoted(where)} holds no ledger: it is no published dataset.")
    for path in found:
        folder = path.parents[1]
        if any((folder / name).exists() for name in (verify.SUCCESS, verify.SUMS)):
            verify.demand(folder, [path.relative_to(folder).as_posix()])
    return sorted(found)


def lines(ident: str, where: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The ledgers' lines on one row, by id, start of an id, or the user's own id."""
    found = []
    for path in ledgers(where):
        frame = pl.scan_parquet(path)
        names = frame.collect_schema().names()
        match = pl.col("id").str.starts_with(ident)
        if "user_id" in names:
            match |= pl.col("user_id") == ident
        found += [(path, hit) for hit in frame.filter(match).collect().to_dicts()]
    if not found:
        raise ValueError(f"no ledger under {where} has a row {ident!r}.")
    return found


def pictures(folder: Path) -> dict[str, bytes]:
    """The plots of a published dataset, each an image of its own."""
    tables = [pl.scan_parquet(p) for p in ledgers(folder)]
    drawn = ("verdict", "source", "tokens", r"^score.*$")
    return images(pl.concat([t.select(*map(pl.col, drawn)).collect() for t in tables]))


def summary(folder: Path) -> list[dict[str, Any]]:
    """A published dataset in a few lines: its gate, rows by verdict and reason, kept by source."""
    table = pl.scan_parquet(ledgers(folder))
    read = ("verdict", "reason", "source", "gate")
    frame = table.select(c for c in table.collect_schema().names() if c in read).collect()
    gate = frame["gate"].drop_nulls().first() if "gate" in frame.columns else None
    by_reason = frame.group_by("verdict", "reason").len().sort("len", descending=True)
    kept = frame.filter(pl.col("verdict") == "kept").group_by("source").len()
    return [
        {
            "dataset": str(folder),
            **({"gate": gate} if gate else {}),
            "rows": frame.height,
            **{f"{v}: {r}" if r else v: n for v, r, n in by_reason.iter_rows()},
        },
        {f"kept of {s}": n for s, n in kept.sort("source").iter_rows()},
    ]
