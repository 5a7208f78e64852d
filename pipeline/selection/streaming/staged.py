"""A stage of a run as a ledger: its table of all input rows is made range by range.

The table has a line for every row of the pool, whatever became of it: what the stage scored has its
score, what fell before has none, what could not be read has the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.ranges import Range, Ranges
from gristmill.pipeline.records.schema import KEY, LEDGER
from gristmill.pipeline.records.store import Entry, Part, Step, Store, write_table
from gristmill.pipeline.selection import possible
from gristmill.pipeline.selection.cascade import demand_scores, followed, opened, rows_of, scored
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.selection import NOT_FINITE, Budget, demand_columns
from gristmill.pipeline.selection.shortfall import SHORT
from gristmill.pipeline.selection.streaming.ledger import Ledger
from gristmill.pipeline.selection.streaming.scores import Scores
from gristmill.pipeline.selection.verdicts import NOTES


@dataclass(frozen=True, kw_only=True)
class Staged:
    """What a stage of a run decides on.

    Attributes:
        dataset: the pool.
        name: of the stage.
        scores: of the scorers of the run up to this stage, by name.
        by: the one that decides.
        rule: puts the candidates in order.
        budget: cuts the order.
        drops: what cleaning dropped.
        before: the ledger after the stage before; None: this is the first.
        done: names of the stages before, in order.
    """

    dataset: Dataset
    name: str
    scores: Mapping[str, Entry]
    by: str
    rule: Rule
    budget: Budget | None
    drops: Sequence[Entry]
    before: Entry | None = None
    done: tuple[str, ...] = ()

    def ledger(self, store: Store) -> Ledger:
        """What is asked for, of tables that are made in a store."""
        table = store.run(Step(name="table", version=1), self._parts("table", self._table))
        found = Scores(tuple(table.shards))
        demand_columns(self.rule, found.columns)
        drops = [p for e in self.drops for p in e.intact().shards]
        if self.before is not None:
            fell = store.run(Step(name="fell", version=1), self._parts("fell", self._fell))
            drops = fell.shards
        return Ledger(
            table=found,
            rule=self.rule,
            budget=self.budget,
            drops=tuple(drops),
            stage=self.name,
            finish=self._finish,
            earlier=tuple(self.before.note.get(SHORT, ())) if self.before is not None else (),
        )

    @cached_property
    def columns(self) -> possible.RecordColumns:
        """What the rule may read of the records."""
        return possible.RecordColumns(dataset=self.dataset, rule=self.rule)

    def nameless(self) -> list[str]:
        """The values that the rule names and that no row has, a sentence each."""
        if not self.rule.named:
            return []
        found = pl.DataFrame()
        for one in Ranges(dataset=self.dataset):
            rows = self.columns.of(one.records(self.columns.read))
            there = rows.select(c for c in rows.columns if c in self.rule.named)
            found = pl.concat([found, there], how="diagonal").unique()
        return possible.nameless(self.rule, found)

    def _parts(self, name: str, table: Callable[[Range], pl.DataFrame]) -> list[Part]:
        def write(one: Range, path: Path) -> None:
            write_table(table(one), path)

        return [
            Part(name=f"{name}-{one.number:05d}.parquet", write=partial(write, one))
            for one in Ranges(dataset=self.dataset)
        ]

    def _table(self, one: Range) -> pl.DataFrame:
        rows = opened(one) if self.before is None else rows_of(one.of(self.before.shards))
        found = scored(rows, self._gathered(one), self.name)
        extra = self.columns.of(one.records(self.columns.read))
        more = [c for c in extra.columns if c in self.rule.needs and c not in found.columns]
        extra = extra.select(*KEY, *more)
        return found.join(extra, on=KEY, how="left", validate="1:1", maintain_order="left")

    def _gathered(self, one: Range) -> pl.DataFrame:
        """The scores of the method that decides, with every method's beside them."""
        if not self.scores:  # nobody was asked: all are alike
            return opened(one).with_columns(score=pl.lit(0.0))
        table = one.of(self.scores[self.by].shards)
        if len(self.scores) == 1:
            return table
        for name, entry in self.scores.items():
            own = one.of(entry.shards, [*KEY, "score"]).rename({"score": f"score_{name}"})
            table = table.join(own, on=KEY, how="left", validate="1:1", maintain_order="left")
        return table

    def _fell(self, one: Range) -> pl.DataFrame:
        assert self.before is not None, "something was decided before"
        read = [*KEY, *NOTES, "verdict"]
        return one.of(self.before.shards, read).filter(verdict="dropped").drop("verdict")

    def _finish(self, unit: int, ledger: pl.DataFrame) -> pl.DataFrame:
        lost = pl.col("score").is_null() & (pl.col("reason") == f"unscored: {NOT_FINITE}")
        demand_scores(ledger.filter(lost), self.name)
        if self.before is None:
            return ledger
        earlier = pl.concat(Scores(tuple(self.before.shards)).slices(unit))
        return followed(earlier, ledger, self.done)


@dataclass(frozen=True, kw_only=True)
class Unscored(Staged):
    """A run without a method: every row that cleaning leaves is kept."""

    def _finish(self, unit: int, ledger: pl.DataFrame) -> pl.DataFrame:
        return ledger.with_columns(pl.lit(None, LEDGER[c]).alias(c) for c in ("score", "rank"))


def all_that_is_left(dataset: Dataset, drops: Sequence[Entry]) -> Staged:
    """What a run without scores decides on."""
    return Unscored(
        dataset=dataset, name="clean", scores={}, by="", rule=Top(), budget=None, drops=drops
    )
