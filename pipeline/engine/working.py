"""Working: a worker process of `processes.Processes`, from its first to its last message.

    python -m gristmill.pipeline.engine.working DESCRIPTOR

reads what it is to do from a pipe, does one unit at a time, and tells of it there. Once the driver
is gone, however it ended, the pipe is closed and this process ends. It imports what the worker it
is given needs, and nothing before: a worker of a few lines starts in no time.
"""

import contextlib
import logging
import os
import pickle
import platform
import sys
import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, cast

from gristmill.pipeline.engine.engine import Opened, Report, Stopped

# What libraries size their pools of threads by, when they are loaded.
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker process is told first.

    Attributes:
        path: where the driver looks for modules.
        writer: the worker's name.
        level: of what is said that the driver wants to hear.
        worker: pickled; opened once `path` stands.
    """

    path: list[str]
    writer: str
    level: int
    worker: bytes


@dataclass(kw_only=True)
class Line:
    """The pipe to the driver, with what has come through it."""

    pipe: Connection
    writer: str = ""
    units: "SimpleQueue[Any]" = field(default_factory=SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, *message: object) -> None:
        """Send a message; any thread may."""
        with self.lock:
            self.pipe.send(message)

    def told(self, done: int, tokens: int) -> None:
        """How far the unit is."""
        self.send("told", done, tokens)

    def check(self) -> None:
        """Stop here if the driver said so."""
        if self.stop.is_set():
            raise Stopped


class Forward(logging.Handler):
    """What is said here, said by the driver."""

    def __init__(self, line: Line, level: int) -> None:
        super().__init__(level)
        self.line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        with contextlib.suppress(OSError):  # the driver is gone; this process ends as well
            self.line.send("said", record.name, record.levelno, record.getMessage())


def writer(name: str) -> str:
    """A worker's name for what it writes of its own: no two machines append to one file."""
    return f"{platform.node()}-{name}"


def portable(error: BaseException) -> BaseException:
    """An error as it can travel to another process; one that cannot is told in words."""
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:  # an error of any library pickles in any way
        again = None
    if type(again) is type(error) and str(again) == str(error):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def opened(worker: bytes, report: Report) -> Opened:
    """Open a worker that has travelled.

    Raises:
        ValueError: what it is made of is nowhere to be found here.
    """
    try:
        found = pickle.loads(worker)
    except (AttributeError, ImportError) as error:
        raise ValueError(
            f"a worker cannot load what it is to work with ({error}): define signals and views in "
            "a module that is installed wherever workers are, not in a script."
        ) from error
    return cast("Opened", found.open(report))


def _listen(line: Line) -> None:
    """Take messages until the driver is gone, then end at once, whatever is going on."""
    while True:
        try:
            message = line.pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        if message == "stop":
            line.stop.set()
            line.units.put(None)
        else:
            line.units.put(message)


def work(pipe: Connection) -> None:
    """Do units until there are no more."""
    line = Line(pipe=pipe)
    job: Job = pipe.recv()
    sys.path[:] = job.path
    line.writer = writer(job.writer)
    root = logging.getLogger()
    root.setLevel(min(root.level, job.level))
    root.addHandler(Forward(line, job.level))
    logging.captureWarnings(True)
    threading.Thread(target=_listen, args=(line,), name="driver", daemon=True).start()
    line.send("ready")
    do = None
    while (unit := line.units.get()) is not None:
        try:
            do = do or opened(job.worker, line)
            line.send("done", do(unit))
        except Stopped:
            break
        except Exception as error:  # the driver raises it
            line.send("failed", portable(error))
    line.send("ended")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, EOFError):  # the driver is gone
        work(Connection(int(sys.argv[1])))
    os._exit(0)  # threads of libraries are not waited for
