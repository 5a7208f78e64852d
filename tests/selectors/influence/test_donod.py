"""DONOD: golden numbers, one real gradient step, TOPSIS, models that it cannot read"""

import numpy as np
import polars as pl
import pytest
import torch
from rows import chat_rows

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.models.forward import forward
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.influence import donod as donod_file
from gristmill.selectors.influence.donod import (
    Donod,
    HeadStep,
    head_gradient,
    norm_changes,
    output_layer,
    topsis,
)

# influence.md 6
HEAD = torch.tensor([[1.0, 0], [0, 1], [1, 1]]).double()


HIDDEN = torch.tensor([[1.0, 2], [0.5, -1]]).double()


LABELS = torch.tensor([2, 0])


def changes(square, inner, rate):
    head = np.array([float(HEAD.square().sum())])
    don, nod = norm_changes(np.array([square]), np.array([inner]), head, rate)
    return don[0], nod[0]


def test_golden_donod_equals_a_real_gradient_step():
    square, inner = head_gradient(HEAD, HIDDEN, LABELS)
    assert square**0.5 == pytest.approx(0.59029353, abs=1e-8)
    assert inner == pytest.approx(-0.43319004, abs=1e-8)
    don, nod = changes(square, inner, 0.1)
    assert nod == pytest.approx(0.059029353, abs=1e-9)
    assert don == pytest.approx(-0.0224051210, abs=1e-10)
    norm = 2.0
    second = 0.1 * inner / norm - 0.01 * (square - inner**2 / norm**2) / (2 * norm)
    assert second == pytest.approx(-0.0224133349, abs=1e-10)
    weight = HEAD.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(HIDDEN @ weight.T, LABELS)
    assert float(loss.detach()) == pytest.approx(0.43598737, abs=1e-8)
    (gradient,) = torch.autograd.grad(loss, weight)
    stepped = HEAD - 0.1 * gradient
    assert don == pytest.approx(float(HEAD.norm() - stepped.norm()), abs=1e-12)
    assert nod == pytest.approx(float((HEAD - stepped).norm()), abs=1e-12)


def test_donod_of_gradients_along_and_across_the_weights():
    don, nod = changes(4.0, 2.0 * 2.0, 0.1)  # G parallel to W: |W| = 2, |G| = 2
    assert don == pytest.approx(0.2)
    assert nod == pytest.approx(0.2)
    assert changes(4.0, 0.0, 0.1)[0] < 0


@pytest.mark.parametrize(
    ("don", "nod", "expected"),
    [
        ([3, 1, 2], [1, 2, 4], [1, 0.430501, 0.274292]),
        ([30, 10, 20], [0.1, 0.2, 0.4], [1, 0.430501, 0.274292]),
        ([0.02, -0.01, 0.01, 0], [0.5, 0.2, 0.1, 0.6], [0.714286, 0.285714, 0.714656, 0.285344]),
        ([1, 1, 1], [2, 2, 2], [0.5, 0.5, 0.5]),
        ([0, 0], [0, 0], [0.5, 0.5]),
        ([1, 1, 1], [3, 2, 1], [0, 0.5, 1]),  # a constant column has no say
    ],
)
def test_golden_topsis(don, nod, expected):
    assert np.allclose(topsis(np.array(don, float), np.array(nod, float)), expected, atol=1e-6)


def test_a_dominated_row_scores_lower_and_weights_count():
    draw = np.random.default_rng(3)
    don, nod = draw.normal(size=40), draw.random(40)
    closeness = topsis(don, nod)
    for i in range(40):
        assert (closeness[i] > closeness[(don < don[i]) & (nod > nod[i])]).all()
    assert np.argsort(topsis(don, nod, (1, 0))).tolist() == np.argsort(don).tolist()
    with pytest.raises(ValueError, match="not both 0"):
        topsis(don, nod, (0, 0))


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    store = Store(root=tmp_path_factory.mktemp("store"))
    return load(resolve(str(tiny), store), device="cpu", dtype="float32")


def test_the_signal_is_the_head_gradient_of_the_rows_own_loss(model, monkeypatch):
    monkeypatch.setattr(donod_file, "NUMBERS", 1_000)  # the vocabulary in several parts
    rows = [{"messages": r["messages"], "tools": None} for r in chat_rows(4)]
    encoded = [Dialogue().encode(r, model.chat) for r in rows]
    signal = HeadStep()
    batch = forward(encoded, model, signal.needs)
    head = model.model.get_output_embeddings().weight.detach().double()
    for e, found in zip(encoded, signal.read(batch), strict=True):
        with torch.no_grad():
            hidden = model.model.model(input_ids=torch.tensor([e.ids])).last_hidden_state[0]
        weight = head.clone().requires_grad_()
        wanted = torch.tensor(e.turn)[1:] != 0
        logits = (hidden[:-1][wanted].double()) @ weight.T
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(e.ids)[1:][wanted])
        (gradient,) = torch.autograd.grad(loss, weight)
        assert found["square"] == pytest.approx(float(gradient.square().sum()), rel=1e-4)
        assert found["inner"] == pytest.approx(float((gradient * head).sum()), rel=1e-4, abs=1e-6)
        assert found["head"] == pytest.approx(float(head.square().sum()), rel=1e-6)


def test_models_whose_logits_are_not_the_head_times_the_state_are_refused(model):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    assert output_layer(model.model).shape[1] == 64
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 20}
    capped = Gemma2ForCausalLM(Gemma2Config(**small, **heads, final_logit_softcapping=30.0))
    with pytest.raises(ValueError, match="donod does not hold here"):
        output_layer(capped.eval())
    plain = Gemma2ForCausalLM(Gemma2Config(**small, **heads, final_logit_softcapping=None))
    assert output_layer(plain.eval()).shape == (20, 16)
    plain.lm_head = torch.nn.Linear(16, 20, bias=True)
    with pytest.raises(ValueError, match="a bias, a scale"):
        output_layer(plain)


def test_donod_scores_by_both_columns():
    scorer = Donod(rate=0.1)
    values = [{"square": 4.0, "inner": i, "head": 9.0} for i in (2.0, -2.0)]
    values += [{"square": 1.0, "inner": 2.0, "head": 9.0}, None]
    column = pl.Series(scorer.signals[0].column, values, dtype=scorer.signals[0].dtype(None))
    frame = pl.DataFrame([pl.Series("id", ["d", "c", "b", "a"]), column])
    scored = scorer.score(Frames(parts=(frame[:1], frame[1:])))
    assert scored["id"].to_list() == ["d", "c", "b", "a"]
    best, worst = scored["score"].arg_max(), scored["score"].arg_min()
    assert scored["id"][best] == "b", "the same fall at half the movement"
    assert scored["id"][worst] == "c"
    assert scored["score"][3] is None
    assert np.allclose(scored["score_nod"].drop_nulls(), [0.2, 0.2, 0.1])
