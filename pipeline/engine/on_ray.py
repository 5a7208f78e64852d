"""Ray: units of work by actors on the nodes of a cluster; the store is what they exchange.

An actor holds a worker (and its model), writes to the store itself and returns where it lies, so
that no rows travel. An actor that dies, or whose node goes away, is begun again by Ray; the unit
that it did is done again, elsewhere if need be (`actors`). All nodes must see the store, and the
models, under one path.

Ray is imported here alone, and only once an engine of this kind is used.
"""

import importlib.util
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from gristmill.pipeline.engine.actors import Actors
from gristmill.pipeline.engine.engine import Estimate, Listener, Needs, T, Unit, Worker
from gristmill.pipeline.engine.shard_worker import Answer
from gristmill.pipeline.engine.waiting import Waiting
from gristmill.pipeline.engine.working import THREADS, portable

INSTALL = "pip install 'gristmill[ray]'"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}  # nothing is reported to anybody


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
            answer: Answer = ray.get(task.remote(pickle.dumps(question)))
            if answer.error is not None:
                raise answer.error
            self._answers[asked] = answer.found
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
        return Actors(
            ray=ray,
            waiting=Waiting(units=units),
            worker=ray.put(pickle.dumps(worker)),
            options=taken,
            count=min(len(units), self.workers or _room(ray, taken)),
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
        return {**taken, "runtime_env": {"env_vars": environment}}


def _room(ray: Any, taken: dict[str, Any]) -> int:  # noqa: ANN401
    """How many actors that take so much the nodes hold."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    asked = {names[k]: v for k, v in taken.items() if k in names and v}
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    return sum(min(int(node.get(k, 0) // v) for k, v in asked.items()) for node in nodes)


def _in_words(taken: dict[str, Any]) -> str:
    memory = f" and {taken['memory'] / 2**30:,.1f} GiB" if "memory" in taken else ""
    return f"{taken['num_cpus']} processors, {taken['num_gpus']} GPUs{memory}"


def _answer(question: bytes) -> Answer:
    try:
        return Answer(found=pickle.loads(question)())
    except Exception as failed:  # the driver raises it
        return Answer(error=portable(failed))
