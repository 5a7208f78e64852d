"""Shard workers: the actors of Ray, as they are on their nodes.

An actor makes its worker with the first unit, and keeps it. What it has to tell goes with the
answer. Nothing here imports Ray: its actors are plain objects.
"""

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gristmill.pipeline.engine.engine import Stopped, Unit
from gristmill.pipeline.engine.working import opened, portable, writer


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an actor returns of a unit.

    Attributes:
        found: what came of it.
        error: what went wrong, in its place.
        done: how far it is.
        tokens: that models read and wrote for it.
        said: what there was to say: logger, level, text.
    """

    found: Any = None
    error: BaseException | None = None
    done: int = 0
    tokens: int = 0
    said: tuple[tuple[str, int, str], ...] = ()


class ShardWorker:
    """The actor: a worker that is opened with the first unit, and stays."""

    def __init__(self, name: str, level: int, path: Sequence[str]) -> None:
        sys.path += [place for place in path if place not in sys.path]  # where the driver looks
        self._do: Callable[[Unit], Any] | None = None
        self._report = _Kept(writer=writer(name))
        root = logging.getLogger()
        root.setLevel(min(root.level, level))
        root.addHandler(_Said(self._report, level))
        logging.captureWarnings(True)

    def ready(self) -> None:
        """It is there."""

    def stop(self) -> None:
        """End what is being done at the next place where nothing is lost."""
        self._report.stop.set()

    def do(self, worker: bytes, unit: Unit) -> Answer:
        """Do a unit; an actor that was begun again has nothing of the worker it had."""
        report = self._report
        report.clear()
        found, error = None, None
        try:
            self._do = self._do or opened(worker, report)
            found = self._do(unit)
        except Stopped:
            pass  # the driver has stopped already
        except Exception as failed:  # the driver raises it
            error = portable(failed)
        return Answer(
            found=found,
            error=error,
            done=report.done,
            tokens=report.tokens,
            said=tuple(report.said),
        )


@dataclass(kw_only=True)
class _Kept:
    """The report of an actor, which the driver sees with the answer."""

    writer: str
    done: int = 0
    tokens: int = 0
    said: list[tuple[str, int, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def clear(self) -> None:
        self.done = self.tokens = 0
        self.said.clear()

    def told(self, done: int, tokens: int) -> None:
        self.done, self.tokens = done, tokens

    def check(self) -> None:
        """Stop here if the driver said so."""
        if self.stop.is_set():
            raise Stopped


class _Said(logging.Handler):
    """What is said, with the answer."""

    def __init__(self, report: _Kept, level: int) -> None:
        super().__init__(level)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        self.report.said.append((record.name, record.levelno, record.getMessage()))
