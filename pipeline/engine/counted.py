"""Counted: work of which one tells how many units are done, and no more."""

from collections.abc import Callable
from dataclasses import dataclass, field

from gristmill.pipeline.engine.engine import Unit


@dataclass(kw_only=True)
class Counted:
    """The driver's side of units that tell once, when they are done.

    Attributes:
        progress: told of (units done, units in all).
        total: units in all.
        before: units that were done already.
        checked: raises what stops the run, if it is to stop.
    """

    progress: Callable[[int, int], None]
    total: int
    before: int = 0
    checked: Callable[[], None] = lambda: None
    _of: dict[str, int] = field(default_factory=dict)
    _done: int = 0

    def told(self, unit: Unit, done: int, tokens: int) -> None:
        """A unit is done (1), or is begun again (0)."""
        self._done += done - self._of.get(unit.part, 0)
        self._of[unit.part] = done
        self.progress(self.before + self._done, self.total)

    def check(self) -> None:
        """Raise what stops the run, if it is to stop."""
        self.checked()
