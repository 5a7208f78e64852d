"""Processes: units of work in several processes of this machine, one a device.

Where a run takes a GPU, each process has one of those that are there (`CUDA_VISIBLE_DEVICES`);
on a processor, each has so many threads. A process is begun for the units of one `map`, as many as
the memory of this machine holds, and does one unit after the other; one that dies is begun again.
"""

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, ClassVar

from gristmill.pipeline.engine.engine import (
    Estimate,
    Listener,
    Needs,
    T,
    Unit,
    UnitsLost,
    Worker,
)
from gristmill.pipeline.engine.waiting import DEATHS, Waiting
from gristmill.pipeline.engine.working import THREADS, Job

PATIENCE = 120.0  # seconds that a piece of work may take until a process that is to stop is ended
HELD = 0.8  # of the memory that is free, at most


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Several processes of this machine.

    Attributes:
        workers: how many; None: one a GPU where a run takes one, else one a core.
        threads: of a processor that each takes.
        memory: tells what a worker takes: no more are begun than fit.
    """

    workers: int | None = None
    threads: int = 1
    memory: Estimate | None = field(default=None, compare=False, repr=False)
    here: ClassVar[bool] = True

    def ask(self, question: Callable[[], T], needs: Needs) -> T:
        """Answer it here: the workers are on this machine, and have the same devices."""
        return question()

    def lanes(self, needs: Needs) -> int:
        """A GPU each, or as many as the cores and the memory hold."""
        return self.workers or _most(_places(needs.device), self.threads, needs)

    def map(
        self, units: Sequence[Unit], worker: Worker, needs: Needs, listener: Listener
    ) -> list[Any]:
        """Do them in as many processes as there is work for."""
        if not units:
            return []
        places = _places(needs.device)
        count = min(len(units), self.lanes(needs))
        threads = {name: str(self.threads) for name in THREADS}
        environments = [
            {**threads, **(places[n % len(places)] if places else {})} for n in range(count)
        ]
        return _Pool(
            waiting=Waiting(units=units),
            worker=pickle.dumps(worker),
            environments=environments,
            listener=listener,
        ).run()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _most(places: Sequence[object], threads: int, needs: Needs) -> int:
    """How many workers there is room for."""
    if places:
        return len(places)
    import psutil

    fit = _cores() // threads
    if needs.memory:
        fit = min(fit, int(HELD * psutil.virtual_memory().available / needs.memory))
    return max(1, fit)


def _gpus() -> list[str]:
    """The GPUs of this process, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    chosen = [n.strip() for n in named.split(",") if n.strip()]
    return chosen or [str(n) for n in range(torch.cuda.device_count())]


def _places(device: str) -> list[Mapping[str, str]]:
    """A device each, as the environment of a worker names it; nothing: processors alone."""
    if device == "cpu":
        return []
    if ":" in device:  # a certain one, which all of them share
        return [{}]
    import torch

    gpus: list[Mapping[str, str]] = [{"CUDA_VISIBLE_DEVICES": name} for name in _gpus()]
    return gpus or [{}] * torch.backends.mps.is_available()


@dataclass(kw_only=True)
class _Child:
    """A process, and what it does now; `ready` once it could do something."""

    place: int
    process: subprocess.Popen[bytes]
    pipe: Connection
    unit: int | None = None
    ready: bool = False


@dataclass(kw_only=True)
class _Pool:
    """The processes of one `map`."""

    waiting: Waiting
    worker: bytes
    environments: Sequence[Mapping[str, str]]
    listener: Listener
    _children: dict[Connection, _Child] = field(default_factory=dict)
    _ending: bool = False
    _unready: int = 0  # processes that ended before they were ready

    def run(self) -> list[Any]:
        """Do all units."""
        try:
            for place in range(len(self.environments)):
                self._begin(place)
            while self.waiting.open:
                self._hear(None)
            self._end(PATIENCE)
        except Exception:
            self._end(PATIENCE)  # what is being done is kept
            raise
        finally:
            for child in [*self._children.values()]:
                self._gone(child)
        return self.waiting.all()

    def _begin(self, place: int) -> None:
        """Begin a process, and give it a unit."""
        ours, theirs = Pipe()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", Job.__module__, str(theirs.fileno())],
                env={**os.environ, **self.environments[place]},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches the driver alone, which ends them
            )
        child = _Child(place=place, process=process, pipe=ours)
        self._children[ours] = child
        job = Job(
            path=sys.path,
            writer=f"worker-{place}",
            level=logging.getLogger().getEffectiveLevel(),
            worker=self.worker,
        )
        self._send(child, job)
        self._next(child)

    def _next(self, child: _Child) -> None:
        """Give a process another unit, or let it go."""
        child.unit = None if self._ending else self.waiting.next()
        self._send(child, "stop" if child.unit is None else self.waiting.units[child.unit])

    def _send(self, child: _Child, message: object) -> None:
        with contextlib.suppress(OSError):  # it is dead, which shows when it is heard
            child.pipe.send(message)

    def _hear(self, seconds: float | None) -> bool:
        """Take one message of each process that has one; whether there was any."""
        heard = wait(list(self._children), seconds)
        for pipe in heard:
            child = self._children[pipe]  # type: ignore[index]
            try:
                message = child.pipe.recv()
            except (EOFError, OSError):
                self._died(child)
                continue
            self._take(child, *message)
        return bool(heard)

    def _take(self, child: _Child, kind: str, *rest: Any) -> None:  # noqa: ANN401
        if kind == "ready":
            child.ready = True
        elif kind == "said":
            name, level, text = rest
            logging.getLogger(name).log(level, "%s", text)
        elif kind == "ended":
            self._gone(child)
        elif kind == "told":
            assert child.unit is not None, "it tells of a unit"
            self.listener.told(self.waiting.units[child.unit], *rest)
            if not self._ending:
                self.listener.check()
        elif kind == "done":
            assert child.unit is not None, "it does a unit"
            self.waiting.done(child.unit, *rest)
            self._next(child)
        else:
            child.unit = None
            self._send(child, "stop")
            if not self._ending:
                raise rest[0]

    def _died(self, child: _Child) -> None:
        """A process has ended by itself: its unit is done by another, unless it was often enough.

        Another is begun in its place where there is a unit for it.
        """
        unit, code = child.unit, child.process.wait()
        self._gone(child)
        if unit is not None and child.ready:
            self.waiting.died(unit, _why(code))
            self.listener.told(self.waiting.units[unit], 0, 0)
        elif unit is not None:
            self.waiting.back(unit)
            self._unready += 1
        if self._unready == DEATHS and not self._ending:
            raise UnitsLost(
                f"workers end before they do anything ({_why(code)}): expected that "
                f"`{sys.executable} -m {Job.__module__}` starts; see what it wrote."
            )
        if self.waiting.left and not self._ending:
            self._begin(child.place)

    def _end(self, patience: float) -> None:
        """Let all processes finish what they are at."""
        self._ending = True
        for child in self._children.values():
            self._send(child, "stop")
        while self._children and self._hear(patience):
            pass

    def _gone(self, child: _Child) -> None:
        """End a process that is of no use any more."""
        self._children.pop(child.pipe, None)
        child.pipe.close()
        if child.process.poll() is None:
            child.process.kill()
        child.process.wait()


def _why(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
