"""Limits: the caps of the run that is going on here."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gristmill.flows.settings import LimitsConfig
from gristmill.pipeline.models.caps import RunCaps

_CURRENT: ContextVar[RunCaps | None] = ContextVar("caps", default=None)


def made(asked: LimitsConfig) -> RunCaps:
    """The caps of a run that starts now."""
    return RunCaps(
        hours=asked.max_hours,
        tokens=asked.max_tokens,
        money=asked.max_money,
        hour_price=asked.hour_price,
    )


def current(asked: LimitsConfig) -> RunCaps:
    """The caps of the flow that is running here; in a process of its own, new ones."""
    return _CURRENT.get() or made(asked)


def counting() -> bool:
    """Whether a flow is running here, on whose caps all within it counts."""
    return _CURRENT.get() is not None


@contextmanager
def counted(asked: LimitsConfig) -> Iterator[RunCaps]:
    """The caps of a flow that starts here, hours included; within another, those of that."""
    token = _CURRENT.set(current(asked))
    try:
        yield current(asked)
    finally:
        _CURRENT.reset(token)
