"""Rows: from the scores of unique records to a line for every input row, a part for every range.

Records are scored shard by shard and a few shards together are kept in a table by id, in a store
inside the step's working folder: a run that was killed goes on with the shards that were not
scored. A range of rows then reads the tables of the shards that reach into it. Copies of a record
share its score, also where it was scored with another shard.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import polars as pl

from gristmill.pipeline.observe.observe import Observed
from gristmill.pipeline.records import ranges
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.ranges import ORDER, Range, Ranges
from gristmill.pipeline.records.schema import KEY, SCORES, check
from gristmill.pipeline.records.store import Entry, Part, Step, passes, write_table

Score = Callable[[Observed], pl.DataFrame]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a pool that was observed.

    Attributes:
        pool: what was observed of its unique records.
        score: gives `id`, `score`, `reason`, `tokens` and parts of the score of records.
        whole: the records are scored together, not shard by shard.
    """

    pool: Observed
    score: Score
    whole: bool

    @property
    def dataset(self) -> Dataset:
        return self.pool.dataset

    def parts(self, work: Path) -> list[Part]:
        """A table for every range of the rows, in order."""
        entry = passes(work).run(Step(name="by-id", version=1), self._by_id())
        records = Scored(entry=entry, rows=self)

        def write(one: Range, path: Path) -> None:
            write_table(records.spread(one), path)

        return [
            Part(name=f"scores-{one.number:05d}.parquet", write=partial(write, one))
            for one in Ranges(dataset=self.dataset)
        ]

    @cached_property
    def groups(self) -> list[list[int]]:
        """The shards that are kept together, by their numbers."""
        sizes = [len(ids) for ids in self.pool.ids]
        if self.whole:
            return [list(range(len(sizes)))]
        groups: list[list[int]] = [[]]
        held = 0
        for number, size in enumerate(sizes):
            if held and held + size > ranges.ROWS:
                groups.append([])
                held = 0
            groups[-1].append(number)
            held += size
        return groups

    def _by_id(self) -> list[Part]:
        shards = list(self.pool.split())

        def write(group: Sequence[int], path: Path) -> None:
            units = [self.pool] if self.whole else [shards[i] for i in group]
            scored = [self.score(unit) for unit in units if unit.rows]
            write_table(pl.concat(scored, how="diagonal") if scored else _nothing(), path)

        return [
            Part(name=f"group-{g:05d}.parquet", write=partial(write, group))
            for g, group in enumerate(self.groups)
        ]

    def copies(self) -> pl.Series:
        """The ids of records that also lie in a shard which they were not scored with."""
        found = [pl.Series("id", [], pl.String)]
        for shard, ids in zip(self.pool.shards, self.pool.ids, strict=True):
            here = self.dataset.block(shard, ["id"])["id"]
            if here.len() > len(ids):
                found.append(here.filter(~here.is_in(ids.implode())))
        return pl.concat(found).unique()


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scores of unique records, by id.

    Attributes:
        entry: a table for each group of shards.
        rows: whose records they are.
    """

    entry: Entry
    rows: Rows

    @cached_property
    def _columns(self) -> pl.DataFrame:
        """An empty table of all columns: a group may lack what others have."""
        empty = (pl.DataFrame(schema=pl.read_parquet_schema(p)) for p in self.entry.shards)
        return pl.concat(empty, how="diagonal_relaxed")

    @cached_property
    def _group(self) -> dict[Path, Path]:
        """The table of each shard."""
        shards = self.rows.pool.shards
        tables = self.entry.shards
        return {shards[i]: tables[g] for g, of in enumerate(self.rows.groups) for i in of}

    @cached_property
    def _copied(self) -> pl.DataFrame:
        """The scores of records that have copies in other shards."""
        copies = self.rows.copies().implode()
        found = [pl.scan_parquet(p).filter(pl.col("id").is_in(copies)) for p in self.entry.shards]
        return pl.concat([self._columns, *pl.collect_all(found)], how="diagonal_relaxed")

    def spread(self, one: Range) -> pl.DataFrame:
        """The rows of a range."""
        known = one.records(["id"])["id"]
        ids = known.implode()
        tables = dict.fromkeys(self._group[shard] for shard in one.shards)
        found = [pl.scan_parquet(p).filter(pl.col("id").is_in(ids)).collect() for p in tables]
        scores = pl.concat([self._columns, *found], how="diagonal_relaxed")
        if not known.is_in(scores["id"].implode()).all():
            more = self._copied.join(scores, on="id", how="anti")
            scores = pl.concat([scores, more], how="vertical_relaxed")
        return spread(one, scores)


def spread(one: Range, scores: pl.DataFrame) -> pl.DataFrame:
    """The rows of a range: copies share a score, rows in quarantine have their reason.

    Args:
        one: the range.
        scores: at least of its records, by id.
    """
    kind = pl.lit(one.dataset.kind)
    keys = one.records(KEY).with_columns(kind=kind)
    told = keys.join(scores, on="id", how="left", validate="m:1", maintain_order="left")
    bad = one.quarantine().select(*KEY, kind=kind, reason=pl.lit("quarantine: ") + pl.col("reason"))
    return check(pl.concat([told, bad], how="diagonal"), SCORES, "scores").sort(*ORDER)


def _nothing() -> pl.DataFrame:
    columns = ("id", "score", "reason", "tokens")
    return pl.DataFrame(schema={c: SCORES[c] for c in columns})
