"""Gradients as signals: values by batch, column names by setting, and what cannot be read."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from rows import chat_rows

from gristmill.pipeline.models.chat_tokenizer import Encoded
from gristmill.pipeline.models.forward import Batch
from gristmill.pipeline.models.gradients.engine import gradient_engine
from gristmill.pipeline.models.gradients.projections import Full
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.forward_signals import as_column
from gristmill.pipeline.signals.gradient_signals import (
    Backward,
    GhostDot,
    GradientNorm,
    ProjectedGradient,
    gradient_reader,
)
from gristmill.pipeline.signals.views import Dialogue


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    store = Store(root=tmp_path_factory.mktemp("store"))
    return load(resolve(str(tiny), store), device="cpu", dtype="float32")


def records(n, start=0):
    return [{"messages": row["messages"], "tools": None} for row in chat_rows(n, start=start)]


def encoded(model, rows):
    return [Dialogue().encode(row, model.chat) for row in rows]


def read(model, rows, *signals):
    batch = Batch(
        encoded=rows,
        model=model,
        needs=frozenset({"backward"}),
        outputs=gradient_reader(model, signals)(rows),
    )
    return [as_column(s.column, s.read(batch), s.dtype(model)) for s in signals]


def full(model, rows, over_all=False):
    ids = torch.tensor([rows.ids])
    turn = torch.tensor(rows.turn)
    labels = ids if over_all else torch.where(turn != 0, ids, -100)
    return gradient_engine(model.model, Full()).run(ids, torch.ones_like(ids), labels).features[0]


def test_signals_of_one_batch_share_a_pass_and_agree_with_single_rows(model):
    rows = encoded(model, records(4))
    given = tuple(json.dumps(r) for r in records(2, start=20))
    projected, uncapped = ProjectedGradient(k=4, size=128), ProjectedGradient(k=4, size=None)
    dots = GhostDot(records=given)
    columns = read(model, rows, projected, uncapped, GradientNorm(), dots)
    assert columns[0].dtype == pl.Array(pl.Float32, 128)
    assert columns[1].dtype == pl.Array(pl.Float32, 14 * 16)
    aims = torch.cat([full(model, r) for r in encoded(model, records(2, start=20))])
    for b, row in enumerate(rows):
        g = full(model, row)[0]
        assert columns[2][b] == pytest.approx(float(g.norm()), rel=1e-4)
        scale = float(g.norm() * aims.norm(dim=1).max())
        assert np.allclose(columns[3][b].to_numpy(), (aims @ g).numpy(), atol=1e-4 * scale)
        for column, signal in zip(columns[:2], (projected, uncapped), strict=True):
            alone = read(model, [row], signal)[0][0].to_numpy()
            assert np.allclose(column[b].to_numpy(), alone, atol=1e-5 * np.abs(alone).max())


def test_labels_may_be_all_tokens(model):
    rows = encoded(model, records(2))
    (norm,) = read(model, rows, GradientNorm(of=Backward(token_mask="all")))
    assert norm[1] == pytest.approx(float(full(model, rows[1], over_all=True).norm()), rel=1e-4)


@pytest.mark.parametrize("projection", ["mask", "tensorsketch", "sjlt", "dense_jl"])
def test_every_projection_has_the_size_that_was_asked_for(model, projection):
    (column,) = read(
        model, encoded(model, records(2)), ProjectedGradient(projection=projection, size=64)
    )
    assert column.dtype == pl.Array(pl.Float32, 64)
    assert column.null_count() == 0
    assert all(np.abs(v.to_numpy()).max() > 0 for v in column)


def test_a_row_without_labels_is_null_and_its_neighbours_are_not(model):
    rows = encoded(model, records(2))
    silent = Encoded(ids=rows[0].ids, offsets=rows[0].offsets, turn=[0] * len(rows[0].ids))
    norm, projected = read(
        model, [rows[0], silent, rows[1]], GradientNorm(), ProjectedGradient(size=32)
    )
    assert [v is None for v in norm] == [False, True, False]
    assert [v is None for v in projected] == [False, True, False]


def test_columns_of_arrays_take_nulls_anywhere():
    array, kind = np.arange(3, dtype=np.float32), pl.Array(pl.Float32, 3)
    for values in ([None, array], [array, None], [None, None], [array]):
        column = as_column("x", values, kind)
        assert column.dtype == kind
        assert column.to_list() == [None if v is None else [0, 1, 2] for v in values]
    assert as_column("x", [1.0, None], pl.Float64()).to_list() == [1, None]


def test_a_column_names_its_settings():
    signals = [
        ProjectedGradient(),
        ProjectedGradient(seed=1),
        ProjectedGradient(of=Backward(layers="lora")),
        ProjectedGradient(projection="sjlt", update="adam"),
        GradientNorm(),
        GradientNorm(of=Backward(loss="sum")),
        GhostDot(records=("{}",)),
        GhostDot(records=("[]",)),
    ]
    assert len({s.column for s in signals}) == len(signals)
    assert ProjectedGradient().column == ProjectedGradient(k=16).column


def test_settings_that_contradict_each_other_are_refused(model):
    with pytest.raises(ValueError, match="use 'sjlt' or 'dense_jl'"):
        ProjectedGradient(update="adam")
    with pytest.raises(ValueError, match="use 'factored'"):
        ProjectedGradient(projection="sjlt", update="adafactor")
    with pytest.raises(ValueError, match="needs a size"):
        ProjectedGradient(projection="mask", size=None)
    with pytest.raises(ValueError, match="no optimizer state"):
        gradient_reader(model, [ProjectedGradient(projection="sjlt", update="adam")])
    empty = {"messages": [{"role": "user", "content": "hm"}], "tools": None}
    with pytest.raises(ValueError, match="no_assistant_turn"):
        gradient_reader(model, [GhostDot(records=(json.dumps(empty),))])
