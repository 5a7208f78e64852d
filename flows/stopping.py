"""Stopping: how a flow ends at a cap or before people, and which runs a cap does not let begin.

A run that stops at a cap, waits for people, or was rejected, is neither done nor broken. Its flow
run ends in a state of the type CANCELLED named as in `STATES`, whose message is the sentence; the
command line exits with a code of its own.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from gristmill.flows import limits, planning
from gristmill.flows.settings import LimitsConfig
from gristmill.pipeline.models.caps import CapReached
from gristmill.pipeline.review.approval import Rejected, WaitsForApproval
from gristmill.synthesis.curation.people import VerdictsNeeded

C = TypeVar("C")
LOG = logging.getLogger(__name__)
# What stops a run -> the name of its state, and the exit code of the command line.
STATES: dict[type[Exception], str] = {
    CapReached: "Capped",
    WaitsForApproval: "Waiting",
    VerdictsNeeded: "Waiting",
    Rejected: "Rejected",
}
EXITS: dict[type[Exception], int] = {
    CapReached: 3,
    WaitsForApproval: 5,
    VerdictsNeeded: 5,
    Rejected: 6,
}
_TOLD = (WaitsForApproval, Rejected)  # where they are decided


def stopping(flow: Callable[[C], str]) -> Callable[[C], str]:
    """A flow of one config that refuses what its plan says is too much, and stops where it must.

    Its return value there is the state that the flow run ends in. A flow within another counts
    on the caps of the outer one.
    """

    @functools.wraps(flow)
    def capped(config: C) -> Any:  # noqa: ANN401  (a path, or a state of Prefect)
        from prefect.client.schemas.objects import State, StateType

        asked: LimitsConfig = vars(config)["limits"]
        if asked.any and not limits.counting():
            refuse_beyond(config)
        with limits.counted(asked):  # hours count from here
            try:
                return flow(config)
            except tuple(STATES) as stop:
                if not isinstance(stop, _TOLD):
                    LOG.warning("%s", stop)
                name = STATES[type(stop)]
                return State(type=StateType.CANCELLED, name=name, message=str(stop), data=stop)

    return capped


def refuse_beyond(config: Any) -> None:  # noqa: ANN401  (the settings of some flow)
    """Refuse a run that is sure to come to a cap: the lower ends of its plan lie beyond it.

    Raises:
        ValueError: which cap, what the plan says, and what to do.
    """
    asked: LimitsConfig = config.limits
    timed = asked.max_hours is not None or (asked.max_money is not None and asked.hour_price > 0)
    total = planning.planned(config, _called(config), probed=timed).certain.total
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


def _called(config: Any) -> str:  # noqa: ANN401
    """What sentences about a run call it: its name, or the dataset that it trains on."""
    told = vars(config)
    return str(told.get("name") or told.get("dataset"))
