"""Verdicts: what became of each row, and who falls before anything is ranked.

Rows that ingest set aside, rows that cleaning dropped, and exact copies of an earlier row.
"""

# N = rows

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.numerics.ordering import Ints
from gristmill.pipeline.records.schema import KEY

QUARANTINED = "quarantine:"  # how the reason of a row that ingest set aside begins
NOTES = ("cluster", "duplicate_of", "contaminates", "reason", "stage")  # what a drop may say
NO_TEXT = pl.lit(None, pl.String)
TWICE, STRAY = "twice", "stray"


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What became of each row: `at_N` is its place in the notes, -1 while the row is open.

    Rows with the same verdict share one note, so millions of rows need few strings.
    """

    at_N: NDArray[np.int32]
    notes: list[pl.DataFrame]

    @classmethod
    def none(cls, rows: int) -> Self:
        """All rows are open."""
        return cls(at_N=np.full(rows, -1, np.int32), notes=[])

    @property
    def open(self) -> Ints:
        return np.flatnonzero(self.at_N < 0)

    def assign(self, rows: Ints, notes: pl.DataFrame, which: Ints | int = 0) -> None:
        """Assign open rows by `which` of the notes each."""
        assert (self.at_N[rows] < 0).all(), "assigned twice"
        self.at_N[rows] = sum(n.height for n in self.notes) + which
        self.notes.append(notes)

    def assign_each(self, notes: pl.DataFrame) -> None:
        """Assign the open rows `at` by a note each."""
        own = notes.select("verdict", *NOTES)
        self.assign(notes["at"].to_numpy(), own, np.arange(notes.height))

    def still(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Those of the rows `at` that are still open."""
        return rows.filter(self.at_N[rows["at"].to_numpy()] < 0)

    def heads(self) -> pl.Series:
        """The ids, or names of clusters, that notes give as what stays in the place of a row."""
        said = [n.select(pl.coalesce("cluster", "duplicate_of")) for n in self.notes]
        return (
            pl.concat(said).to_series().drop_nulls().unique()
            if said
            else pl.Series([], dtype=pl.String)
        )

    def columns(self) -> pl.DataFrame:
        """Verdict and notes of every row."""
        assert not len(self.open), "a row has no verdict"
        return pl.concat(self.notes)[self.at_N]


def note(verdict: str, stage: str, reason: str | pl.Series | None = None) -> pl.DataFrame:
    """A note that says no more than a reason, or one for each reason."""
    reasons = reason if isinstance(reason, pl.Series) else pl.Series([reason], dtype=pl.String)
    return (
        reasons.alias("reason")
        .to_frame()
        .select(
            pl.lit(verdict).alias("verdict"),
            *[NO_TEXT.alias(c) for c in NOTES[:3]],
            "reason",
            pl.lit(stage).alias("stage"),
        )
    )


def notes_of(drops: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All that cleaning said, in one table."""
    notes = pl.DataFrame(schema=dict.fromkeys(KEY + NOTES, pl.String) | {"row": pl.Int64})
    for frame in drops:
        missing = [NO_TEXT.alias(c) for c in NOTES if c not in frame.columns]
        whole = frame.with_columns(missing)
        notes.vstack(
            whole.select(pl.col(c).cast(t) for c, t in notes.schema.items()), in_place=True
        )
    return notes.with_columns(
        pl.col("reason").fill_null("dropped"),
        pl.col("stage").fill_null("clean"),
        verdict=pl.lit("dropped"),
    ).with_row_index("number")


def clean(table: pl.DataFrame, notes: pl.DataFrame, verdicts: Verdicts) -> pl.DataFrame:
    """Assign what was quarantined, what cleaning dropped, and copies.

    Args:
        table: `schema.KEY` and `reason`; with a row, all rows of its id.
        notes: of cleaning, see `notes_of`; of no other ids than the table's.
        verdicts: of the rows of the table, all open.

    Returns:
        What is wrong with the tables, for `refuse`: `what`, the number of `rows`, and the first of
        them with its `place` in the table or among the notes.
    """
    keys = table.select(*KEY).with_row_index("at")
    # Hashes are cheap to compare; the few rows that share one are then compared by id.
    shared = keys.filter(keys["id"].hash().is_duplicated()).filter(pl.col("id").is_duplicated())
    twice = shared.filter(pl.struct(KEY).is_duplicated())

    broken = np.flatnonzero(table["reason"].str.starts_with(QUARANTINED).fill_null(False))
    verdicts.assign_each(quarantined(table, broken))
    first = notes.unique(KEY, keep="first", maintain_order=True)
    found = keys.join(first, on=KEY, maintain_order="left")
    stray = first.join(keys, on=KEY, how="anti", maintain_order="left")
    verdicts.assign_each(verdicts.still(found))

    still = verdicts.still(shared).sort("source", "row")
    leaks = notes.filter(pl.col("contaminates").is_not_null()).unique("id", maintain_order=True)
    leaked = still.select("at", "id").join(leaks, on="id", maintain_order="left")
    verdicts.assign_each(leaked)
    later = verdicts.still(still).filter(~pl.col("id").is_first_distinct())
    copy = note("dropped", "duplicates", "exact_duplicate").drop("duplicate_of")
    verdicts.assign_each(later.select("at", duplicate_of="id").join(copy, how="cross"))
    return pl.concat([_problem(TWICE, twice, "at"), _problem(STRAY, stray, "number")])


def quarantined(table: pl.DataFrame, rows: Ints) -> pl.DataFrame:
    """The notes of rows `at` that ingest set aside."""
    causes = note("quarantined", "ingest", table["reason"].gather(rows))
    return causes.with_columns(at=pl.Series(rows, dtype=pl.UInt32))


def refuse(problems: pl.DataFrame) -> None:
    """Raise for tables that do not fit together.

    Args:
        problems: of `clean`, of all rows together or of some rows after others.
    """
    found = problems.sort("place").group_by("what").agg(pl.sum("rows"), pl.first(*KEY))
    told = {row["what"]: row for row in found.to_dicts()}
    if first := told.get(TWICE):
        key = ", ".join(f"{c}={first[c]}" for c in KEY)
        raise ValueError(f"{first['rows']:,} rows of scores share their key, first {key}.")
    if first := told.get(STRAY):
        raise ValueError(
            f"{first['rows']:,} dropped rows are not among the scores, first id {first['id']} "
            f"of {first['source']}: make both from the same data."
        )


def _problem(what: str, rows: pl.DataFrame, place: str) -> pl.DataFrame:
    told = {"what": pl.lit(what), "rows": pl.lit(rows.height, pl.Int64)}
    return rows.head(1).select(*KEY, **told, place=pl.col(place).cast(pl.Int64))
