"""Out of memory while observing: batches are halved, which is said; one row too many is refused."""

import numpy as np
import pytest
import torch
from ingested import dataset
from rows import chat_rows

from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe import observe as module
from gristmill.pipeline.observe.memory import Fitting
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.signals.forward_signals import HiddenState, MeanLoss

LENGTHS = [3, 5, 5, 8, 8, 8, 10, 10]
SIGNALS = [MeanLoss(), HiddenState()]


class Device:
    """Memory for so many rows."""

    def __init__(self, most=None, times=0):
        self.most, self.times, self.tried = most, times, []

    def take(self, rows):
        self.tried.append(rows)
        if self.times > 0 or (self.most is not None and rows > self.most):
            self.times -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8])
def test_all_rows_are_read_once_in_order_whatever_fits(most):
    device, fitting, found = Device(most), Fitting(), []

    def read(rows):
        device.take(len(rows))
        return list(rows)

    for _ in range(3):
        for part in fitting.each(np.arange(8), LENGTHS, read):
            found += part
    assert found == [*range(8)] * 3
    refused = [n for n in device.tried if n > most]
    assert len(refused) <= 4, "what was found to be too much is not tried again"


def test_one_row_that_does_not_fit_is_refused_in_a_sentence():
    def read(rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ValueError, match="too little memory for one row of 3 tokens: lower passes"):
        list(Fitting().each(np.arange(3), LENGTHS, read))


def test_another_error_is_not_taken_for_memory():
    def read(rows):
        raise RuntimeError("CUDA error: an illegal memory access")

    with pytest.raises(RuntimeError, match="illegal"):
        list(Fitting().each(np.arange(3), LENGTHS, read))


@pytest.mark.parametrize("device", [Device(times=1), Device(most=3)], ids=["once", "beyond 3 rows"])
def test_observing_goes_on_with_smaller_batches(device, store, tiny, tmp_path, monkeypatch, caplog):
    models = Models(store=store, roles={"target": (str(tiny),)})
    context = RunContext(models=models, passes=Passes(device="cpu"))
    pool = dataset(store, tmp_path, "pool", chat_rows(12), shard_rows=6)
    inner = module.forward

    def forward(encoded, *rest, **more):
        device.take(len(encoded))
        return inner(encoded, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(module, "forward", forward)
        found = observe(context, pool, SIGNALS).frame()
    assert device.tried[0] > 3
    assert any("out of memory with" in r.getMessage() for r in caplog.records)
    assert "half as much" in caplog.text
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    again = RunContext(
        models=Models(store=type(store)(root=fresh), roles={"target": (str(tiny),)}),
        passes=Passes(device="cpu"),
    )
    truth = observe(again, pool, SIGNALS).frame()
    assert found["id"].equals(truth["id"])
    for column in truth.columns[1:]:
        if column.startswith("facts"):
            continue
        np.testing.assert_allclose(found[column].to_numpy(), truth[column].to_numpy(), atol=1e-5)
