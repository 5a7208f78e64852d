"""Counted: work of which one tells how much is done, and no more."""

from collections.abc import Callable
from dataclasses import dataclass, field

from gristmill.pipeline.engine.engine import Unit


@dataclass(kw_only=True)
class Counted:
    """The driver's side of units that tell how much of each is done, e.g. shards.

    Attributes:
        progress: told of (done, in all).
        total: in all.
        before: what was done already.
    """

    progress: Callable[[int, int], None]
    total: int
    before: int = 0
    _of: dict[str, int] = field(default_factory=dict)
    _done: int = 0

    def told(self, unit: Unit, done: int, tokens: int) -> None:
        """So much of a unit is done; nothing, where it is begun again."""
        self._done += done - self._of.get(unit.part, 0)
        self._of[unit.part] = done
        self.progress(self.before + self._done, self.total)

    def check(self) -> None:
        """Nothing stops it: what is done is kept, and caps are looked at between steps."""
