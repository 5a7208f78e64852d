"""An engine that tells when each unit was done, by whom, and what it took of a processor."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from gristmill.pipeline.engine.engine import Engine, Listener, Needs, Report, Unit, Worker


@dataclass(frozen=True, kw_only=True)
class Lap:
    """A unit that was done; times are those of one machine, in seconds."""

    found: Any
    writer: str
    begun: float
    ended: float
    processor: float


@dataclass(frozen=True, kw_only=True)
class Clocked:
    """A worker whose units tell their times."""

    worker: Worker

    def open(self, report: Report) -> Callable[[Unit], Lap]:
        do = self.worker.open(report)

        def clocked(unit: Unit) -> Lap:
            begun, before = time.monotonic(), time.process_time()
            found = do(unit)
            return Lap(
                found=found,
                writer=report.writer,
                begun=begun,
                ended=time.monotonic(),
                processor=time.process_time() - before,
            )

        return clocked


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Another engine, and the laps of what it did."""

    engine: Engine
    rows: Callable[[Unit], int]
    laps: list[tuple[int, Lap]] = field(default_factory=list)

    @property
    def threads(self) -> int | None:
        return self.engine.threads

    @property
    def memory(self) -> Any:
        return self.engine.memory

    @property
    def here(self) -> bool:
        return self.engine.here

    def ask(self, question: Callable[[], Any], needs: Needs) -> Any:
        return self.engine.ask(question, needs)

    def lanes(self, needs: Needs) -> int:
        return self.engine.lanes(needs)

    def map(
        self, units: Sequence[Unit], worker: Worker, needs: Needs, listener: Listener
    ) -> list[Any]:
        laps = self.engine.map(units, Clocked(worker=worker), needs, listener)
        self.laps.extend((self.rows(unit), lap) for unit, lap in zip(units, laps, strict=True))
        return [lap.found for lap in laps]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast rows were read while all workers were at work.

    Attributes:
        rate: rows a second.
        processor: seconds of a processor for a row, in the workers.
        between: seconds that a worker waited from one unit to the next, the middle one.
        workers: that did any.
    """

    rate: float
    processor: float
    between: float
    workers: int

    @staticmethod
    def of(laps: Sequence[tuple[int, Lap]]) -> "Speed":
        """From the end of everyone's first unit, which loads the model, to the first last one."""
        by: dict[str, list[tuple[int, Lap]]] = {}
        for rows, lap in sorted(laps, key=lambda one: one[1].begun):
            by.setdefault(lap.writer, []).append((rows, lap))
        begin = max(own[0][1].ended for own in by.values())
        end = min(own[-1][1].ended for own in by.values())
        if not all(len(own) > 2 for own in by.values()) or begin >= end:
            raise SystemExit("workers were never at work together: give more --rows.")
        read = processor = 0.0
        waits = []
        for own in by.values():
            for rows, lap in own[1:]:
                share = (min(end, lap.ended) - max(begin, lap.begun)) / (lap.ended - lap.begun)
                read += max(0.0, share) * rows
                processor += max(0.0, share) * lap.processor
            waits += [b.begun - a.ended for (_, a), (_, b) in itertools.pairwise(own)]
        return Speed(
            rate=read / (end - begin),
            processor=processor / read,
            between=median(waits),
            workers=len(by),
        )
