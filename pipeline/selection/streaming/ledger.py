"""The ledger of a table of scores that memory need not hold: a part for every unit of the table.

A rule that is not written for rows in blocks, and ids that are no content ids, need the table in
memory; it is told, and the ledger has the same parts and the same bytes.
"""

# N = rows of a unit

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Rule, settings_of
from gristmill.pipeline.numerics.blocks import Walk
from gristmill.pipeline.records.schema import SCORES
from gristmill.pipeline.records.store import Entry, Part, Step, Store, passes, write_table
from gristmill.pipeline.selection import possible
from gristmill.pipeline.selection.selection import (
    Budget,
    concluded,
    demand_columns,
    select,
    unscored,
)
from gristmill.pipeline.selection.shortfall import SHORT, shortfalls_in_parts, tells
from gristmill.pipeline.selection.streaming import scores as units
from gristmill.pipeline.selection.streaming.candidates import DOWN, Candidates
from gristmill.pipeline.selection.streaming.fates import Fates
from gristmill.pipeline.selection.streaming.scores import NeedsMemoryError, Scores
from gristmill.pipeline.selection.streaming.stored import Stored, save
from gristmill.pipeline.selection.verdicts import QUARANTINED, Verdicts, note, quarantined

VERSION = 1
LOG = logging.getLogger(__name__)


def decided_tables(
    scores: Sequence[Path], store: Store, *, rule: Rule, budget: Budget | None = None
) -> Entry:
    """The same as `select_tables`, of a rule whose settings name what rows have.

    Raises:
        ValueError: no row has a value that the rule names.
    """
    table = pl.scan_parquet(list(scores))
    for column in set(rule.named) & set(table.collect_schema().names()):
        possible.refuse(possible.nameless(rule, table.select(pl.col(column).unique()).collect()))
    return select_tables(scores, store, rule=rule, budget=budget)


def select_tables(
    scores: Sequence[Path],
    store: Store,
    *,
    rule: Rule,
    budget: Budget | None = None,
    drops: Sequence[Path] = (),
    stage: str = "select",
) -> Entry:
    """Decide on every row of a table of scores, in memory that does not grow with the table.

    Args:
        scores: Parquet files with the columns of `schema.SCORES`, one table in this order.
        store: where the ledger is made; a run that was killed goes on where it stood.
        rule: puts the candidates in order; it may read the columns of the table.
        budget: cuts the order; None keeps all of it.
        drops: Parquet files of rows dropped by cleaning, as for `selection.select`.
        stage: the ledger's name for this step.

    Returns:
        An entry of `ledger-<unit>.parquet`, the rows of `selection.select` in the same order; its
        note says under `shortfall.SHORT` what could not be kept of what was asked.
    """
    table = Scores(tuple(scores))
    demand_columns(rule, table.columns)
    step = Step(
        name="ledger",
        version=VERSION,
        settings={
            "rule": settings_of(rule),
            "budget": vars(budget) if budget else None,
            "stage": stage,
            "rows": units.UNIT_ROWS,
        },
        inputs={
            **{f"scores-{i:05d}": store.file_hash(p) for i, p in enumerate(scores)},
            **{f"drops-{i:05d}": store.file_hash(p) for i, p in enumerate(drops)},
        },
    )
    ledger = Ledger(table=table, rule=rule, budget=budget, drops=tuple(drops), stage=stage)
    return made(store, step, lambda _: ledger, rule)


