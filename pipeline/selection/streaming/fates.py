"""Who falls before anything is ranked: dropped rows, leaks and exact copies, found by id.

Rows are put in order of their ids, so that all rows of an id are in one range, whichever units they
stand in; what cleaning said is read along by the same ranges. Each range is then decided by the
same function as a table in memory (`verdicts.clean`), of the few rows that share an id or were
dropped. What is found is filed by place in the table (`at`), in row groups so small that a unit
reads little more than its own.
"""

# N = rows of a unit or range

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.numerics.blocks import ID
from gristmill.pipeline.numerics.keys import Keys, packed, sorted_by, unpacked
from gristmill.pipeline.numerics.ordering import Ints, tied
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.store import Entry, Part, Step, Store, remove
from gristmill.pipeline.selection.streaming import scores as units
from gristmill.pipeline.selection.streaming.runs import TURN, Runs, column, write_run
from gristmill.pipeline.selection.streaming.scores import NeedsMemoryError, Scores
from gristmill.pipeline.selection.verdicts import (
    NOTES,
    QUARANTINED,
    Verdicts,
    clean,
    note,
    notes_of,
    refuse,
)

GROUP_ROWS = 1 << 14  # of a filed table's row groups
_SOURCES = "sources.json"
_FATE: Mapping[str, Any] = {"at": pl.Int64} | dict.fromkeys(("verdict", *NOTES), pl.String)
_CONTENT_ID = "^[0-9a-f]{32}$"  # a cluster may bear a name that is no id, which no row has


