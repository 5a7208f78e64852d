"""Ray: never imported but where it is asked for; on a cluster the same bytes, whatever dies."""

import contextlib
import importlib.util
import os
import re
import sys
import time
from pathlib import Path

import pytest
from engine_workers import Heard, Writing, units

from gristmill.pipeline.engine import actors, on_ray, working
from gristmill.pipeline.engine.engine import Needs, UnitsLost
from gristmill.pipeline.engine.on_ray import Ray

ROOT = Path(__file__).parents[3]
CPU = Needs(device="cpu")
on_a_cluster = pytest.mark.skipif(
    not on_ray.there(), reason=f"Ray is not installed: {on_ray.INSTALL}"
)


def test_ray_is_imported_by_nobody_who_did_not_ask_for_it():
    """Only within a function of one module, which a run imports for `kind: ray` alone."""
    found = {}
    for folder in ("pipeline", "flows", "selectors", "synthesis"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text("utf-8")
            if lines := re.findall(r"^( *)(?:import|from) ray\b", text, re.MULTILINE):
                found[path.name] = lines
            if path.name != "on_ray.py" and re.search(r"^(import|from) \S*on_ray\b", text, re.M):
                found[path.name] = ["imports on_ray with itself"]
    assert set(found) == {"on_ray.py"}
    assert all(indented for indented in found["on_ray.py"])


def test_without_ray_the_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'gristmill\[ray\]', on every node"):
        Ray().map(units(1), Writing(folder=Path()), CPU, Heard(told_of=[]))


@pytest.fixture
def quiet(monkeypatch):
    """Nothing goes out; nodes find what a test defines."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    for name, value in on_ray.QUIET.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def two_gpus(quiet):
    """A cluster of this machine alone, which claims to have two GPUs."""
    import ray

    with contextlib.suppress(ResourceWarning):
        ray.init(
            address="local",
            num_cpus=3,
            num_gpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 << 20,
        )
    yield ray
    ray.shutdown()


@pytest.mark.slow
@on_a_cluster
def test_units_by_actors(two_gpus, tmp_path, caplog):
    """One cluster for all of it: a cluster takes seconds to start."""
    folders = [tmp_path / name for name in ("plain", "dead", "fails", "stops", "gpus")]
    for folder in folders:
        folder.mkdir()
    plain, dead, fails, stops, gpus = folders

    heard = Heard(told_of=[])
    worker = Writing(folder=plain, pieces=2, together=2)
    assert Ray(workers=2, threads=1).map(units(7), worker, CPU, heard) == [n * n for n in range(7)]
    assert sorted(heard.told_of) == [(n, 2, 20) for n in range(7)]
    done = [line.split() for line in (plain / "log").read_text().splitlines()]
    assert sorted(int(n) for n, *_ in done) == list(range(7))
    assert {who for _, who, _ in done} == {working.writer("actor-0"), working.writer("actor-1")}
    assert {threads for *_, threads in done} == {"1"}
    assert {f"unit {n} is done" for n in range(7)} <= {r.getMessage() for r in caplog.records}

    (dead / "deadly").touch()
    with pytest.raises(UnitsLost, match=r"1 of 6 units .* count: shard 2 \("):
        Ray(workers=2).map(units(6), Writing(folder=dead, dies=2), CPU, Heard(told_of=[]))
    assert sorted(p.stem for p in dead.glob("*.txt")) == ["0", "1", "3", "4", "5"]
    begun = [line.split()[0] for line in (dead / "log").read_text().splitlines()]
    assert begun.count("2") == 3
    assert all(begun.count(n) == 1 for n in "01345")

    with pytest.raises(ValueError, match="unit 1 cannot be done"):
        Ray(workers=1).map(units(3), Writing(folder=fails, fails=1), CPU, Heard(told_of=[]))

    begun = time.monotonic()
    worker = Writing(folder=stops, fails=0, pieces=10**9, together=2)
    with pytest.raises(ValueError, match="unit 0 cannot be done"):
        Ray(workers=2).map(units(2), worker, CPU, Heard(told_of=[]))
    assert time.monotonic() - begun < actors.PATIENCE, "the other one stops between two pieces"
    assert not list(stops.glob("*.txt"))

    cuda = Needs(device="cuda")
    assert Ray().lanes(cuda) == 2, "three processors, and two GPUs"
    assert Ray().lanes(Needs(device="auto")) == 2
    assert Ray().lanes(CPU) == 3
    worker = Writing(folder=gpus, variable="CUDA_VISIBLE_DEVICES", together=2)
    Ray().map(units(6), worker, cuda, Heard(told_of=[]))
    devices = {line.split()[1]: line.split()[2] for line in (gpus / "log").read_text().splitlines()}
    assert set(devices.values()) == {"0", "1"}, "each actor has one of its own"

    with pytest.raises(
        ValueError, match=r"no node of the Ray cluster has as much: add such a node"
    ):
        Ray().map(units(1), worker, Needs(device="cpu", memory=1 << 50), Heard(told_of=[]))
    with pytest.raises(ValueError, match="expected auto, cpu or cuda"):
        Ray().lanes(Needs(device="cuda:1"))
    assert Ray().ask(os.getpid, CPU) != os.getpid(), "a question is answered where the work is done"
