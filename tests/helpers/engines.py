"""Engines for tests of steps that work on any: what they are called, and what has to stand."""

import pickle
from dataclasses import dataclass

import pytest

from gristmill.pipeline.engine import on_ray
from gristmill.pipeline.engine.engine import Local
from gristmill.pipeline.engine.on_ray import Ray
from gristmill.pipeline.engine.processes import Processes


@dataclass(frozen=True, kw_only=True)
class Travelling(Local):
    """Workers of this process, in which everything has travelled as if to others.

    The run is stopped after `most` units.
    """

    most: int | None = None

    def lanes(self, needs):
        return 2

    def map(self, units, worker, needs, listener):
        def told(done, tokens):
            listener.told(at[0], done, tokens)

        at = [None]
        report = _Report(told=told, check=listener.check)
        do = pickle.loads(pickle.dumps(worker)).open(report)
        found = []
        for unit in units[: self.most]:
            at[0] = unit
            found.append(pickle.loads(pickle.dumps(do(pickle.loads(pickle.dumps(unit))))))
        if self.most is not None:
            raise RuntimeError("the run was stopped")
        return found


@dataclass(frozen=True, kw_only=True)
class _Report:
    told: object
    check: object
    writer: str = "worker-0"


def several():
    """Cases (engine, fixtures): the first is quick, the others start processes."""
    slow = pytest.mark.slow
    yield pytest.param(Travelling(threads=1), (), id="travelling")
    yield pytest.param(Processes(workers=2), (), id="processes", marks=slow)
    skipped = pytest.mark.skipif(not on_ray.there(), reason=f"no Ray: {on_ray.INSTALL}")
    yield pytest.param(Ray(workers=2), ("two_nodes",), id="ray", marks=[slow, skipped])
