"""The figures of a report: small tables and one comparison, made from the rounds' tables."""

# T = pulls in order

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from gristmill.pipeline.models.completion.client import Price
from gristmill.synthesis.transport import Array


def by_cluster(pulls: pl.DataFrame, names: Mapping[int, str] | None = None) -> pl.DataFrame:
    """What each cluster took and gave; most documents first."""
    tokens = pl.col("tokens_in") + pl.col("tokens_out")
    frame = (
        pulls.filter(pl.col("cluster").is_not_null())
        .group_by("cluster")
        .agg(
            pulls=pl.len(),
            documents=pl.col("documents").sum(),
            pairs=pl.col("pairs").sum(),
            kept=pl.col("kept").sum(),
            tokens=tokens.sum(),
            cost=pl.col("cost").filter(pl.col("full")).mean(),
        )
        .with_columns(per_document=pl.col("kept") / pl.col("documents"))
        .sort("documents", "cluster", descending=[True, False])
    )
    named = [(names or {}).get(c, f"cluster {c}") for c in frame["cluster"]]
    return frame.insert_column(1, pl.Series("name", named, dtype=pl.String))


def by_round(pulls: pl.DataFrame, price: Price) -> pl.DataFrame:
    """What each round took and gave; pairs per 1,000 tokens and money per kept pair."""
    tokens = pl.col("tokens_in") + pl.col("tokens_out")
    frame = (
        pulls.group_by("round")
        .agg(
            documents=pl.col("documents").sum(),
            kept=pl.col("kept").sum(),
            tokens_in=pl.col("tokens_in").sum(),
            tokens_out=pl.col("tokens_out").sum(),
            tokens=tokens.sum(),
            cost=pl.col("cost").filter(pl.col("full")).mean(),
        )
        .sort("round")
    )
    money = [price.of(i, o) for i, o in frame.select("tokens_in", "tokens_out").iter_rows()]
    return frame.with_columns(
        money=pl.Series(money, dtype=pl.Float64),
        pairs_per_1000=per(pl.col("kept") * 1_000, pl.col("tokens")),
    ).with_columns(money_per_pair=per(pl.col("money"), pl.col("kept")))


def per(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    """The part of a whole, null where there is no whole."""
    return pl.when(whole > 0).then(part / whole)


def reasons(sent: pl.DataFrame, candidates: pl.DataFrame) -> pl.DataFrame:
    """Refused candidates and fruitless documents by kind of reason, most first."""
    frames = [
        candidates.select(what=pl.lit("pair"), reason="reason"),
        sent.filter(pl.col("pairs") == 0).select(what=pl.lit("document"), reason="reason"),
    ]
    kind = pl.col("reason").str.split(":").list.first()
    return (
        pl.concat(frames)
        .filter(pl.col("reason").is_not_null())
        .group_by("what", reason=kind)
        .len("count")
        .sort("count", "what", "reason", descending=[True, False, False])
    )


@dataclass(frozen=True, kw_only=True)
class Advantage:
    """Saved cost against uniform pulls, summed pull by pull.

    What a uniform pull costs is estimated from the probe, whose clusters are drawn by chance;
    `error` is the standard error.
    """

    uniform: float
    error: float
    sampled: int
    saved_T: Array
    half_T: Array  # half width of the 95 % band

    @property
    def clear(self) -> bool:
        """Is the whole saving above nought, whatever uniform costs within the band?"""
        return len(self.saved_T) > 0 and bool(self.saved_T[-1] > self.half_T[-1])


def advantage(pulls: pl.DataFrame) -> Advantage | None:
    """The saving of the chosen pulls; None without a probe (mode paper and official have none)."""
    full = pulls.filter(pl.col("full") & pl.col("cost").is_not_null())
    probe = full.filter(why="probe")["cost"].to_numpy()
    rest = full.filter(why="chosen")["cost"].to_numpy()
    if len(probe) < 2 or not len(rest):
        return None
    uniform = float(probe.mean())
    error = float(probe.std(ddof=1) / np.sqrt(len(probe)))
    steps_T = np.arange(1, len(rest) + 1)
    return Advantage(
        uniform=uniform,
        error=error,
        sampled=len(probe),
        saved_T=np.cumsum(uniform - rest),
        half_T=np.asarray(1.96 * error * steps_T, dtype=np.float64),
    )