@dataclass(frozen=True)
class Fates:
    """What falls to cleaning and to copies.

    Attributes:
        store: of the stages.
        scores: the table.
        drops: tables of what cleaning dropped, keyed by id, source and row.
    """

    store: Store
    scores: Scores
    drops: Sequence[Path] = field(default=())

    @cached_property
    def runs(self) -> Runs:
        """The rows in order of their ids."""
        parts = [numbered("run", u, self._run) for u in range(self.scores.units)]
        entry = self.store.run(Step(name="ids", version=1), parts)
        return Runs(paths=tuple(entry.path / p.name for p in parts), keys=ID)

    def ids(self, unit: int) -> tuple[Keys, Keys]:
        """The ids of a unit's rows."""
        path = self.runs.paths[unit]
        turn = column(path, TURN)
        found = []
        for name in ID:
            key_N = np.empty(len(turn), np.uint64)
            key_N[turn] = column(path, name)
            found.append(key_N)
        high, low = found
        return high, low

    def of(self, unit: int) -> pl.DataFrame:
        """The rows `at` of a unit that fell, with verdict and notes."""
        return self._of(unit, self._fates, _FATE)

    def stays(self, unit: int) -> Ints:
        """The rows of a unit in whose place other rows went."""
        found = self._of(unit, self._stays, {"at": pl.Int64})
        return found["at"].to_numpy().astype(np.int64)

    def forget_ids(self) -> None:
        """Free the disk: the ids are read no more once the stays and the candidates are known."""
        _ = self._stays
        if "runs" in vars(self):
            for path in self.runs.paths:
                remove(path)

    @cached_property
    def _fates(self) -> list[Path]:
        return _filled(self._found, "fates")

    @cached_property
    def _stays(self) -> list[Path]:
        return _filled(self._heads, "stays")

    def _of(self, unit: int, files: Sequence[Path], schema: Mapping[str, Any]) -> pl.DataFrame:
        """The rows of a unit in tables in order of `at`."""
        start = unit * units.UNIT_ROWS
        here = pl.col("at").is_between(start, start + self.scores.rows_of(unit), closed="left")
        if not files:
            return pl.DataFrame(schema=schema)
        found = pl.scan_parquet(list(files)).filter(here).collect()
        return found.with_columns(pl.col("at") - start).sort("at")

    def _run(self, unit: int, path: Path) -> None:
        frame = self.scores.read(unit, [*KEY, "reason"])
        ids = packed(frame["id"])
        if ids is None:
            raise NeedsMemoryError("its ids are not the 32 hex digits of a content id")
        names = frame["source"].drop_nulls().unique().sort()
        codes = frame["source"].cast(pl.Enum(names)).to_physical().cast(pl.UInt32) + 1
        broken = frame["reason"].str.starts_with(QUARANTINED).fill_null(False)
        rest = {"source": codes.fill_null(0), "row": frame["row"], "broken": broken}
        if frame["row"].null_count():
            raise NeedsMemoryError("a row of it has no number")
        columns = dict(zip(ID, ids, strict=True))
        write_run(path, columns | {n: c.to_numpy() for n, c in rest.items()}, ID)
        (path / _SOURCES).write_text(json.dumps(names.to_list()), "utf-8")

    @cached_property
    def _dealt(self) -> list[Path]:
        """What cleaning said, each piece in order of the ids."""
        files = Scores(tuple(self.drops))
        if not self.drops or not files.rows:
            return []
        parts = [numbered("drops", u, self._deal) for u in range(files.units)]
        return self.store.run(Step(name="drops", version=1), parts).shards

    def _deal(self, unit: int, path: Path) -> None:
        files = Scores(tuple(self.drops))
        path.mkdir()
        notes = notes_of(list(files.slices(unit)))
        if packed(notes["id"]) is None:
            raise NeedsMemoryError("a dropped row's id is not the 32 hex digits of a content id")
        first = unit * units.UNIT_ROWS
        _file(notes.with_columns(pl.col("number") + first).sort("id"), path / "notes.parquet")

    @cached_property
    def _found(self) -> Entry:
        """What falls in each range, the ids that stay in their place, and what does not fit."""

        def parts(_: Path) -> list[Part]:
            return [numbered("range", r, self._decide) for r in range(self.runs.ranges)]

        entry = self.store.run(Step(name="fates", version=1), parts)
        refuse(pl.concat([pl.read_parquet(f) for f in entry.shards if f.stem == "problems"]))
        return entry

    def _decide(self, r: int, path: Path) -> None:
        path.mkdir()
        rows = self.runs.read(r, [*ID, TURN])
        turn = sorted_by((rows["high"], rows["low"]))
        seen_N = np.zeros(len(turn), bool)
        seen_N[turn] = tied(rows["high"][turn], rows["low"][turn])
        notes = self._between(r, self._dealt).sort("number") if self._dealt else notes_of([])
        if notes.height:
            dropped = packed(notes["id"])
            assert dropped is not None, "they were packed when they were dealt"
            seen_N |= np.isin(rows["high"], dropped[0])
        which = np.flatnonzero(seen_N)
        at_N = self.runs.run_of(r)[which] * units.UNIT_ROWS + rows[TURN][which]
        which, at_N = which[np.argsort(at_N)], np.sort(at_N)
        table = self._rows(r, which, rows)
        verdicts = Verdicts.none(table.height)
        problems = clean(table, notes, verdicts)
        places = pl.Series(at_N, dtype=pl.Int64)
        if problems.height:
            twice = problems["what"] == "twice"
            there = places.gather(problems["place"].clip(0, max(0, len(places) - 1)))
            problems = problems.with_columns(place=pl.when(twice).then(there).otherwise("place"))
        fell = np.flatnonzero(verdicts.at_N >= 0)
        notes_N = pl.concat([note("kept", "").clear(), *verdicts.notes])[verdicts.at_N[fell]]
        fates = notes_N.with_columns(at=places.gather(fell)).filter(pl.col("verdict") == "dropped")
        heads = verdicts.heads().to_frame("id").filter(pl.col("id").str.contains(_CONTENT_ID))
        _file(fates.select(*_FATE), path / "fates.parquet")
        _file(heads.sort("id"), path / "heads.parquet")
        _file(problems, path / "problems.parquet")

    def _rows(self, r: int, which: Ints, rows: dict[str, Keys]) -> pl.DataFrame:
        """The key and reason of some rows of a range."""
        rest = self.runs.read(r, ["source", "row", "broken"])
        names = [json.loads((p / _SOURCES).read_text("utf-8")) for p in self.runs.paths]
        starts = np.cumsum([0, *(len(n) + 1 for n in names)])[self.runs.run_of(r)[which]]
        every = pl.Series([name for own in names for name in (None, *own)], dtype=pl.String)
        reason = pl.when(pl.Series(rest["broken"][which])).then(pl.lit(QUARANTINED))
        return pl.DataFrame(
            {
                "id": unpacked(rows["high"][which], rows["low"][which]),
                "source": every.gather(starts + rest["source"][which]),
                "row": rest["row"][which],
            }
        ).with_columns(reason=reason)

    @cached_property
    def _heads(self) -> Entry:
        """The rows in whose place others went, by range."""

        def parts(_: Path) -> list[Part]:
            ranges = self.runs.ranges if _filled(self._found, "heads") else 0
            return [numbered("range", r, self._stay) for r in range(ranges)]

        return self.store.run(Step(name="stays", version=1), parts)

    def _stay(self, r: int, path: Path) -> None:
        path.mkdir()
        rows = self.runs.read(r, [*ID, TURN])
        heads = self._between(r, _filled(self._found, "heads"))["id"]
        wanted = packed(heads)
        assert wanted is not None, "only ids were filed"
        near = np.flatnonzero(np.isin(rows["high"], wanted[0]))
        ids = unpacked(rows["high"][near], rows["low"][near])
        near = near[ids.is_in(heads.implode()).to_numpy()]
        at_N = np.sort(self.runs.run_of(r)[near] * units.UNIT_ROWS + rows[TURN][near])
        _file(pl.DataFrame({"at": at_N}, schema={"at": pl.Int64}), path / "stays.parquet")

    def _between(self, r: int, files: Sequence[Path]) -> pl.DataFrame:
        """The rows of tables in order of `id` whose ids lie in a range."""
        low, high = self.runs.span(r)
        ids = [pl.col("id") >= _text(low)] if low else []
        ids += [pl.col("id") < _text(high)] if high else []
        return pl.scan_parquet(list(files)).filter(pl.lit(True), *ids).collect()


def numbered(name: str, number: int, write: Callable[[int, Path], None]) -> Part:
    """One of several parts that are written alike."""
    return Part(name=f"{name}-{number:05d}", write=lambda path: write(number, path))


def _filled(entry: Entry, name: str) -> list[Path]:
    """The tables of that name that have rows."""
    return [f for f in entry.shards if f.stem == name and _rows(f)]


def _text(edge: Sequence[np.uint64]) -> str:
    """The id at an edge."""
    return str(unpacked(np.array([edge[0]]), np.array([edge[1]]))[0])


def _file(frame: pl.DataFrame, path: Path) -> None:
    frame.write_parquet(path, compression="lz4", row_group_size=GROUP_ROWS, statistics=True)


def _rows(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())
