"""Engine: units of work over shards, and who does them.

A **unit** is one part of a step: e.g. a shard of records under one pass. A **worker** is what all
units of a kind share (which model, which settings); it is opened once wherever units are done, and
holds there what is expensive to make. Whoever does a unit writes what comes of it to the store
itself, and returns where it lies: the driver gathers that, and no rows.

    Local       one after the other, in this process
    Processes   several processes of this machine, one a device (`processes`)
    Ray         actors on the nodes of a cluster (`on_ray`)

All three end with the same bytes: a unit depends on nothing but itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

T = TypeVar("T")
Opened = Callable[["Unit"], Any]  # does one unit


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One part of a step.

    Attributes:
        step: name of the step, e.g. "observe".
        part: what of it, in words that tell it from all others.
        settings: what the worker is told of it, and no other unit needs.
    """

    step: str
    part: str
    settings: Any = field(repr=False)

    @property
    def name(self) -> str:
        """For a sentence."""
        return f"{self.step}: {self.part}"


class Report(Protocol):
    """How whoever does a unit tells the driver of it."""

    @property
    def writer(self) -> str:
        """Name of the worker, for what it writes of its own; "": the driver itself."""

    def told(self, done: int, tokens: int) -> None:
        """How far the unit is, and the tokens that models read and wrote for it so far."""

    def check(self) -> None:
        """Stop here, where nothing is lost, if the run is to stop."""


class Worker(Protocol):
    """What all units of a kind share; it travels to where they are done."""

    def open(self, report: Report) -> Opened:
        """Make ready to do units, one at a time; what is expensive is made with the first."""


class Listener(Protocol):
    """The driver's side of a `Report`."""

    def told(self, unit: Unit, done: int, tokens: int) -> None:
        """How far a unit is, and the tokens it took so far; nothing, where it is begun again."""

    def check(self) -> None:
        """Raise what stops the run, if it is to stop."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a worker takes.

    Attributes:
        device: as the settings name it: "auto", "cpu", "cuda", "cuda:1", ...
        memory: bytes of the largest model that it holds, with one batch; 0: no model.
    """

    device: str = "auto"
    memory: int = 0


class Engine(Protocol):
    """Who does the units of a run."""

    @property
    def threads(self) -> int | None:
        """Processor threads of a worker, which sums of floats depend on; None: left open."""

    @property
    def memory(self) -> "Estimate | None":
        """What tells the memory of a worker; None: it does not matter here."""

    @property
    def here(self) -> bool:
        """Whether its devices are those of the driver."""

    def ask(self, question: Callable[[], T], needs: Needs) -> T:
        """Answer a question where the work is done."""

    def lanes(self, needs: Needs) -> int:
        """How many units are done at once, where there are as many."""

    def map(
        self, units: Sequence[Unit], worker: Worker, needs: Needs, listener: Listener
    ) -> list[Any]:
        """Do all units; what came of each, in their order.

        Raises:
            UnitsLost: units ended their workers again and again; all others are done.
        """


# From a model's files and pass settings to the bytes of the model in memory, with one batch.
Estimate = Callable[[Any, Any], int]


class UnitsLost(RuntimeError):
    """Units that no worker survived; its text is the sentence for the user."""


class Stopped(Exception):
    """A worker was told to stop between two pieces of work."""


@dataclass(frozen=True, kw_only=True)
class Local:
    """One unit after the other, in this process.

    Attributes:
        threads: of a processor that a pass takes; None: as torch has it.
    """

    threads: int | None = None
    here: ClassVar[bool] = True

    @property
    def memory(self) -> "Estimate | None":
        """Nobody asks."""
        return None

    def ask(self, question: Callable[[], T], needs: Needs) -> T:
        """Answer it here."""
        return question()

    def lanes(self, needs: Needs) -> int:
        """One."""
        return 1

    def map(
        self, units: Sequence[Unit], worker: Worker, needs: Needs, listener: Listener
    ) -> list[Any]:
        """Do them here."""
        report = _Here(listener=listener)
        do = worker.open(report)
        found = []
        for unit in units:
            report.unit = unit
            found.append(do(unit))
        return found


@dataclass(kw_only=True)
class _Here:
    """The report of a unit that is done by the driver."""

    listener: Listener
    unit: Unit | None = None
    writer: str = ""

    def told(self, done: int, tokens: int) -> None:
        assert self.unit is not None, "a unit is being done"
        self.listener.told(self.unit, done, tokens)

    def check(self) -> None:
        self.listener.check()
