"""Limits: the caps of a run, and how a flow ends at one of them.

A run that stops at a cap is neither done nor broken. Its flow run ends in a state of the type
CANCELLED named "Capped", whose message is the sentence; the command line exits with `EXIT`.
"""

import functools
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from gristmill.flows.config import LimitsConfig
from gristmill.pipeline.models.caps import CapReached, RunCaps

C = TypeVar("C")
LOG = logging.getLogger(__name__)
EXIT = 3  # of the command line: stopped at a cap; the same command goes on
STATE = "Capped"
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


def stopping(flow: Callable[[C], str]) -> Callable[[C], Any]:
    """A flow of one config that refuses what its plan says is too much, and stops at its caps.

    Its return value at a cap is the state that the flow run ends in. A flow within another counts
    on the caps of the outer one.
    """

    @functools.wraps(flow)
    def capped(config: C) -> Any:  # noqa: ANN401  (a path, or a state of Prefect)
        from prefect.states import State, StateType

        asked: LimitsConfig = vars(config)["limits"]
        outer = _CURRENT.get()
        token = _CURRENT.set(outer or made(asked))
        try:
            if outer is None and asked.any:
                refuse_beyond(config)
            return flow(config)
        except CapReached as stop:
            LOG.warning("%s", stop)
            return State(type=StateType.CANCELLED, name=STATE, message=str(stop), data=stop)
        finally:
            _CURRENT.reset(token)

    return capped


def refuse_beyond(config: Any) -> None:  # noqa: ANN401  (the settings of some flow)
    """Refuse a run that is sure to come to a cap: the lower ends of its plan lie beyond it.

    Raises:
        ValueError: which cap, what the plan says, and what to do.
    """
    from gristmill.flows import planning

    asked: LimitsConfig = config.limits
    timed = asked.max_hours is not None or (asked.max_money is not None and asked.hour_price > 0)
    total = planning.planned(config, config.name, probed=timed).total
    found = {
        "max_tokens": (asked.max_tokens, total.all_tokens),
        "max_hours": (asked.max_hours, total.hours),
        "max_money": (asked.max_money, total.money),
    }
    for name, (cap, amount) in found.items():
        if cap is not None and amount is not None and amount.low > cap:
            raise ValueError(
                f"limits.{name} is {cap:,g}, and by its plan this run takes {amount.value:,.4g}, "
                f"at least {amount.low:,.4g}: raise the cap, or ask for less (fewer rows, a "
                "cascade, cheaper methods); nothing was started."
            )
