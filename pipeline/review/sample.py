"""A sample of what a ledger keeps: every source, and of each the best, the middling, the last."""

from typing import Any

import polars as pl

from gristmill.pipeline.records.schema import KEY, uniform

_THIRDS = ("best", "middle", "last in")


def stratified(ledger: pl.DataFrame, rows: int, *, seed: int = 0) -> pl.DataFrame:
    """Kept rows drawn by hash(seed, id, source, row) from strata, each by its share, one at least.

    A stratum is a third, by rank, of what is kept of a source; where there are no ranks, a source.
    Where strata are more than `rows`, the largest are drawn from.

    Args:
        ledger: a table of `schema.LEDGER`.
        rows: of the sample, at most.
        seed: of the draw.

    Returns:
        `KEY`, `stratum`, `score`, `rank`; stratum by stratum, best ranks first.
    """
    kept = _with_strata(ledger.filter(verdict="kept"))
    wanted = _shared(dict(kept.group_by("stratum").len().sort("stratum").iter_rows()), rows)
    drawn = [
        uniform(seed, "approval", "\0".join(map(str, key))) for key in kept.select(*KEY).iter_rows()
    ]
    placed = (
        kept.with_columns(drawn=pl.Series(drawn, dtype=pl.Float64))
        .sort("drawn", *KEY)
        .with_columns(at=pl.int_range(pl.len()).over("stratum"))
    )
    most = pl.col("stratum").replace_strict(wanted, default=0, return_dtype=pl.Int64)
    taken = placed.filter(pl.col("at") < most).sort("source", "rank", *KEY, nulls_last=True)
    return taken.select(*KEY, "stratum", "score", "rank")


def counted(ledger: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows by verdict and reason, most first; the id that a reason may name is left out."""
    reason = pl.col("reason").str.replace(": [0-9a-f]{32}$", "")
    counts = ledger.group_by("verdict", reason).agg(rows=pl.len())
    return counts.sort("rows", "verdict", "reason", descending=[True, False, False]).to_dicts()


def shares(kept: pl.DataFrame, drawn: pl.DataFrame) -> list[dict[str, Any]]:
    """Of each stratum the kept rows, and how many of them were drawn."""
    of = _with_strata(kept).group_by("stratum").agg(rows=pl.len())
    taken = drawn.group_by("stratum").agg(drawn=pl.len())
    joined = of.join(taken, on="stratum", how="left").with_columns(pl.col("drawn").fill_null(0))
    return joined.sort("stratum").to_dicts()


def _with_strata(kept: pl.DataFrame) -> pl.DataFrame:
    """Kept rows with their `stratum`."""
    place = pl.col("rank").rank("ordinal").over("source") - 1
    third = (3 * place // pl.col("rank").count().over("source")).cast(pl.Int64)
    word = third.replace_strict(dict(enumerate(_THIRDS)), default=None, return_dtype=pl.String)
    return kept.with_columns(
        stratum=pl.concat_str(["source", word], separator=": ", ignore_nulls=True)
    )


def _shared(counts: dict[str, int], rows: int) -> dict[str, int]:
    """How many of each stratum: one each, then by the largest remainder, never more than it has."""
    order = sorted(counts, key=lambda name: (-counts[name], name))
    wanted = dict.fromkeys(order[:rows], 1)
    total = sum(counts[name] for name in wanted)
    while sum(wanted.values()) < min(rows, total):
        open_ = [name for name in wanted if wanted[name] < counts[name]]
        worst = max(open_, key=lambda n: (rows * counts[n] / total - wanted[n], -order.index(n)))
        wanted[worst] += 1
    return wanted
