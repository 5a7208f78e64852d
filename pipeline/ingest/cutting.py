"""Cutting: the parts of one run, in order, by the driver or ahead of it by workers.

What a shard holds may depend on those before it: where several files make a pool, no two rows may
share a key (`keys`). So workers cut shards aside, each with the hashes of its keys, and the driver
takes them in one after the other; a shard in which a key is taken is cut anew.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from gristmill.pipeline.engine.counted import Counted
from gristmill.pipeline.engine.engine import Engine, Needs, Report, Unit
from gristmill.pipeline.engine.one_disk import demand_seen
from gristmill.pipeline.ingest.keys import Keys, hashed
from gristmill.pipeline.ingest.sharding import Group, name, rows_of, write_part
from gristmill.pipeline.records.disk import full_disk, no_space
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.sealed import read_sealed, seal
from gristmill.pipeline.records.store import Part, differing, listing, remove, write_text

AHEAD = ".ahead"  # where workers cut
HASHES = "keys.npy"
WORTH = 200_000  # rows from which on workers are begun: fewer are cut before they are there
BLOCK = 8_192  # rows of a unit of work, some seconds: a worker runs over what others cut
_CPU = Needs(device="cpu")


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """All cuts of one run, and the keys of what has been cut: no two rows may share one."""

    work: Path
    groups: Sequence[Group]
    keys: Keys = field(default_factory=Keys)
    held: list[str] = field(default_factory=list)  # parts whose keys are there, in order

    @property
    def parts(self) -> list[Part]:
        """The shards, in order, as parts of a step."""
        return [
            Part(name=name(group), write=functools.partial(self._write, number))
            for number, group in enumerate(self.groups)
        ]

    def cut_ahead(self, engine: Engine, progress: Callable[[int, int], None]) -> None:
        """Let workers cut what is missing, where that is worth it."""
        missing = [n for n, g in enumerate(self.groups) if not (self.work / name(g)).exists()]
        rows = sum(_rows(self.groups[n]) for n in missing)
        if rows < WORTH or engine.lanes(_CPU) < 2:
            remove(self.work / AHEAD)
            return
        units = [
            Unit(step="ingest", part=f"shards {some[0]} to {some[-1]}", settings=some)
            for some in self._blocks(missing)
        ]
        worker = Aside(groups=self.groups, folder=self.work / AHEAD, keyed=self._several)
        before = len(self.groups) - len(missing)
        told = Counted(progress=progress, total=len(self.groups), before=before)
        made = engine.map(units, worker, _CPU, told)
        demand_seen(engine, (path for paths in made for path in paths))

    def _blocks(self, missing: Sequence[int]) -> Iterator[list[int]]:
        some: list[int] = []
        rows = 0
        for number in missing:
            some.append(number)
            rows += _rows(self.groups[number])
            if rows >= BLOCK:
                yield some
                some, rows = [], 0
        if some:
            yield some

    @property
    def _several(self) -> bool:
        """Whether there are several files."""
        return self.groups[0][0][0] is not self.groups[-1][-1][0]

    def _write(self, number: int, path: Path) -> None:
        group = self.groups[number]
        if self._several:
            self._recall(number)
        if not self._taken(group, path):
            records, bad = rows_of(group)
            if self._several:
                self.keys.tell_apart(records)
            write_part(group, records, bad, path)
        if self._several:
            self.held.append(name(group))

    def _taken(self, group: Group, path: Path) -> bool:
        """Whether a worker has cut a part that no key of another forbids: then it is moved."""
        aside = self.work / AHEAD / name(group)
        if not aside.exists():
            return False
        if self._several:
            if not self.keys.take(np.load(aside / HASHES)):
                remove(aside)
                return False
            (aside / HASHES).unlink()
        aside.rename(path)
        return True

    def _recall(self, number: int) -> None:
        """Take in the keys of earlier parts that a run before this one has cut."""
        for group in self.groups[len(self.held) : number]:
            self.held.append(name(group))
            path = self.work / name(group) / "records.parquet"
            if path.exists():
                self.keys.add(pl.read_parquet(path, columns=list(KEY)).iter_rows())


@dataclass(frozen=True, kw_only=True)
class Aside:
    """What those who cut ahead are given.

    Attributes:
        groups: the parts of the run.
        folder: where they are put.
        keyed: whether the hashes of their keys are put beside.
    """

    groups: Sequence[Group]
    folder: Path
    keyed: bool

    def open(self, report: Report) -> Callable[[Unit], list[Path]]:
        """Make ready to cut; in a file, a worker goes on from where it was."""
        return functools.partial(self._cut, report)

    def _cut(self, report: Report, unit: Unit) -> list[Path]:
        made = []
        for number in unit.settings:
            made.append(self._part(self.groups[number]))
            report.told(len(made), 0)
            report.check()
        return made

    def _part(self, group: Group) -> Path:
        """Cut one, unless it was cut whole before."""
        path = self.folder / name(group)
        mark = path.with_name(f"{path.name}.json")
        done = read_sealed(mark)
        if done is not None and differing(path, done["files"]) is None:
            return path
        torn = path.with_name(f".tmp-{path.name}")
        for old in (mark, path, torn):
            remove(old)
        records, bad = rows_of(group)
        try:
            self.folder.mkdir(exist_ok=True)
            write_part(group, records, bad, torn)
            if self.keyed:
                np.save(torn / HASHES, hashed(records))
            files = listing(torn)
            torn.rename(path)
            write_text(mark, seal({"files": files}))
        except OSError as error:
            if full_disk(error, self.folder):
                raise no_space(path) from error
            raise
        return path


@dataclass(kw_only=True)
class Rising:
    """Progress that never falls: parts are cut, and then taken in."""

    progress: Callable[[int, int], None] | None
    _most: int = -1

    def __call__(self, done: int, total: int) -> None:
        """So much is done."""
        if self.progress is not None and done > self._most:
            self._most = done
            self.progress(done, total)


def _rows(group: Group) -> int:
    return sum(cut.starts[chunk + 1] - cut.starts[chunk] for cut, chunk in group)
