"""Logs: what the pipeline has to say, in a run's page and on the terminal.

The verbs use the standard library's `logging`, and know neither. Prefect's own lines belong in the
run's page; the terminal shows ours, a sentence each.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from gristmill.flows.pages.visible import plain
from gristmill.flows.progress import LOG

OURS = ("gristmill", "py.warnings")


class Plain(logging.Formatter):
    """Lines with hidden characters as marks: a message may repeat what others wrote."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return plain(super().format(record))


class Terminal(logging.Handler):
    """Our warnings on standard error, as it is when one comes; Prefect's with GRISTMILL_DEBUG=1.

    It has a formatter, and stands at the root: Prefect then adds no handler of its own there.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(Plain())
        self.addFilter(lambda record: record.name != LOG.name)  # shown as progress already
        if not os.environ.get("GRISTMILL_DEBUG"):
            self.addFilter(lambda record: not record.name.startswith("prefect"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        with suppress(OSError):  # the terminal is gone; the run goes on
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()


def to_terminal(level: int | None = None) -> None:
    """Show warnings on the terminal; call it before Prefect is imported.

    Args:
        level: show what is said from here on; None: as it was, warnings to begin with.
    """
    root = logging.getLogger()
    if not any(isinstance(handler, Terminal) for handler in root.handlers):
        root.addHandler(Terminal())
    for handler in root.handlers:
        if isinstance(handler, Terminal) and level is not None:
            handler.setLevel(level)


@contextmanager
def to_run() -> Iterator[None]:
    """Send warnings to the page of the Prefect run that goes on in this block.

    Python's own warnings too: a rule or a library that warns says it there.
    """
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.logging.handlers import APILogHandler

    run = FlowRunContext.get()
    loggers = [logging.getLogger(name) for name in OURS]
    if run is None or run.flow_run is None or _told(loggers, APILogHandler):
        yield  # no run, or a flow within a flow: what it says goes to its own page already
        return
    ident = run.flow_run.id

    def of_the_run(record: logging.LogRecord) -> bool:
        if FlowRunContext.get() is None and TaskRunContext.get() is None:
            record.flow_run_id = ident  # said by a thread, which knows of no run
        return True

    handler = APILogHandler(level=logging.WARNING)
    handler.setFormatter(Plain())
    handler.addFilter(of_the_run)
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        logging.captureWarnings(False)


def _told(loggers: Sequence[logging.Logger], kind: type[logging.Handler]) -> bool:
    return any(isinstance(handler, kind) for logger in loggers for handler in logger.handlers)
