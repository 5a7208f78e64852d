"""The candidates in runs, best first: every open row with a score."""

# N = rows of a unit

import json
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.blocks import ID, group, measure
from gristmill.pipeline.numerics.keys import column_keys, ordered
from gristmill.pipeline.records.store import Part, Step, Store, write_text
from gristmill.pipeline.selection.selection import Budget, demand_tokens
from gristmill.pipeline.selection.streaming.fates import Fates, numbered
from gristmill.pipeline.selection.streaming.runs import Runs, write_run
from gristmill.pipeline.selection.streaming.scores import Scores
from gristmill.pipeline.selection.verdicts import QUARANTINED

DOWN = "down"  # a key that falls as the score rises
_TOLD = "told.json"


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What is ranked.

    Attributes:
        store: of the stages.
        scores: the table.
        fates: what falls before.
        rule: says which columns are kept.
        budget: says what a row costs.
    """

    store: Store
    scores: Scores
    fates: Fates
    rule: Rule
    budget: Budget | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a run beside its place."""
        more = [*map(measure, self.rule.measures), *map(group, self.rule.groups)]
        return (DOWN, *ID, *(["cost"] if self.counts else []), *dict.fromkeys(more))

    @property
    def counts(self) -> bool:
        """Whether a row costs its tokens."""
        return self.budget is not None and self.budget.tokens is not None

    @cached_property
    def runs(self) -> Runs:
        step = Step(name="candidates", version=2)
        entry = self.store.run(step, lambda _: self._parts())
        told = [json.loads(p.read_text("utf-8")) for p in sorted(entry.path.glob(f"*/{_TOLD}"))]
        uncounted = [t for t in told if t["uncounted"]]
        if uncounted:
            demand_tokens(sum(t["uncounted"] for t in uncounted), uncounted[0]["first"])
        return Runs(paths=tuple(sorted(entry.path.glob("run-*"))), keys=(DOWN, *ID))

    @cached_property
    def open(self) -> int:
        """How many rows are open: what a share is of."""
        return sum(t["open"] for t in self._told)

    @cached_property
    def cheapest(self) -> int:
        """What the cheapest candidate costs: a budget that holds less is spent."""
        if not self.counts:
            return 1
        return min((t["cheapest"] for t in self._told if t["cheapest"] is not None), default=0)

    @cached_property
    def _told(self) -> list[dict[str, Any]]:
        return [json.loads((p / _TOLD).read_text("utf-8")) for p in self.runs.paths]

    @cached_property
    def names(self) -> dict[str, list[str | None]]:
        """The groups that each column names, sorted; first null."""
        columns = [*dict.fromkeys((*self.rule.groups, *self.scores.texts(self.rule.measures)))]
        if not columns:
            return {}
        parts = [
            Part(name=f"names-{u:05d}.json", write=partial(self._name, u, columns))
            for u in range(self.scores.units)
        ]
        entry = self.store.run(Step(name="names", version=1), parts)
        found: dict[str, set[str]] = {c: set() for c in columns}
        for part in parts:
            for c, names in json.loads((entry.path / part.name).read_text("utf-8")).items():
                found[c] |= set(names)
        return {c: [None, *sorted(names)] for c, names in found.items()}

    def _name(self, unit: int, columns: list[str], path: Path) -> None:
        frame = self.scores.read(unit, columns).cast(pl.String)
        write_text(path, json.dumps({c: frame[c].drop_nulls().unique().to_list() for c in columns}))

    def _parts(self) -> list[Part]:
        return [numbered("run", u, self._run) for u in range(self.scores.units)]

    def _run(self, unit: int, path: Path) -> None:
        wanted = {"score", "reason", *self.rule.measures, *self.rule.groups}
        wanted |= {"tokens"} if self.counts else set()
        frame = self.scores.read(unit, [c for c in self.scores.columns if c in wanted])
        open_N = ~frame["reason"].str.starts_with(QUARANTINED).fill_null(False).to_numpy()
        open_N[self.fates.of(unit)["at"].to_numpy()] = False
        scored_N = frame["score"].is_finite().fill_null(False).to_numpy()
        at = np.flatnonzero(open_N & scored_N)
        here = frame[at]
        columns: dict[str, NDArray[Any]] = {
            DOWN: ordered(-here["score"].to_numpy()),
            **{name: key_N[at] for name, key_N in zip(ID, self.fates.ids(unit), strict=True)},
        }
        uncounted = 0
        if self.counts:
            uncounted = here["tokens"].null_count()
            columns["cost"] = here["tokens"].fill_null(0).to_numpy()
        for c in self.rule.measures:
            coded = here[c].dtype == pl.String
            columns[measure(c)] = (
                self._codes(here, c).astype(np.uint64) if coded else column_keys(here[c])
            )
        columns |= {group(c): self._codes(here, c) for c in self.rule.groups}
        write_run(path, columns, (DOWN, *ID), at)
        told = {
            "open": int(open_N.sum()),
            "cheapest": here["tokens"].min() if self.counts else None,
            "uncounted": uncounted,
            "first": self._id(unit, at[here["tokens"].is_null()][0]) if uncounted else None,
        }
        (path / _TOLD).write_text(json.dumps(told), "utf-8")

    def _id(self, unit: int, at: int) -> str:
        return str(self.scores.read(unit, ["id"])["id"][int(at)])

    def _codes(self, frame: pl.DataFrame, c: str) -> NDArray[np.uint32]:
        names = pl.Enum([n for n in self.names[c] if n is not None])
        codes = frame[c].cast(pl.String).cast(names).to_physical().cast(pl.UInt32) + 1
        return codes.fill_null(0).to_numpy()
