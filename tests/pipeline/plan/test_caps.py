"""Caps: a run stops between two units of work, and ends as one that was never stopped."""

import pytest
from ingested import dataset
from rows import chat_rows
from toy_training import chats, one_thread, weights  # noqa: F401  (a fixture)

from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.models.caps import CapReached, RunCaps
from gristmill.pipeline.models.completion.client import Budget, Request, Sampling, complete
from gristmill.pipeline.models.completion.recorded import Recorded
from gristmill.pipeline.models.completion.requests import Reply
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.forward_signals import MeanLoss, TokenLosses


class Clock:
    """Seconds that a test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_each_cap_says_what_was_reached_what_was_done_and_how_to_go_on():
    clock = Clock()
    caps = RunCaps(hours=2.0, tokens=1_000, money=5.0, hour_price=1.0, clock=clock)
    caps.told("target: dialogue", 12, 60)
    caps.check()
    caps.spend(1_000)
    with pytest.raises(CapReached) as stop:
        caps.check()
    assert str(stop.value) == (
        "stopped at the cap max_tokens = 1,000: models read and wrote 1,000 tokens in this run; "
        "done: target: dialogue, 12 of 60. All finished work is kept in the store: run the same "
        "command again to go on from there, or raise the cap."
    )
    caps = RunCaps(hours=2.0, clock=clock)
    clock.now += 2 * 3600 - 1
    assert not caps.reached
    clock.now += 1
    with pytest.raises(CapReached, match="max_hours = 2: it took 2 h in this run; done: nothing"):
        caps.check()
    caps = RunCaps(money=5.0, hour_price=4.0, clock=clock)
    caps.spend(10, 3.0)
    clock.now += 1_800
    with pytest.raises(CapReached, match="max_money = 5: 5 was spent"):
        caps.check()


def test_what_might_exceed_a_cap_is_not_begun():
    caps = RunCaps(tokens=100)
    caps.spend(60)
    assert caps.before(40, 0.0) is None
    assert "60 tokens in this run, and the next request might exceed it" in str(caps.before(41, 0))


def context(store, tiny, caps):
    models = Models(store=store, roles={"target": (str(tiny),)})
    return RunContext(models=models, passes=Passes(device="cpu"), caps=caps)


def made(store):
    return [(line["step"], line["key"]) for line in store.computed() if line["step"] == "observe"]


def test_a_cap_in_the_middle_of_observing_keeps_every_piece_and_ends_alike(tiny, tmp_path):
    signals = [MeanLoss(), TokenLosses()]
    stores = []
    for name in ("whole", "capped"):
        (tmp_path / name).mkdir()
        stores.append(Store(root=tmp_path / name))
    whole, capped = stores
    caps = RunCaps()
    pool = dataset(whole, tmp_path, "pool", chat_rows(9), shard_rows=3)
    truth = observe(context(whole, tiny, caps), pool, signals)
    assert caps.spent_tokens > 9, "each sequence counts once, however many signals read it"

    pool = dataset(capped, tmp_path, "pool2", chat_rows(9), shard_rows=3)
    stops = []
    while True:
        try:
            found = observe(context(capped, tiny, RunCaps(tokens=1)), pool, signals)
            break
        except CapReached as stop:
            stops.append(str(stop))
    assert len(stops) == 3, "one shard a run"
    assert "done: target: dialogue, 3 of 9" in stops[0]
    assert len(made(capped)) == len(set(made(capped))), "nothing is computed twice"
    assert found.frame().equals(truth.frame())
    assert set(made(capped)) == set(made(whole))


def test_a_training_saves_its_state_at_a_cap_and_resumes_to_the_same_weights(tiny, tmp_path):
    training = Training(
        epochs=1, batch_size=4, micro_batch=4, learning_rate=1e-3, checkpoints="last"
    )
    settings, rows = Sft(training=training), chats(12)
    found = []
    for name in ("whole", "capped"):
        (tmp_path / name).mkdir()
        store = Store(root=tmp_path / name)
        steps = []
        if name == "capped":
            caps = RunCaps(tokens=1)
            with pytest.raises(CapReached):
                train_sft(rows, str(tiny), settings, store, run=Run(device="cpu", caps=caps))
            assert caps.spent_tokens > 1, "the tokens of one step"
        told = Run(device="cpu", progress=lambda done, total, _, steps=steps: steps.append(done))
        trained = train_sft(rows, str(tiny), settings, store, run=told)
        found.append((weights(trained.reference), steps))
    assert found[0][0] == found[1][0]
    assert [steps for _, steps in found] == [[1, 2, 3], [2, 3]], "the first step is not repeated"


def test_answers_stop_at_a_cap_of_the_run_and_what_was_paid_is_not_asked_again(tmp_path):
    rows = [
        Request(
            id=f"q {i}",
            messages=({"role": "user", "content": f"q {i}"},),
            sampling=Sampling(max_tokens=10),
        )
        for i in range(6)
    ]
    answers = {r.id: Reply(text="yes", tokens_in=5, tokens_out=5) for r in rows}
    backend, cache = Recorded(answers=answers, group=1), tmp_path / "answers.sqlite"
    caps = RunCaps(tokens=30)
    with pytest.raises(CapReached, match="max_tokens = 30"):
        list(complete(rows, backend, cache=cache, budget=Budget(caps=caps)))
    assert 10 <= caps.spent_tokens <= 30, "and never more"
    spent = caps.spent_tokens
    caps = RunCaps()
    results = list(complete(rows, backend, cache=cache, budget=Budget(caps=caps)))
    assert [r.status for r in results] == ["ok"] * 6
    assert caps.spent_tokens == 60 - spent, "the cache has the others"
