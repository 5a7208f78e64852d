"""Engines in the settings of a run: what acts is taken, what would not act is refused."""

import importlib.util

import pytest
from pydantic import ValidationError

from gristmill.flows import checks, engines
from gristmill.flows.checks import Found
from gristmill.flows.config import EngineConfig, PoolConfig
from gristmill.pipeline.engine.engine import Local
from gristmill.pipeline.engine.on_ray import Ray
from gristmill.pipeline.engine.processes import Processes


@pytest.mark.parametrize(
    ("asked", "engine"),
    [
        ({}, Local()),
        ({"threads": 2}, Local(threads=2)),
        ({"kind": "processes"}, Processes(threads=1)),
        ({"kind": "processes", "workers": 3, "threads": 4}, Processes(workers=3, threads=4)),
        (
            {"kind": "ray", "workers": 8, "address": "auto"},
            Ray(workers=8, address="auto", threads=1),
        ),
    ],
)
def test_a_run_has_the_engine_that_its_settings_name(asked, engine, monkeypatch):
    monkeypatch.setattr("gristmill.pipeline.engine.on_ray.there", lambda: True)
    made = engines.made(EngineConfig(**asked))
    assert made == engine
    if engine != Local(threads=made.threads):
        assert made.memory is not None, "no more workers than fit"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"workers": 2}, "engine.workers says nothing for kind: local"),
        ({"address": "auto"}, "engine.address says nothing for kind: local"),
        ({"kind": "processes", "address": "auto"}, "engine.address says nothing for kind: proc"),
        ({"kind": "spark"}, "'local', 'processes' or 'ray'"),
        ({"kind": "processes", "workers": 0}, "greater than or equal to 1"),
    ],
)
def test_what_would_not_act_is_refused(asked, said):
    with pytest.raises(ValidationError, match=said):
        EngineConfig(**asked)


def test_a_check_says_who_works_and_what_is_not_installed(monkeypatch):
    def checked(**asked):
        config = PoolConfig(name="run", sources=[{"path": "rows.jsonl"}], engine=asked)
        found = Found()
        checks._engine(config, found)
        return found

    assert checked(kind="local").rows == []
    (row,) = checked(kind="processes", workers=2).rows
    assert row == {"what": "engine", "name": "processes", "is": "workers: 2 at most"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = checked(kind="ray").problems
    assert problem.startswith("engine: engine.kind is ray, and Ray is not installed: pip install")
