"""Interrupted: the first Ctrl-C or SIGTERM ends a command in order, a later one at once.

The same wish often comes twice: `make` and `timeout` pass on what the terminal has sent as well.
Python drops what is raised in a destructor or in the callback of a weak reference, so that a stop
may be lost on its way: then it is raised again. What is at work when a command ends at once is
lost, as with any kill; the store goes on from the last whole part.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ONE_WISH = 2.0  # seconds after the first signal in which others are taken for the same
_SOON = 0.05


def sentence(number: int) -> str:
    """What to tell of a stop by a signal."""
    return (
        f"stopped by {signal.Signals(number).name}; every finished part is kept in the store: run "
        "the same command again to go on from there."
    )


@contextmanager
def stops() -> Iterator[list[int]]:
    """Note Ctrl-C and SIGTERM, and raise; a signal that the caller had us ignore stays ignored.

    What was noted, if anything, decides the end of the process also after this block.
    """
    noted: list[int] = []
    first = 0.0
    lost = threading.Event()
    over = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not noted:
            noted.append(number)
            first = time.monotonic()
            raise KeyboardInterrupt
        if lost.is_set():
            lost.clear()
            if not over.is_set():
                raise KeyboardInterrupt
        elif time.monotonic() - first > _ONE_WISH:
            os.write(2, f"\ngristmill: {sentence(noted[0])}\n".encode())
            os._exit(128 + noted[0])

    def dropped(told: Any) -> None:  # noqa: ANN401  (sys.UnraisableHookArgs, of the checker alone)
        if not noted or told.exc_type is not KeyboardInterrupt:
            hook(told)
            return
        lost.set()
        again = threading.Timer(_SOON, os.kill, (os.getpid(), noted[0]))
        again.daemon = True
        again.start()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: h for n in numbers if (h := signal.getsignal(n)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield noted
    finally:
        over.set()
        if not noted:
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)
