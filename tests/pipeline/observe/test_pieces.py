"""Pieces: a run that is cut off within a shard goes on there, and ends as one that was not."""

import pytest
from rows import chat_rows, write_jsonl

from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe import observe as module
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.observe.pieces import cost_of, most_of, pieces
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.forward_signals import HiddenState, MeanLoss
from gristmill.pipeline.signals.gradient_signals import GradientNorm

SIGNALS = [MeanLoss(), HiddenState()]


def test_a_piece_costs_what_it_may_and_holds_at_least_a_row():
    assert pieces([1, 1, 1, 1, 1], 2) == [(0, 2), (2, 4), (4, 5)]
    assert pieces([9, 1, 9], 2) == [(0, 1), (1, 2), (2, 3)]
    assert pieces([1, 1], 100) == [(0, 2)]
    assert pieces([], 1) == []
    whole = pieces([3, 1, 2, 2, 5, 1], 4)
    rest = pieces([3, 1, 2, 2, 5, 1][whole[0][1] :], 4)  # what remains after a kill
    assert [(a + whole[0][1], b + whole[0][1]) for a, b in rest] == whole[1:]


def test_the_larger_the_model_the_fewer_tokens_and_a_backward_counts():
    assert most_of(100_000, "cpu", 4_096) > 1e6, "a tiny model is done in one piece"
    assert most_of(7 * 10**9, "cpu", 4_096) == 2 * 4_096
    assert most_of(7 * 10**9, "cuda:0", 4_096) > most_of(7 * 10**9, "cpu", 4_096)
    assert cost_of([MeanLoss(), HiddenState()], 10) == 10
    assert cost_of([MeanLoss(), GradientNorm()], 10) == 20


def test_a_run_that_is_cut_off_within_a_shard_goes_on_there(tiny, tmp_path, read, monkeypatch):
    monkeypatch.setattr(module, "most_of", lambda *_: 400.0)
    data = write_jsonl(tmp_path / "pool.jsonl", chat_rows(40))

    def observed(name, progress=None):
        (tmp_path / name).mkdir(exist_ok=True)
        store = Store(root=tmp_path / name)
        models = Models(store=store, roles={"target": (str(tiny),)})
        context = RunContext(models=models, passes=Passes(batch_tokens=200), progress=progress)
        pool = ingest(store, [Source(path=str(data))])
        assert len(pool.shards()) == 1
        return observe(context, pool, SIGNALS).frame().sort("id")

    whole = observed("whole")
    total = sum(read)
    read.clear()

    def stop(_, done, __):
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observed("cut", stop)
    read.clear()
    again = observed("cut")
    assert 0 < sum(read) < 0.7 * total
    assert again.equals(whole)