def made(store: Store, step: Step, asked: "Callable[[Store], Ledger]", rule: Rule) -> Entry:
    """The entry of a ledger.

    Args:
        store: where it is made.
        step: its name.
        asked: gives what is asked for; its tables may lie in the store that it is given, which goes
            when the ledger is there.
        rule: of the ledger.
    """

    def note(work: Path) -> dict[str, Any]:
        return asked(passes(work)).note(work)

    def parts(work: Path) -> list[Part]:
        inside = passes(work)
        return asked(inside).parts(inside)

    def in_memory(why: str) -> Entry:
        return store.run(step, lambda work: asked(passes(work)).in_memory(why), note=note)

    if type(rule).streamed is Rule.streamed:
        return in_memory(f"the rule {type(rule).__name__} needs it: {rule.in_memory}")
    try:
        return store.run(step, parts, note=note)
    except NeedsMemoryError as error:
        return in_memory(str(error))


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What is asked for.

    Attributes:
        table: of scores.
        rule: puts the candidates in order.
        budget: cuts the order.
        drops: tables of what fell before.
        stage: the ledger's name for this step.
        finish: what becomes of the ledger of a unit, given the unit's number.
        earlier: sentences on what could not be kept before.
    """

    table: Scores
    rule: Rule
    budget: Budget | None
    drops: tuple[Path, ...]
    stage: str
    finish: Callable[[int, pl.DataFrame], pl.DataFrame] = lambda _, unit: unit
    earlier: tuple[str, ...] = ()

    def in_memory(self, why: str) -> list[Part]:
        """The parts, of a table that is read whole."""
        if self.table.units > 1:
            LOG.warning(
                "the scores are read into memory, all %s rows: %s.", f"{self.table.rows:,}", why
            )
        whole = pl.concat([self.table.read(u, self.table.columns) for u in range(self.table.units)])
        decided = select(
            whole,
            rule=self.rule,
            budget=self.budget,
            drops=[pl.read_parquet(p) for p in self.drops],
            stage=self.stage,
        )
        return self._parts(lambda u: decided.slice(u * units.UNIT_ROWS, units.UNIT_ROWS))

    def note(self, work: Path) -> dict[str, Any]:
        """What could not be kept of what was asked."""
        read = ["verdict", "stage", "reason", "score", "tokens"]
        needs = (self.rule.groups or self.rule.needs) if tells(self.rule) else ()

        def parts() -> Iterator[pl.DataFrame]:
            for u, path in enumerate(sorted(work.glob("ledger-*"))):
                part = pl.read_parquet(path, columns=read)
                own = self.table.read(u, [c for c in needs if c not in part.columns])
                yield part.hstack(own) if own.width else part

        told = shortfalls_in_parts(parts(), self.rule, self.budget, stage=self.stage)
        return {SHORT: [*self.earlier, *told]}

    def parts(self, store: Store) -> list[Part]:
        """A part for every unit; what they are made from is made when the first one is."""
        return self._parts(Passes(ledger=self, store=store).unit)

    def _parts(self, unit: Callable[[int], pl.DataFrame]) -> list[Part]:
        def write(u: int, path: Path) -> None:
            write_table(self.finish(u, unit(u)).rechunk(), path)

        return [
            Part(name=f"ledger-{u:05d}.parquet", write=partial(write, u))
            for u in range(self.table.units)
        ]


@dataclass(frozen=True, kw_only=True)
class Passes:
    """The passes over the table, in a store of their own that goes when the ledger is there."""

    ledger: Ledger
    store: Store

    @cached_property
    def fates(self) -> Fates:
        return Fates(store=self.store, scores=self.ledger.table, drops=self.ledger.drops)

    @cached_property
    def candidates(self) -> Candidates:
        found = Candidates(
            store=self.store,
            scores=self.ledger.table,
            fates=self.fates,
            rule=self.ledger.rule,
            budget=self.ledger.budget,
        )
        _ = found.runs
        self.fates.forget_ids()
        return found

    @cached_property
    def ranked(self) -> Stored:
        made = self.candidates
        return Stored(
            store=self.store,
            name="candidates",
            runs=made.runs,
            kept=made.columns,
            groups=made.names,
            score=DOWN,
            counts=made.counts,
            parent=None,
            orders=count(),
        )

    @cached_property
    def orders(self) -> tuple[list[Path], list[Path]]:
        """For each range of the candidates their places in the rule's order, and their weights.

        A place is above 0 for a row that is kept, below 0 for one that the budget does not hold,
        and 0 for one that the rule leaves out. No weights: all are 1.
        """
        budget = self.ledger.budget
        remaining = math.inf if budget is None else budget.amount(self.candidates.open)
        preference = self.ledger.rule.streamed(self.ranked, remaining)
        assert preference is not None, "it was asked whether the rule is streamed"

        def walk(path: Path) -> None:
            path.mkdir()
            walk, done = Walk(remaining), 0
            for number, block in enumerate(preference.rows):
                taken = preference.take(block)
                at = (
                    np.arange(len(block))
                    if taken.taken_N is None
                    else np.flatnonzero(taken.taken_N)
                )
                order_N = np.zeros(len(block), np.int64)
                spent = walk.left < self.candidates.cheapest  # no row's cost need be read
                kept_N = np.zeros(len(at), bool) if spent else walk.fitting(block.cost_N[at])
                places = np.arange(done + 1, done + len(at) + 1)
                order_N[at] = np.where(kept_N, places, -places)
                done += len(at)
                save(path / f"order-{number:05d}.npy", order_N)
                if taken.weight_N is not None:
                    save(path / f"weight-{number:05d}.npy", taken.weight_N)

        entry = self.store.run(Step(name="walk", version=1), [Part(name="walk", write=walk)])
        rows = preference.rows
        assert isinstance(rows, Stored)
        order, weight = (sorted(entry.path.glob(f"walk/{n}-*")) for n in ("order", "weight"))
        return rows.back(order, "order"), rows.back(weight, "weight") if weight else []

    def unit(self, u: int) -> pl.DataFrame:
        """The ledger of a unit."""
        of, rule, stage = self.ledger.table, self.ledger.rule, self.ledger.stage
        order, weight = self.orders
        back, rows = self.ranked.runs.back, of.rows_of(u)
        rank_N, order_N = back(u, rows, self.ranked.ranks), back(u, rows, order)

        wanted = [c for c in of.columns if c in SCORES or c == "cluster" or c.startswith("score_")]
        table = of.read(u, wanted)
        verdicts = Verdicts.none(rows)
        broken = table["reason"].str.starts_with(QUARANTINED).fill_null(False)
        verdicts.assign_each(quarantined(table, np.flatnonzero(broken)))
        verdicts.assign_each(self.fates.of(u))
        unscored(table, verdicts, stage)
        verdicts.assign(np.flatnonzero(order_N > 0), note("kept", stage))
        verdicts.assign(np.flatnonzero(order_N < 0), note("dropped", stage, "below_budget"))
        verdicts.assign(verdicts.open, note("dropped", stage, rule.exclusion_reason))
        stays_N = np.zeros(rows, bool)
        stays_N[self.fates.stays(u)] = True
        weight_N = back(u, rows, weight) if weight else np.ones(rows)
        places = {
            "rank": _where(rank_N > 0, rank_N.astype(np.int64)),
            "order": _where(order_N != 0, np.abs(order_N)),
            "weight": _where(order_N > 0, weight_N),
        }
        return concluded(table, verdicts, places, pl.Series(stays_N))


def _where(here_N: np.ndarray[Any, Any], values_N: np.ndarray[Any, Any]) -> pl.Series:
    """Values, and null elsewhere."""
    return pl.select(pl.when(pl.Series(here_N)).then(pl.Series(values_N))).to_series()
