"""Processes that end with the one that started them, however that one ends.

    python -m gristmill.flows.processes PARENT MODULE [ARGUMENT ...]

runs a module as `python -m` would, and ends it, with all that it started, once PARENT is gone. A
child looks for its parent rather than waiting for a signal: a parent that was killed sends none.
What a child started is found by a mark in the environment, which every process inherits: one whose
own parent was killed has left the tree of processes, and the mark still tells whose it was.
Each child has a session of its own, so that Ctrl-C reaches the parent alone, which ends them in
order.
"""

import contextlib
import os
import runpy
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

MARK = "GRISTMILL_CHILD"
_SERVED_BY = "GRISTMILL_SERVED_BY"
_LOOK = 0.3  # seconds between looks at the parent
PATIENCE = 10.0  # seconds that a process has to end by itself


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process of ours and all that it has started, which may outlive it.

    Attributes:
        process: the child itself.
        mark: what its environment, and that of all it started, holds as `MARK`.
    """

    process: subprocess.Popen[str]
    mark: str

    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def stop(self, patience: float = PATIENCE) -> None:
        """End it with everything it started: asked first, then killed."""
        end_marked(self.mark, patience)
        self.process.wait()


def start(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stdout: int | IO[str] | None = None,
    stderr: int | IO[str] | None = None,
) -> Child:
    """Start a module in a process that ends with this one."""
    command = [sys.executable, "-m", __name__, str(os.getpid()), module, *arguments]
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {}), MARK: mark},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        text=True,
    )
    return Child(process=process, mark=mark)


def follow(parent: int, end: Callable[[], None]) -> None:
    """Watch, in a thread, for the end of the process that started this one, then call `end`."""
    _when(lambda: os.getppid() != parent, end)


def when_gone(child: Child, then: Callable[[], None]) -> None:
    """Watch, in a thread, for the end of a child, then call `then`."""
    _when(lambda: not child.alive(), then)


def serve_from_here() -> None:
    """Have the flows that a worker of this process runs end with this process."""
    os.environ[_SERVED_BY] = str(os.getpid())


def end_with_server() -> None:
    """End this flow's process once the process that serves it is gone, if one serves it.

    Its worker ends it as a rule; this is for a worker that was killed together with the server.
    """
    served_by = os.environ.get(_SERVED_BY)
    if served_by is None:
        return
    try:
        server = psutil.Process(int(served_by))
    except psutil.NoSuchProcess:
        end_self()
    else:
        _when(lambda: not _lives(server), end_self)


def end_self() -> None:
    """End this process and everything that it has started."""
    mark = os.environ.get(MARK)
    if mark is not None:
        end_marked(mark, PATIENCE)
    psutil.Process().terminate()
    time.sleep(PATIENCE)
    os._exit(1)


def end_marked(mark: str, patience: float) -> None:
    """End every other process with a mark: asked first, killed when it took too long.

    It looks until none is left, since what is being ended may still start something.
    """
    asked: set[psutil.Process] = set()
    until = time.monotonic() + patience
    while left := set(_marked(mark)):
        late = time.monotonic() > until
        for process in left if late else left - asked:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill() if late else process.terminate()
        asked |= left
        if time.monotonic() > until + patience:
            return  # what even SIGKILL does not end waits for a device; nobody can end it
        psutil.wait_procs(left, timeout=0.1)


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                yield process


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _when(come: Callable[[], bool], then: Callable[[], None]) -> None:
    def watch() -> None:
        while not come():
            time.sleep(_LOOK)
        then()

    threading.Thread(target=watch, name="follow", daemon=True).start()


if __name__ == "__main__":
    follow(int(sys.argv[1]), end_self)
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
