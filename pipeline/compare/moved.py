"""Run to run: which effects moved between two leaderboards, and how surely.

A leaderboard's tables are enough. Where both runs asked the same items (half of the fewer, at
least), the difference of two effects is paired over these, seeds and draws being each run's own;
elsewhere the two published intervals are taken as independent. Holm's adjustment is over the arms
of an evaluation, budget and control.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from scipy import stats

from gristmill.pipeline.compare.arms import MATCHED
from gristmill.pipeline.compare.paired import Paired
from gristmill.pipeline.numerics.effects import Effect, holm

KEY = ["evaluation", "budget", "arm", "against"]
MOVED = {
    **dict.fromkeys(KEY, pl.String),
    **dict.fromkeys(("before", "before_low", "before_high"), pl.Float64),
    **dict.fromkeys(("after", "after_low", "after_high"), pl.Float64),
    **dict.fromkeys(("difference", "low", "high", "level", "p", "p_holm"), pl.Float64),
    "items": pl.Int64,
    "moved": pl.Boolean,
}
FILES = ("leaderboard", "cells", "items")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A leaderboard as it is kept; see `findings` for the columns.

    Attributes:
        leaderboard: effects.
        cells: models.
        items: what every model said of every item; None: they were not kept.
    """

    leaderboard: pl.DataFrame
    cells: pl.DataFrame
    items: pl.DataFrame | None = None


def read(folder: Path) -> Tables:
    """The tables of a leaderboard's folder.

    Raises:
        ValueError: the folder holds no leaderboard.
    """
    paths = {name: folder / f"{name}.parquet" for name in FILES}
    for name in ("leaderboard", "cells"):
        if not paths[name].is_file():
            raise ValueError(
                f"{folder} holds no {name}.parquet: give the folder that `gristmill compare` wrote."
            )
    found = {name: pl.read_parquet(path) for name, path in paths.items() if path.is_file()}
    return Tables(**found)


def moved(before: Tables, after: Tables, *, level: float = 0.95) -> pl.DataFrame:
    """A row per effect of methods and shared controls in both: `MOVED`, the surest first.

    `items` is how many items the two were paired over; null: the intervals are independent, and
    before and after are as published. `moved`: p after Holm is below 1 - level.
    """
    matched = pl.col("kind").is_in(MATCHED)  # there for a method's sake alone
    held = pl.col("effect").is_not_null() & ~matched
    was, now = (
        t.leaderboard.filter(held).select(*KEY, "effect", "low", "high", "level", "p")
        for t in (before, after)
    )
    both = was.join(now, on=KEY, how="inner", suffix="_now", maintain_order="right")
    kinds = [
        dict(t.leaderboard.select("arm", "kind").unique().iter_rows()) for t in (before, after)
    ]
    values = Paired([before.items, after.items], kinds)
    lines = []
    for row in both.iter_rows(named=True):
        paired = values.effects(row, level)
        if paired is None:
            lines.append(_apart(row, level))
        else:
            old, new, by, items = paired
            lines.append({**_line(row, old, new, by), "items": items})
    found = pl.DataFrame(
        lines, schema={k: t for k, t in MOVED.items() if k != "moved"}, orient="row"
    )
    return _adjusted(found, level)


def news(before: Tables, after: Tables) -> pl.DataFrame:
    """Arms that are new or gone, and how many models were made anew: `budget, arm, change, models`.

    A model is "retrained" if the same draw and seed gave other weights.
    """
    key = ["budget", "arm", "draw", "seed"]
    was, now = (
        t.cells.unique(key, keep="first", maintain_order=True).select(*key, "model")
        for t in (before, after)
    )
    both = was.join(now, on=key, how="full", coalesce=True, suffix="_now")
    change = (
        pl.when(pl.col("model").is_null())
        .then(pl.lit("new"))
        .when(pl.col("model_now").is_null())
        .then(pl.lit("gone"))
        .when(pl.col("model") != pl.col("model_now"))
        .then(pl.lit("retrained"))
    )
    found = both.with_columns(change=change).filter(pl.col("change").is_not_null())
    counted = found.group_by("budget", "arm", "change").agg(models=pl.len())
    return counted.sort("change", "budget", "arm")


def _line(row: Mapping[str, Any], old: Effect, new: Effect, by: Effect) -> dict[str, Any]:
    return {
        **{name: row[name] for name in KEY},
        "before": old.value, "before_low": old.low, "before_high": old.high,
        "after": new.value, "after_low": new.low, "after_high": new.high,
        "difference": by.value, "low": by.low, "high": by.high, "level": by.level, "p": by.p,
    }  # fmt: skip


def _apart(row: Mapping[str, Any], level: float) -> dict[str, Any]:
    """The difference of two published effects, their intervals taken as independent."""
    old = Published(value=row["effect"], low=row["low"], high=row["high"], level=row["level"])
    new = Published(
        value=row["effect_now"], low=row["low_now"], high=row["high_now"], level=row["level_now"]
    )
    value, low, high, p = apart(old, new, level)
    return {
        **{name: row[name] for name in KEY},
        "before": old.value, "before_low": old.low, "before_high": old.high,
        "after": new.value, "after_low": new.low, "after_high": new.high,
        "difference": value, "low": low, "high": high, "level": level, "p": p, "items": None,
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Published:
    """An effect of which the interval alone is known."""

    value: float
    low: float
    high: float
    level: float

    @property
    def error(self) -> float:
        """Its standard error, and more: as if the interval were a normal one."""
        return (self.high - self.low) / 2 / _normal(self.level)


def apart(old: Published, new: Published, level: float) -> tuple[float, float, float, float]:
    """Difference, its ends and p of two effects whose intervals are independent."""
    error, value = math.hypot(old.error, new.error), new.value - old.value
    wide = _normal(level) * error
    p = float(2 * stats.norm.sf(abs(value) / error)) if error else float(value == 0)
    return value, value - wide, value + wide, p


def _normal(level: float) -> float:
    return float(stats.norm.ppf((1 + level) / 2))


def _adjusted(found: pl.DataFrame, level: float) -> pl.DataFrame:
    """With Holm's p, `moved` and the order of a reader: what moved most surely first."""
    family = ["evaluation", "budget", "against"]
    p_holm: dict[tuple[str, ...], float] = {}
    for place, own in found.partition_by(family, as_dict=True).items():
        for arm, p in holm(dict(own.select("arm", "p").iter_rows())).items():
            p_holm[(*map(str, place), arm)] = p
    columns: Sequence[tuple[str, ...]] = found.select(*family, "arm").rows()
    adjusted = pl.Series("p_holm", [p_holm[key] for key in columns], dtype=pl.Float64)
    made = found.with_columns(p_holm=adjusted).with_columns(moved=pl.col("p_holm") < 1 - level)
    return made.select(*MOVED).sort("p_holm", "p", *KEY)
