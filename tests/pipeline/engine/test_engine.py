"""Engines: every unit once, in order; a worker that dies costs its unit alone."""

import logging
import os
import subprocess
import sys
import time

import pytest
from engine_workers import Heard, Writing, units

from gristmill.pipeline.engine import processes as module
from gristmill.pipeline.engine.counted import Counted
from gristmill.pipeline.engine.engine import Local, Needs, UnitsLost
from gristmill.pipeline.engine.one_disk import demand_seen
from gristmill.pipeline.engine.processes import Processes
from gristmill.pipeline.engine.waiting import DEATHS, Waiting
from gristmill.pipeline.engine.working import opened, portable, writer

CPU = Needs(device="cpu")


def lines(folder):
    return [line.split() for line in (folder / "log").read_text().splitlines()]


@pytest.mark.parametrize(
    "engine",
    [Local(), pytest.param(Processes(workers=2, threads=3), marks=pytest.mark.slow)],
    ids=["local", "processes"],
)
def test_every_unit_is_done_once_and_answers_come_in_order(engine, tmp_path, caplog):
    heard = Heard(told_of=[])
    with caplog.at_level(logging.WARNING):
        found = engine.map(units(7), Writing(folder=tmp_path, pieces=2), CPU, heard)
    assert found == [n * n for n in range(7)]
    done = lines(tmp_path)
    assert sorted(int(n) for n, *_ in done) == list(range(7))
    assert sorted(heard.told_of) == sorted((n, d, 10 * d) for n in range(7) for d in (1, 2))
    assert {r.getMessage() for r in caplog.records} == {f"unit {n} is done" for n in range(7)}
    if engine != Local():
        assert {w for _, w, _ in done} == {writer("worker-0"), writer("worker-1")}
        assert {threads for *_, threads in done} == {"3"}


@pytest.mark.slow
def test_a_worker_that_dies_on_a_unit_costs_that_unit_alone_and_a_rerun_does_no_other(tmp_path):
    (tmp_path / "deadly").touch()
    engine, worker = Processes(workers=2), Writing(folder=tmp_path, dies=2)
    with pytest.raises(UnitsLost, match=r"1 of 6 units .* count: shard 2 \(exit code 9\)\. All"):
        engine.map(units(6), worker, CPU, Heard(told_of=[]))
    assert sorted(p.stem for p in tmp_path.glob("*.txt")) == ["0", "1", "3", "4", "5"]
    begun = [int(n) for n, *_ in lines(tmp_path)]
    assert begun.count(2) == DEATHS == 3
    assert all(begun.count(n) == 1 for n in (0, 1, 3, 4, 5))
    (tmp_path / "deadly").unlink()
    left = [u for u in units(6) if not (tmp_path / f"{u.settings}.txt").exists()]
    assert engine.map(left, worker, CPU, Heard(told_of=[])) == [4]


@pytest.mark.slow
def test_what_fails_in_a_worker_fails_here_with_its_own_error(tmp_path):
    with pytest.raises(ValueError, match="unit 1 cannot be done"):
        Processes(workers=1).map(
            units(3), Writing(folder=tmp_path, fails=1), CPU, Heard(told_of=[])
        )


@pytest.mark.slow
def test_a_run_that_stops_at_a_cap_ends_its_workers_between_two_pieces(tmp_path):
    worker = Writing(folder=tmp_path, pieces=10_000)
    with pytest.raises(RuntimeError, match="stopped at the cap"):
        Processes(workers=1).map(units(2), worker, CPU, Heard(told_of=[], most=3))
    assert not list(tmp_path.glob("*.txt"))


@pytest.mark.slow
def test_workers_end_with_a_driver_that_is_killed(tmp_path):
    code = f"""
from pathlib import Path
from engine_workers import Heard, Writing, units
from gristmill.pipeline.engine.engine import Needs
from gristmill.pipeline.engine.processes import Processes
worker = Writing(folder=Path({str(tmp_path)!r}), pieces=10**9)
Processes(workers=1).map(units(1), worker, Needs(device="cpu"), Heard(told_of=[]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen([sys.executable, "-c", code], env=environment)
    until = time.monotonic() + 30
    while not (tmp_path / "log").exists() and time.monotonic() < until:
        time.sleep(0.02)
    import psutil

    (child,) = psutil.Process(driver.pid).children()
    driver.kill()
    driver.wait()
    child.wait(timeout=10)


def test_a_unit_is_tried_until_it_has_ended_three_workers():
    waiting = Waiting(units=units(2))
    assert (waiting.next(), waiting.next(), waiting.next()) == (0, 1, None)
    waiting.done(1, "b")
    waiting.died(0, "a")
    waiting.back(waiting.next())  # not begun: no death of its
    for _ in range(2):
        assert waiting.open
        assert waiting.next() == 0
        waiting.died(0, "exit code 9")
    assert not waiting.open
    with pytest.raises(UnitsLost, match="ended their worker 3 times each"):
        waiting.all()


def test_a_worker_of_a_script_is_refused_in_a_sentence():
    for nowhere in (b"cgristmill_nowhere\nX\n.", b"c__main__\nNowhere\n."):
        with pytest.raises(ValueError, match="define signals and views in a module that is"):
            opened(nowhere, None)


def test_an_error_travels_as_it_is_or_in_words():
    class Own(Exception):
        pass

    error = portable(ValueError("no rows"))
    assert (type(error), str(error)) == (ValueError, "no rows")
    assert str(portable(Own("lost"))) == "Own: lost"


def test_no_more_workers_than_cores_and_memory_hold(monkeypatch):
    import psutil

    class Free:
        available = 10 << 30

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Free)
    monkeypatch.setattr(module, "_cores", lambda: 8)
    assert Processes(threads=2).lanes(CPU) == 4
    assert Processes().lanes(Needs(device="cpu", memory=3 << 30)) == 2
    assert Processes().lanes(Needs(device="cpu", memory=99 << 30)) == 1
    assert Processes(workers=5).lanes(CPU) == 5


def test_each_worker_has_a_gpu_of_its_own_where_a_run_takes_one(monkeypatch):
    monkeypatch.setattr(module, "_gpus", lambda: ["2", "5"])
    monkeypatch.setattr(module, "_cores", lambda: 8)
    assert module._places("auto") == [{"CUDA_VISIBLE_DEVICES": n} for n in ("2", "5")]
    assert Processes().lanes(Needs(device="cuda")) == 2
    assert Processes().lanes(Needs(device="cpu")) == 8
    assert Processes().lanes(Needs(device="cuda:1")) == 1, "a certain one is shared by all"


def test_what_a_worker_wrote_must_be_seen_by_the_driver(tmp_path):
    class Elsewhere(Local):
        here = False

    (tmp_path / "there").touch()
    demand_seen(Elsewhere(), [tmp_path / "there"])
    with pytest.raises(ValueError, match="lies under one path on all nodes"):
        demand_seen(Elsewhere(), [tmp_path / "there", tmp_path / "nowhere"])


def test_what_is_counted_falls_where_a_unit_is_begun_again():
    told = []
    counted = Counted(progress=lambda *line: told.append(line), total=9, before=2)
    first, second = units(2)
    for unit, done in ((first, 1), (second, 1), (first, 3), (first, 0), (first, 2)):
        counted.told(unit, done, 0)
    assert told == [(3, 9), (4, 9), (6, 9), (3, 9), (5, 9)]
