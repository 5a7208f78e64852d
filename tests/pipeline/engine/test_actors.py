"""Actors on a Ray that is played: who is given what, and what is done again when one is gone."""

import logging
import pickle
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from engine_workers import Heard, Writing, units

from gristmill.pipeline.engine import actors as module
from gristmill.pipeline.engine.actors import Actors
from gristmill.pipeline.engine.engine import UnitsLost
from gristmill.pipeline.engine.shard_worker import Answer, ShardWorker
from gristmill.pipeline.engine.waiting import DEATHS, Waiting
from gristmill.pipeline.engine.working import writer


class ActorGone(Exception):
    pass


@dataclass(eq=False)
class Call:
    """A call of an actor, which is answered when Ray is waited for."""

    answer: object
    options: dict
    sent: bool = False


@dataclass(eq=False)
class Actor:
    """Ends in the units `deadly` names; Ray gives it up after so many restarts."""

    played: "Played"
    options: dict
    name: str
    deaths: int = 0
    most: int = 0  # calls that were ever open at once

    def __getattr__(self, method):
        def remote(*given, **options):
            call = Call(answer=lambda: getattr(self, f"_{method}")(*given), options=options)
            self.played.calls.append((self, call))
            open_ = [c for a, c in self.played.calls if a is self and not c.sent]
            self.most = max(self.most, len(open_))
            return call

        return SimpleNamespace(
            remote=remote, options=lambda **o: SimpleNamespace(remote=lambda *g: remote(*g, **o))
        )

    def _ready(self):
        if self.played.unable or self.deaths > module.RESTARTS:
            raise ActorGone("no gristmill here\nat length")

    def _do(self, worker, unit):
        self.played.begun.append(unit.settings)
        if unit.settings in self.played.deadly:
            self.deaths += 1
            raise ActorGone("The actor died.\nAt length.")
        error = ValueError("it fails") if unit.settings == self.played.failing else None
        said = (("gristmill.worker", logging.WARNING, f"unit {unit.settings}"),)
        return Answer(found=(worker, unit.settings), error=error, done=1, tokens=5, said=said)


@dataclass
class Played:
    """Ray, as far as actors ask for it: one answer at a time, the oldest call's."""

    deadly: tuple = ()
    failing: int | None = None
    unable: bool = False
    calls: list = field(default_factory=list)
    begun: list = field(default_factory=list)
    actors: list = field(default_factory=list)
    killed: list = field(default_factory=list)
    exceptions = SimpleNamespace(**dict.fromkeys(module.GONE, ActorGone))

    def remote(self, **groups):
        assert groups == {"concurrency_groups": {module.CONTROL: 1}}

        def made(options, name):
            self.actors.append(Actor(played=self, options=options, name=name))
            return self.actors[-1]

        return lambda of: SimpleNamespace(
            options=lambda **options: SimpleNamespace(remote=lambda name, *_: made(options, name))
        )

    def wait(self, refs, *, num_returns, timeout):
        refs = [call for _, call in self.calls if call in refs]
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref):
        ref.sent = True
        return ref.answer()

    def kill(self, actor):
        self.killed.append(actor)


def map_on(played, count, *, actors=2, **heard):
    listener = Heard(told_of=[], **heard)
    found = Actors(
        ray=played,
        waiting=Waiting(units=units(count)),
        worker="what they share",
        options={"num_cpus": 1},
        count=actors,
        listener=listener,
    ).run()
    return found, listener


def test_every_unit_is_done_once_by_actors_that_have_one_each(caplog):
    played = Played()
    found, heard = map_on(played, 7)
    assert found == [("what they share", n) for n in range(7)]
    assert sorted(played.begun) == list(range(7))
    assert sorted(heard.told_of) == [(n, 1, 5) for n in range(7)]
    assert {r.getMessage() for r in caplog.records} == {f"unit {n}" for n in range(7)}
    assert [a.name for a in played.actors] == ["actor-0", "actor-1"]
    assert {a.most for a in played.actors} == {1}
    for actor in played.actors:
        assert actor.options == {
            "num_cpus": 1,
            "max_restarts": 3,
            "max_task_retries": -1,
            "scheduling_strategy": "SPREAD",
        }
    retries = {c.options.get("max_task_retries") for _, c in played.calls if c.options}
    assert retries == {0}, "of units; others wait for an actor that is begun again"
    assert played.killed == played.actors


def test_a_unit_that_ends_three_actors_is_given_up_and_the_others_are_done():
    played = Played(deadly=(1,))
    with pytest.raises(
        UnitsLost, match=r"1 of 4 units .* count: shard 1 \(its actor is gone: The actor died\.\)"
    ):
        map_on(played, 4)
    assert sorted(played.begun) == [0, 1, 1, 1, 2, 3]
    assert len(played.actors) == 2, "Ray begins them again itself"


def test_an_actor_that_ray_gives_up_is_replaced():
    played = Played(deadly=(0, 1))
    with pytest.raises(UnitsLost, match="2 of 4 units"):
        map_on(played, 4, actors=1)
    assert sorted(played.begun) == [0, 0, 0, 1, 1, 1, 2, 3]
    assert [a.name for a in played.actors] == ["actor-0", "actor-0"], "after four deaths"


def test_actors_that_cannot_begin_end_the_run_with_the_reason():
    played = Played(unable=True)
    with pytest.raises(
        UnitsLost, match=r"before they do anything \(its actor is gone: no gristmill here\)"
    ):
        map_on(played, 4, actors=1)
    assert not played.begun
    assert len(played.actors) == DEATHS


@pytest.mark.parametrize("how", ["fails", "capped"])
def test_what_ends_the_run_lets_the_other_actors_finish_their_piece(how):
    played = Played(failing=0 if how == "fails" else None)
    with pytest.raises((ValueError, RuntimeError), match=r"it fails|stopped at the cap"):
        map_on(played, 4, most=None if how == "fails" else 1)
    asked = [a.name for a, c in played.calls if c.options.get("concurrency_group")]
    assert asked == ["actor-1"]
    assert len(played.killed) == 2


@pytest.fixture
def calm(monkeypatch):
    """What an actor changes in its process is changed back."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [*root.handlers])
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    logging.captureWarnings(False)


def test_an_actor_answers_with_all_it_has_to_tell(calm, tmp_path):
    worker = pickle.dumps(Writing(folder=tmp_path, pieces=2, fails=1))
    known = [*sys.path]
    actor = ShardWorker("actor-0", logging.WARNING, [known[0], "/where/the/driver/looks"])
    assert sys.path == [*known, "/where/the/driver/looks"]
    first, second = units(2)
    answer = actor.do(worker, first)
    assert (answer.found, answer.error, answer.done, answer.tokens) == (0, None, 2, 20)
    assert answer.said == (("gristmill.worker", logging.WARNING, "unit 0 is done"),)
    failed = actor.do(worker, second)
    assert isinstance(failed.error, ValueError)
    assert (failed.done, failed.said) == (0, ()), "nothing of the unit before"
    actor.stop()
    stopped = actor.do(worker, first)
    assert (stopped.found, stopped.error, stopped.done) == (None, None, 1), "after one piece"
    assert writer("actor-0") in (tmp_path / "log").read_text()
