"""Sketching: the MinHash sketches of shards, as units of work for an engine, a shard each.

A sketch depends on one shard's content alone and is kept by the store (step `minhash`): a new shard
costs its own sketch, and whoever makes it writes the same bytes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from gristmill.pipeline.clean.drops import Progress, nobody
from gristmill.pipeline.clean.near_duplicates import MinHash
from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.engine.counted import Counted
from gristmill.pipeline.engine.engine import Engine, Local, Needs, Report, Unit
from gristmill.pipeline.engine.one_disk import demand_seen
from gristmill.pipeline.records.store import NotMadeError, Step, Store, sha256, table

LOCAL = Local()
WORTH = 32 << 20  # bytes of shards from which on workers are begun: fewer are sketched before


def sketches(
    store: Store,
    shards: Sequence[Path],
    settings: MinHash,
    progress: Progress = nobody,
    engine: Engine = LOCAL,
) -> list[Path]:
    """The sketch of each Parquet shard of records, made once for its content and settings.

    Args:
        store: where sketches are kept.
        shards: of records, with what `settings.part` reads.
        settings: how they are sketched.
        progress: told of (shards sketched, shards).
        engine: who makes those that are not there, where they are many.
    """
    steps = [_step(shard, settings) for shard in shards]
    found = {n: entry.shards for n, step in enumerate(steps) if (entry := store.find(step))}
    progress(len(found), len(shards))
    # Shards of the same bytes are one piece of work.
    missing = {steps[n].key: n for n in reversed(range(len(shards))) if n not in found}
    if missing and not store.makes:
        raise NotMadeError("minhash")
    units = [
        Unit(step="minhash", part=f"shard {n}", settings=(shards[n], steps[n]))
        for n in sorted(missing.values())
    ]
    if sum(shards[n].stat().st_size for n in missing.values()) < WORTH:
        engine = LOCAL
    worker = Sketching(store=store, settings=settings, threads=engine.threads)
    told = Counted(progress=progress, total=len(shards), before=len(shards) - len(units))
    made = engine.map(units, worker, Needs(device="cpu"), told)
    demand_seen(engine, (path for paths in made for path in paths))
    of_key = {unit.settings[1].key: paths for unit, paths in zip(units, made, strict=True)}
    return [
        path
        for n, step in enumerate(steps)
        for path in (found[n] if n in found else of_key[step.key])
    ]


def _step(shard: Path, settings: MinHash) -> Step:
    return Step(
        name="minhash",
        version=2,
        settings=settings_of(dataclasses.replace(settings, threshold=1.0)),
        inputs={"shard": sha256(shard)},
    )


@dataclass(frozen=True, kw_only=True)
class Sketching:
    """What those who sketch shards are given.

    Attributes:
        store: where sketches are kept.
        settings: how they are sketched.
        threads: of a worker; the driver itself has a thread a core.
    """

    store: Store
    settings: MinHash
    threads: int | None

    def open(self, report: Report) -> Callable[[Unit], list[Path]]:
        """Make ready to sketch shards."""
        store = dataclasses.replace(self.store, writer=report.writer)
        threads = self.threads if report.writer else None

        def made(unit: Unit) -> list[Path]:
            shard, step = unit.settings
            entry = store.run(step, [table("part-00000", partial(self._sketch, shard, threads))])
            report.told(1, 0)
            return entry.shards

        return made

    def _sketch(self, shard: Path, threads: int | None) -> pl.DataFrame:
        return self.settings.sketch(pl.read_parquet(shard), threads)
