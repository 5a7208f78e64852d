"""Actors: who does which unit on a Ray cluster, and what is done again when one dies.

An actor is given a unit at a time, so that one that dies names the unit that ended it: of two, the
answer of the first may be lost with an actor that dies at once in the second. The way to the driver
and back takes milliseconds. A dead actor is begun again by Ray, wherever there is room, and is
given units once it says that it is there; one that Ray gives up is replaced by another.

Ray itself is handed in, so that this is tested without a cluster.
"""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gristmill.pipeline.engine.engine import Listener, UnitsLost
from gristmill.pipeline.engine.shard_worker import Answer, ShardWorker
from gristmill.pipeline.engine.waiting import DEATHS, Waiting

RESTARTS = 3  # of an actor, by Ray itself; one that is dead for good is replaced
LOOK = 60.0  # seconds after which one says that nothing goes on
PATIENCE = 120.0  # seconds that a piece of work may take until an actor that is to stop is ended
CONTROL = "control"  # what an actor listens to while it does a unit
# What Ray raises of a unit whose actor, or node, is gone, or whose answer went with the node.
GONE = (
    "RayActorError",
    "OutOfMemoryError",
    "WorkerCrashedError",
    "NodeDiedError",
    "ObjectLostError",
)


_LOG = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Place:
    """An actor; `ready` stands while it is begun (again), `answer` while it does `unit`."""

    actor: Any
    name: str
    ready: Any = None
    answer: Any = None
    unit: int = -1


@dataclass(kw_only=True)
class Actors:
    """The actors of one `map`.

    Attributes:
        ray: the module.
        waiting: the units.
        worker: what they share, pickled, where Ray keeps it.
        options: what an actor takes of a node, and where it is begun.
        count: how many actors.
        listener: the driver's.
    """

    ray: Any
    waiting: Waiting
    worker: Any
    options: Mapping[str, Any]
    count: int
    listener: Listener
    _places: list[_Place] = field(default_factory=list)
    _unready: int = 0  # actors that Ray gave up, one after the other, before they were there

    def run(self) -> list[Any]:
        """Do all units.

        Raises:
            UnitsLost: units ended their actors again and again, or no actor could begin.
        """
        try:
            self._places += [self._begin(f"actor-{n}") for n in range(self.count)]
            while self.waiting.open:
                for place in self._places:
                    self._fill(place)
                self._hear()
        except Exception:
            self._stop()
            raise
        finally:
            for place in self._places:
                self.ray.kill(place.actor)
        return self.waiting.all()

    @property
    def _gone(self) -> tuple[type[Exception], ...]:
        return tuple(getattr(self.ray.exceptions, name) for name in GONE)

    def _stop(self) -> None:
        """Let all actors finish the piece of work that they are at."""
        busy = [place for place in self._places if place.answer is not None]
        for place in busy:
            place.actor.stop.options(concurrency_group=CONTROL).remote()
        if busy:
            refs = [place.answer for place in busy]
            self.ray.wait(refs, num_returns=len(refs), timeout=PATIENCE)

    def _begin(self, name: str) -> _Place:
        actor = (
            self.ray.remote(concurrency_groups={CONTROL: 1})(ShardWorker)
            .options(
                max_restarts=RESTARTS,
                max_task_retries=-1,  # `ready` waits until it is begun again
                scheduling_strategy="SPREAD",
                **self.options,
            )
            .remote(
                name, logging.getLogger().getEffectiveLevel(), [*map(os.path.abspath, sys.path)]
            )
        )
        return _Place(actor=actor, name=name, ready=actor.ready.remote())

    def _fill(self, place: _Place) -> None:
        """Give an actor that is there, and does nothing, a unit."""
        if place.ready is not None or place.answer is not None:
            return
        number = self.waiting.next()
        if number is None:
            return
        do = place.actor.do.options(max_task_retries=0)  # elsewhere, and deaths are counted
        place.unit, place.answer = number, do.remote(self.worker, self.waiting.units[number])

    def _hear(self) -> None:
        """Take what has come of one unit, or of an actor that is begun."""
        asked = {
            ref: place
            for place in self._places
            for ref in (place.ready, place.answer)
            if ref is not None
        }
        heard, _ = self.ray.wait(list(asked), num_returns=1, timeout=LOOK)
        if not heard:
            if all(place.answer is None for place in self._places):
                _LOG.warning("no worker runs: the Ray cluster has no room for one at the moment.")
            return
        (ref,) = heard
        place = asked[ref]
        if ref == place.ready:
            self._ready(place)
        else:
            self._take(place)

    def _ready(self, place: _Place) -> None:
        """An actor is there, or never will be: then another is begun in its place."""
        try:
            self.ray.get(place.ready)
        except self._gone as error:
            self._unready += 1
            if self._unready == DEATHS:
                raise UnitsLost(
                    f"actors end before they do anything ({_why(error)}): expected that "
                    "gristmill is installed on every node, at one version."
                ) from error
            again = self._begin(place.name)
            place.actor, place.ready = again.actor, again.ready
        else:
            place.ready = None
            self._unready = 0

    def _take(self, place: _Place) -> None:
        """Take what an actor answers; where it is gone, another may do the unit."""
        number, ref, place.answer = place.unit, place.answer, None
        try:
            answer: Answer = self.ray.get(ref)
        except self._gone as error:
            self.waiting.died(number, _why(error))
            self.listener.told(self.waiting.units[number], 0, 0)
            place.ready = place.actor.ready.remote()
        else:
            self._answered(number, answer)

    def _answered(self, number: int, answer: Answer) -> None:
        for name, level, text in answer.said:
            logging.getLogger(name).log(level, "%s", text)
        self.listener.told(self.waiting.units[number], answer.done, answer.tokens)
        if answer.error is not None:
            raise answer.error
        self.waiting.done(number, answer.found)
        self.listener.check()


def _why(error: Exception) -> str:
    """Why an actor ended, in one line; Ray knows best."""
    told = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"its actor is gone: {told}"
