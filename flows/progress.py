"""Progress on the terminal: bars with the time that remains, plain lines in a log."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from gristmill.flows.pages.visible import plain

Progress = Callable[[str, int, int], None]
LOG = logging.getLogger("gristmill.progress")  # for a log file; the terminal has it otherwise
# Who is told of the progress of a flow in this process; a flow's parameters cannot carry it.
LISTENER: ContextVar[Progress | None] = ContextVar("listener", default=None)
QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
EVERY = 10.0  # seconds between two lines on one thing
WHILE = 2.0  # seconds from which on an estimate says something


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """A callback (what, done, total) that shows how far things are, and what remains of them."""
    from rich.console import Console

    console = Console(stderr=True)
    told = Lines(LOG.info)
    if QUIET.get():
        yield told
    elif not console.is_terminal:
        yield _both(told, Lines(_line))
    else:
        with _bars(console) as draw:
            yield _both(told, draw)


def _both(one: Progress, other: Progress) -> Progress:
    def tell(what: str, done: int, total: int) -> None:
        one(what, done, total)
        other(what, done, total)

    return tell


def _line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _bars(console: Any) -> Iterator[Progress]:  # noqa: ANN401  (rich's own)
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def draw(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(plain(what), total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield draw


@contextlib.contextmanager
def listening() -> Iterator[set[str]]:
    """Show the progress of the flows inside; yields what it is of: nothing, if all was stored."""
    heard: set[str] = set()
    with progress() as draw:

        def tell(what: str, done: int, total: int) -> None:
            heard.add(what)
            draw(what, done, total)

        token = LISTENER.set(tell)
        try:
            yield heard
        finally:
            LISTENER.reset(token)


class Lines:
    """A line a thing at the start, every ten seconds and at the end.

    A thing of one part, which has no middle, is told only once it has taken a while.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.started: dict[str, tuple[float, int]] = {}
        self.said: dict[str, float] = {}
        self.finished: set[str] = set()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        since, first = self.started.setdefault(what, (now, done))
        last = done >= total
        if what in self.finished or (not last and now - self.said.get(what, -1e9) < EVERY):
            return
        if last:
            self.finished.add(what)
        if total <= 1 and now - since < WHILE:
            return
        self.said[what] = now
        rest = "" if last else remaining(now - since, done - first, total - done)
        self.say(f"{what}: {done:,} of {total:,}{rest}")


def remaining(seconds: float, done: int, left: int) -> str:
    """How long the rest will take, once enough was done to tell."""
    if done <= 0 or seconds < WHILE:
        return ""
    minutes, rest = divmod(round(seconds / done * left), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f", about {hours} h {minutes:02d} min left"
    return f", about {minutes} min {rest:02d} s left" if minutes else f", about {rest} s left"
