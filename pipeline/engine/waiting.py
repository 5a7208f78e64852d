"""Waiting: which units are still to be done, and which of them nobody survives.

A worker that ends in the middle of a unit (killed for memory, a crash in a library, a node that
went away) takes nothing with it but that unit, which is done again by another. A unit that ended
three workers is given up, so that all others get done.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gristmill.pipeline.engine.engine import Unit, UnitsLost

DEATHS = 3  # that a unit may cause: its worker is begun again as often, the last time for the rest


@dataclass(kw_only=True)
class Waiting:
    """The units of one `map`.

    Attributes:
        units: all of them, in order.
    """

    units: Sequence[Unit]
    _todo: deque[int] = field(init=False)
    _found: dict[int, Any] = field(init=False, default_factory=dict)
    _deaths: Counter[int] = field(init=False, default_factory=Counter)
    _lost: dict[int, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._todo = deque(range(len(self.units)))

    def next(self) -> int | None:
        """Number of a unit to do now; None: there is none at the moment."""
        return self._todo.popleft() if self._todo else None

    @property
    def left(self) -> int:
        """How many are neither begun nor done."""
        return len(self._todo)

    @property
    def open(self) -> bool:
        """Whether any is neither done nor given up."""
        return len(self._found) + len(self._lost) < len(self.units)

    def done(self, number: int, found: Any) -> None:  # noqa: ANN401  (whatever comes of a unit)
        """A unit is done."""
        self._found[number] = found

    def back(self, number: int) -> None:
        """A unit was not begun after all: it is the next."""
        self._todo.appendleft(number)

    def died(self, number: int, why: str) -> None:
        """A worker ended while it did a unit."""
        self._deaths[number] += 1
        if self._deaths[number] < DEATHS:
            self.back(number)
        else:
            self._lost[number] = why

    def all(self) -> list[Any]:
        """What came of all units.

        Raises:
            UnitsLost: not all were done.
        """
        if not self._lost:
            return [self._found[n] for n in range(len(self.units))]
        names = "; ".join(f"{self.units[n].name} ({why})" for n, why in sorted(self._lost.items()))
        raise UnitsLost(
            f"{len(self._lost)} of {len(self.units)} units ended their worker {DEATHS} times each: "
            f"{names}. All others are done and kept. Give a worker more memory (fewer "
            "`engine.workers`, a smaller `passes.batch_tokens`), or look at the rows of that "
            "shard; then run the same command again, which does these units alone."
        )
