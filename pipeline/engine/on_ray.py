"""Ray: units of work by actors on the nodes of a cluster; the store is what they exchange.

An actor holds a worker (and its model), writes to the store itself and returns where it lies, so
that no rows travel. It is given two units at a time: it never waits for the driver. An actor that
dies, or whose node goes away, is begun again by Ray; the unit that it did is done again, elsewhere
if need be. All nodes must see the store, and the models, under one path.

Ray is imported here alone, and only once an engine of this kind is used.
"""

import importlib.util
import logging
import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from gristmill.pipeline.engine.engine import Estimate, Listener, Needs, Stopped, T, Unit, Worker
from gristmill.pipeline.engine.waiting import Waiting
from gristmill.pipeline.engine.working import THREADS, opened, portable, writer

IN_FLIGHT = 2  # units of an actor: the one that it does, and the next
RESTARTS = 3  # of an actor, by Ray itself; one that is dead for good is replaced
LOOK = 60.0  # seconds after which one says that nothing goes on
PATIENCE = 120.0  # seconds that a piece of work may take until an actor that is to stop is ended
CONTROL = "control"  # what an actor listens to while it does a unit
INSTALL = "pip install 'gristmill[ray]'"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}  # nothing is reported to anybody

_LOG = logging.getLogger(__name__)


