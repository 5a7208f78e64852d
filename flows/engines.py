"""Engines: who reads rows with models in a run, as its settings say."""

from gristmill.flows.config import EngineConfig
from gristmill.pipeline.engine.engine import Engine, Local
from gristmill.pipeline.engine.processes import Processes
from gristmill.pipeline.plan.sizes import memory_of


def made(asked: EngineConfig) -> Engine:
    """The engine of a run; its workers begin with the first unit of work.

    Raises:
        ValueError: it takes a package that is not installed.
    """
    match asked.kind:
        case "local":
            return Local(threads=asked.threads)
        case "processes":
            return Processes(workers=asked.workers, threads=asked.threads or 1, memory=memory_of)
        case "ray":
            from gristmill.pipeline.engine.on_ray import Ray, demand

            demand()
            return Ray(
                address=asked.address,
                workers=asked.workers,
                threads=asked.threads or 1,
                memory=memory_of,
            )
