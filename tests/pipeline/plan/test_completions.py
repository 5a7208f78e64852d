"""Completions and steps: what answers cost, and how long work takes that goes on in steps."""

import pytest

from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.plan.amounts import Amount
from gristmill.pipeline.plan.completions import Calls, call_line, embedding_line
from gristmill.pipeline.plan.probe import Stopwatch, probing
from gristmill.pipeline.plan.stepping import Stepping

PASSES = Passes(device="cpu")


def calls(**how):
    told = {"local": False, "remote": False, "prompts": ("say this", "and that", "or this")}
    return Calls(
        role="extractor",
        model="any",
        number=100,
        read=Amount(value=50.0, half=5.0),
        written=20,
        price_in=2.0,
        price_out=10.0,
        **{**told, **how},
    )


def test_answers_cost_their_prices_and_take_time_where_it_can_be_known(store, tiny):
    models = Models(store=store, roles={"extractor": (str(tiny),), "embedder": (str(tiny),)})
    recorded = call_line(calls(), models, PASSES)
    assert (recorded.tokens.value, recorded.tokens.half) == (5_000.0, 500.0)
    assert recorded.written.value == 2_000.0
    assert recorded.all_tokens.value == 7_000.0
    assert recorded.money.value == pytest.approx((5_000 * 2 + 2_000 * 10) / 1e6)
    assert recorded.money.half == pytest.approx(500 * 2 / 1e6)
    assert recorded.seconds.value == 0
    assert "5,000 ± 500 read, 2,000 written" in recorded.row()["tokens"]
    assert call_line(calls(remote=True), models, PASSES).seconds is None
    local = call_line(calls(local=True), models, PASSES)
    assert local.flops.value > 0
    assert local.seconds is None
    with probing() as probe:
        timed = call_line(calls(local=True), models, PASSES, probe)
        embedded = embedding_line(["a text"] * 9, Amount(value=4.0), models, PASSES, probe)
    assert timed.seconds.value > timed.seconds.half / 100 > 0
    assert embedded.seconds.value > 0
    assert embedded.tokens.value == 36.0


class Set:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self):
        return self.now


def test_steps_are_extrapolated_and_what_is_done_once_is_not():
    clock, caps = Set(), RunCaps()
    steps = Stepping(watch=Stopwatch(clock=clock, caps=caps))
    steps.begin()
    clock.now = 7.0  # five seconds to start, and a first step of two
    for step in range(1, 5):
        caps.spend(10)
        steps.told(step, 4, {})
        clock.now += 2.0
    clock.now += 1.0  # the last step's end was told at 13; saving takes three
    steps.end()
    assert steps.fixed == pytest.approx(16.0 - 4 * 2.0)
    assert steps.seconds(1.0) == Amount(value=pytest.approx(16.0), half=0.0)
    assert steps.seconds(10.0).value == pytest.approx(8.0 + 40 * 2.0)
    assert steps.tokens(10.0) == Amount(value=400.0)
    silent = Stepping(watch=Stopwatch(clock=clock, caps=RunCaps()))
    silent.begin()
    clock.now += 6.0
    silent.end()
    assert silent.seconds(2.0) == Amount(value=12.0, half=12.0), "nothing is known of its parts"
    assert silent.tokens(2.0) is None