def there() -> bool:
    """Whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


def demand() -> None:
    """Refuse where Ray is not installed.

    Raises:
        ValueError: how to install it.
    """
    if not there():
        raise ValueError(
            f"engine.kind is ray, and Ray is not installed: {INSTALL}, on every node; or take "
            "engine.kind: processes, which needs nothing more."
        )


@dataclass(frozen=True, kw_only=True)
class Ray:
    """The nodes of a Ray cluster.

    Attributes:
        address: of the cluster, e.g. "auto" or "10.0.0.1:6379"; None: one of this machine alone,
            begun here and ended with this process.
        workers: how many actors; None: as many as the cluster has room for.
        threads: of a processor, and processors, that each takes.
        memory: tells what a worker takes, which Ray finds room for.
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1
    memory: Estimate | None = field(default=None, compare=False, repr=False)
    here: ClassVar[bool] = False

    @cached_property
    def _answers(self) -> dict[Any, Any]:
        return {}

    def ask(self, question: Callable[[], T], needs: Needs) -> T:
        """Answer it in a task that has what a worker would have; each question once."""
        asked = pickle.dumps((question, needs.device))
        if asked not in self._answers:
            ray = self._connected()
            task = ray.remote(_answer).options(**self._taken(ray, Needs(device=needs.device)))
            self._answers[asked] = ray.get(task.remote(pickle.dumps(question)))
        found: T = self._answers[asked]
        return found

    def lanes(self, needs: Needs) -> int:
        """As many as the nodes have room for."""
        ray = self._connected()
        return self.workers or _room(ray, self._taken(ray, needs))

    def map(
        self, units: Sequence[Unit], worker: Worker, needs: Needs, listener: Listener
    ) -> list[Any]:
        """Do them by actors, spread over the nodes."""
        if not units:
            return []
        ray = self._connected()
        taken = self._taken(ray, needs)
        count = min(len(units), self.workers or _room(ray, taken))
        return _Actors(
            ray=ray,
            waiting=Waiting(units=units),
            worker=ray.put(pickle.dumps(worker)),
            options={**taken, "max_restarts": RESTARTS, "max_task_retries": 0},
            count=count,
            listener=listener,
        ).run()

    def _connected(self) -> Any:  # noqa: ANN401  (the module)
        demand()
        os.environ.update(QUIET)
        import ray

        if not ray.is_initialized():
            ray.init(
                address=self.address or "local",  # else Ray joins whatever cluster it finds
                include_dashboard=False if self.address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        return ray

    def _taken(self, ray: Any, needs: Needs) -> dict[str, Any]:  # noqa: ANN401
        """What an actor takes of a node.

        Raises:
            ValueError: no node has as much, or the device is a certain one.
        """
        if ":" in needs.device:
            raise ValueError(
                f"passes.device is {needs.device}, and on Ray each worker has a GPU of its own: "
                "expected auto, cpu or cuda."
            )
        has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
        gpus = 1 if needs.device.startswith("cuda") or (needs.device == "auto" and has_gpus) else 0
        taken: dict[str, Any] = {"num_cpus": self.threads, "num_gpus": gpus}
        if needs.memory and not gpus:  # a model on a GPU takes no memory of the node
            taken["memory"] = needs.memory
        if _room(ray, taken) < 1:
            raise ValueError(
                f"a worker takes {_in_words(taken)}, and no node of the Ray cluster has as much: "
                "add such a node, set a lower engine.threads, or name another passes.device."
            )
        environment = {**QUIET, **dict.fromkeys(THREADS, str(self.threads))}
        if not gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # else "auto" is a GPU that others have
        return {
            **taken,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": environment},
        }


def _room(ray: Any, taken: dict[str, Any]) -> int:  # noqa: ANN401
    """How many actors that take so much the nodes hold."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    asked = {names[k]: v for k, v in taken.items() if k in names and v}
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    return sum(min(int(node.get(k, 0) // v) for k, v in asked.items()) for node in nodes)


def _in_words(taken: dict[str, Any]) -> str:
    memory = f" and {taken['memory'] / 2**30:,.1f} GiB" if "memory" in taken else ""
    return f"{taken['num_cpus']} processors, {taken['num_gpus']} GPUs{memory}"


def _answer(question: bytes) -> Any:  # noqa: ANN401
    return pickle.loads(question)()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an actor returns of a unit.

    Attributes:
        found: what came of it.
        error: what went wrong, in its place.
        done: how far it is.
        tokens: that models read and wrote for it.
        said: what there was to say: logger, level, text.
    """

    found: Any = None
    error: BaseException | None = None
    done: int = 0
    tokens: int = 0
    said: tuple[tuple[str, int, str], ...] = ()


class ShardWorker:
    """The actor: a worker that is opened with the first unit, and stays."""

    def __init__(self, worker: bytes, name: str, level: int) -> None:
        self._worker = worker
        self._do: Callable[[Unit], Any] | None = None
        self._report = _Kept(writer=writer(name))
        root = logging.getLogger()
        root.setLevel(min(root.level, level))
        root.addHandler(_Said(self._report, level))

    def ready(self) -> None:
        """It is there."""

    def stop(self) -> None:
        """End what is being done at the next place where nothing is lost."""
        self._report.stop.set()

    def do(self, unit: Unit) -> Answer:
        """Do a unit."""
        report = self._report
        report.clear()
        found, error = None, None
        try:
            self._do = self._do or opened(self._worker, report)
            found = self._do(unit)
        except Stopped:
            pass  # the driver has stopped already
        except Exception as failed:  # the driver raises it
            error = portable(failed)
        return Answer(
            found=found,
            error=error,
            done=report.done,
            tokens=report.tokens,
            said=tuple(report.said),
        )


@dataclass(kw_only=True)
class _Kept:
    """The report of an actor, which the driver sees with the answer."""

    writer: str
    done: int = 0
    tokens: int = 0
    said: list[tuple[str, int, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def clear(self) -> None:
        self.done = self.tokens = 0
        self.said.clear()

    def told(self, done: int, tokens: int) -> None:
        self.done, self.tokens = done, tokens

    def check(self) -> None:
        """Stop here if the driver said so."""
        if self.stop.is_set():
            raise Stopped


class _Said(logging.Handler):
    """What is said, with the answer."""

    def __init__(self, report: _Kept, level: int) -> None:
        super().__init__(level)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        self.report.said.append((record.name, record.levelno, record.getMessage()))


@dataclass(kw_only=True)
class _Place:
    """An actor, and what it was given, in order; `ready` stands while it is begun (again)."""

    actor: Any
    name: str
    ready: Any
    given: deque[tuple[int, Any]] = field(default_factory=deque)


@dataclass(kw_only=True)
class _Actors:
    """The actors of one `map`."""

    ray: Any
    waiting: Waiting
    worker: Any
    options: dict[str, Any]
    count: int
    listener: Listener
    _places: list[_Place] = field(default_factory=list)

    def run(self) -> list[Any]:
        """Do all units."""
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

    def _stop(self) -> None:
        """Let all actors finish the piece of work that they are at."""
        busy = [place for place in self._places if place.given]
        for place in busy:
            place.actor.stop.options(concurrency_group=CONTROL).remote()
        refs = [ref for place in busy for _, ref in place.given]
        if refs:
            self.ray.wait(refs, num_returns=len(refs), timeout=PATIENCE)

    def _begin(self, name: str) -> _Place:
        actor = (
            self.ray.remote(concurrency_groups={CONTROL: 1})(ShardWorker)
            .options(**self.options)
            .remote(self.worker, name, logging.getLogger().getEffectiveLevel())
        )
        return _Place(actor=actor, name=name, ready=self._waits(actor))

    @staticmethod
    def _waits(actor: Any) -> Any:  # noqa: ANN401
        """Answered once an actor is there, however often it is begun until then."""
        return actor.ready.options(max_task_retries=-1).remote()

    def _fill(self, place: _Place) -> None:
        while place.ready is None and len(place.given) < IN_FLIGHT:
            number = self.waiting.next()
            if number is None:
                return
            place.given.append((number, place.actor.do.remote(self.waiting.units[number])))

    def _hear(self) -> None:
        """Take what has come of one unit, or of an actor that is begun."""
        refs = {}
        for place in self._places:
            if place.ready is not None:
                refs[place.ready] = place
            refs |= {ref: place for _, ref in place.given}
        heard, _ = self.ray.wait(list(refs), num_returns=1, timeout=LOOK)
        if not heard:
            if not any(place.given for place in self._places):
                _LOG.warning("no worker runs: the Ray cluster has no room for one at the moment.")
            return
        (ref,) = heard
        place = refs[ref]
        if ref == place.ready:
            self._ready(place)
        else:
            self._take(place)

    def _ready(self, place: _Place) -> None:
        from ray.exceptions import RayActorError

        try:
            self.ray.get(place.ready)
            place.ready = None
        except RayActorError:  # dead for good
            again = self._begin(place.name)
            place.actor, place.ready = again.actor, again.ready

    def _take(self, place: _Place) -> None:
        """Take the answers of an actor in their order; of a dead one, the units back."""
        from ray.exceptions import RayActorError

        while place.given:
            number, ref = place.given[0]
            if not self.ray.wait([ref], timeout=0)[0]:
                return
            try:
                answer: Answer = self.ray.get(ref)
            except RayActorError as error:
                self._died(place, str(error))
                return
            place.given.popleft()
            self._answered(number, answer)

    def _answered(self, number: int, answer: Answer) -> None:
        for name, level, text in answer.said:
            logging.getLogger(name).log(level, "%s", text)
        self.listener.told(self.waiting.units[number], answer.done, answer.tokens)
        if answer.error is not None:
            raise answer.error
        self.waiting.done(number, answer.found)
        self.listener.check()

    def _died(self, place: _Place, why: str) -> None:
        """The first unit of a dead actor was being done; the next was only given to it."""
        first, *rest = [number for number, _ in place.given]
        place.given.clear()
        for number in reversed(rest):
            self.waiting.back(number)
        self.waiting.died(first, why.splitlines()[0])
        self.listener.told(self.waiting.units[first], 0, 0)
        place.ready = self._waits(place.actor)
