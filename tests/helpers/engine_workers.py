"""Workers of a few lines, for engines: they import nothing that is large."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from gristmill.pipeline.engine.engine import Unit

LOG = logging.getLogger("gristmill.worker")


def units(count: int) -> list[Unit]:
    return [Unit(step="count", part=f"shard {n}", settings=n) for n in range(count)]


@dataclass(kw_only=True)
class Heard:
    """A listener that remembers, and stops the run after so many tellings."""

    told_of: list
    most: int | None = None

    def told(self, unit, done, tokens):
        self.told_of.append((unit.settings, done, tokens))

    def check(self):
        if self.most is not None and len(self.told_of) >= self.most:
            raise RuntimeError("stopped at the cap")


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Writes a file a unit, into `folder`, in pieces; unit `dies` ends its process.

    The log says who did each, and what a variable of its environment is. No unit is done before
    `together` workers are at one.
    """

    folder: Path
    dies: int | None = None
    fails: int | None = None
    pieces: int = 1
    variable: str = "OMP_NUM_THREADS"
    together: int = 1

    def open(self, report):
        def do(unit):
            n = unit.settings
            with (self.folder / "log").open("a") as log:
                log.write(f"{n} {report.writer} {os.environ.get(self.variable)}\n")
            self._meet()
            if n == self.dies and (self.folder / "deadly").exists():
                os._exit(9)
            if n == self.fails:
                raise ValueError(f"unit {n} cannot be done")
            for piece in range(self.pieces):
                report.told(piece + 1, 10 * (piece + 1))
                report.check()
            LOG.warning("unit %d is done", n)
            (self.folder / f"{n}.txt").write_text(str(n * n))
            return n * n

        return do

    def _meet(self):
        until = time.monotonic() + 60
        while len({line.split()[1] for line in self._lines()}) < self.together:
            assert time.monotonic() < until, f"fewer than {self.together} workers came"
            time.sleep(0.02)

    def _lines(self):
        return (self.folder / "log").read_text().splitlines()
