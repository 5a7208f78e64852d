"""Processes that end with the one that started them, however that one ends.

    python -m gristmill.flows.processes PARENT MODULE [ARGUMENT ...]

runs a module as `python -m` would, and ends it, with all that it started, once PARENT is gone. A
child looks for its parent rather than waiting for a signal: a parent that was killed sends none.
Each has a session of its own, so that Ctrl-C reaches the parent alone, which ends them in order.
"""

import contextlib
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

_LOOK = 0.3  # seconds between looks at the parent
PATIENCE = 10.0  # seconds that a process has to end by itself


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process of ours and all that it has started, which may outlive it."""

    process: subprocess.Popen[str]
    below: set[psutil.Process] = field(default_factory=set)

    def alive(self) -> bool:
        """Whether it runs; remembers what it has started so far."""
        self.below.update(_below(self.process.pid))
        return self.process.poll() is None

    def stop(self, patience: float = PATIENCE) -> None:
        """End it with everything it started: asked first, then killed."""
        if self.alive():
            self.process.terminate()
        _end(list(self.below), patience)
        try:
            self.process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
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
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        text=True,
    )
    return Child(process=process)


def follow(parent: int, end: Callable[[], None]) -> None:
    """Watch, in a thread, for the end of the process that started this one, then call `end`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        end()

    threading.Thread(target=watch, name="follow", daemon=True).start()


def end_self() -> None:
    """End this process and everything that it has started."""
    me = psutil.Process()
    below = me.children(recursive=True)
    _end(below, PATIENCE)
    me.terminate()
    time.sleep(PATIENCE)
    os._exit(1)


def _below(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(pid).children(recursive=True)
    return found


def _end(processes: Sequence[psutil.Process], patience: float) -> None:
    """Ask processes to end, wait, kill what is left; a number that was used again is no process."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=patience)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    follow(int(sys.argv[1]), end_self)
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
