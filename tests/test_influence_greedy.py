"""SPICE and DONOD: golden numbers, dense algebra, one real gradient step, planted limits."""

import logging

import numpy as np
import polars as pl
import pytest
import torch
from conftest import chat_rows
from influence_frames import gradients

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.models.forward import forward
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.influence import donod as donod_file
from gristmill.selectors.influence import spice as spice_file
from gristmill.selectors.influence.donod import (
    Donod,
    HeadStep,
    head_gradient,
    norm_changes,
    output_layer,
    topsis,
)
from gristmill.selectors.influence.spice import Spice, greedy

# influence.md 5
X = np.array(
    [[-0.75, -0.25, -1], [1.5, -1.5, -0.5], [-1.5, 1.25, 0.5], [-0.25, 1, -0.5], [0, -0.5, 0.75],
     [-1.5, 0.25, -0.75]]
)  # fmt: skip


def test_golden_spice():
    rows, gains, conflicts = zip(*greedy(X, 4, penalty=0), strict=True)
    assert rows == (1, 5, 3, 2)
    assert np.allclose(gains, [1.749200, 1.096799, 0.592765, 0.503543], atol=1e-6)
    assert np.allclose(conflicts, [0, 0.608859, 0.308607, 0.225788], atol=1e-6)
    rows, gains, conflicts = map(np.array, zip(*greedy(X, 6), strict=True))
    assert rows.tolist() == [1, 5, 3, 0, 2, 4]
    expected = [1.749200, 1.035913, 0.561905, 0.481472, 0.485929, 0.249796]
    assert np.allclose(gains - 0.1 * conflicts, expected, atol=1e-6)
    total = [1.74919985, 2.84599891, 3.43876408, 3.92023625]
    assert np.allclose(np.cumsum(gains)[:4], total, atol=1e-8)
    assert [r for r, *_ in greedy(X, 4, fisher="diag_g2")] == [1, 2, 0, 5]
    assert [r for r, *_ in greedy(X, 4, fisher="code_g4")] == [1, 0, 5, 2]
    assert np.argsort(-np.square(X).sum(1))[:4].tolist() == [1, 2, 5, 0], "not the order of norms"


@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_gains_are_differences_of_dense_log_determinants(alpha):
    x = np.random.default_rng(0).normal(size=(60, 16))
    trace = greedy(x, 20, alpha=alpha, penalty=0.2)
    before, earlier = 0.0, None
    for t, (row, gain, _) in enumerate(trace):
        picked = x[[r for r, *_ in trace[: t + 1]]]
        now = np.linalg.slogdet(np.eye(16) + alpha * picked.T @ picked)[1]
        assert gain == pytest.approx(now - before, abs=1e-8)
        rest = np.linalg.inv(np.eye(16) + alpha * picked[:-1].T @ picked[:-1])
        all_gains = np.log1p(alpha * np.einsum("nd,de,ne->n", x, rest, x))
        assert gain == pytest.approx(all_gains[row], abs=1e-8)
        if earlier is not None:
            assert (all_gains <= earlier + 1e-12).all(), "a row's gain never rises"
        before, earlier = now, all_gains
    plain = greedy(x, 20, alpha=alpha, penalty=0)
    left, picked = list(range(60)), []
    for row, *_ in plain:  # penalty 0 is plain greedy
        dense = [
            np.linalg.slogdet(np.eye(16) + alpha * x[[*picked, i]].T @ x[[*picked, i]])[1]
            for i in left
        ]
        assert left[int(np.argmax(dense))] == row
        picked.append(row)
        left.remove(row)


def test_limits_of_spice():
    orthogonal = np.diag([3.0, 1, 2])
    rows, gains, conflicts = zip(*greedy(orthogonal, 3), strict=True)
    assert rows == (0, 2, 1)
    assert np.allclose(gains, np.log1p([9, 4, 1]))
    assert conflicts == (0, 0, 0)
    opposite = greedy(np.array([[2.0, 0], [-1.9, 0]]), 2)
    assert opposite[1][2] == pytest.approx(1)
    again = greedy(np.array([[2.0, 1], [2.0, 1]]), 2)
    assert again[1][2] == 0
    assert again[1][1] - np.log1p(5) < -1, "a duplicate adds little"
    assert [r for r, *_ in greedy(np.ones((3, 2)), 3)] == [0, 1, 2], "ties go to the lower row"
    stopped = greedy(X, 6, omega=0.5)
    assert len(stopped) == 2, "the third gain is at most half of the first"
    assert stopped == greedy(X, 2)


def spiced(x, **settings):
    scorer = Spice(**settings)
    pool = gradients([x], scorer.signals[0], blocks=3, nulls=settings.pop("nulls", ()))
    return scorer.score(pool).sort("id")


def test_picks_are_shared_out_among_blocks_drawn_by_id(monkeypatch):
    x = np.random.default_rng(2).normal(size=(50, 6))
    base = spiced(x, picks=0.2, pool_size=20)
    assert sorted(base["score"].drop_nulls().to_list()) == list(range(-10, 0))
    assert set(base.filter(pl.col("score").is_null())["reason"]) == {"not_reached"}
    picked = base.drop_nulls("score").sort("score", descending=True)
    firsts = picked["score_conflict"].to_list()[:3]  # three blocks, each begins without conflict
    assert firsts == [0, 0, 0]
    assert picked["score_gain"].to_list()[:3] == pytest.approx(
        np.log1p(np.square(x[[int(i[1:]) for i in picked["id"][:3]]]).sum(1)), rel=1e-5
    )
    assert len(spiced(x, picks=7, pool_size=20)["score"].drop_nulls()) == 7
    monkeypatch.setattr(spice_file, "ROOM", 1)  # one block a sweep
    assert spiced(x, picks=0.2, pool_size=20).equals(base)
    whole = spiced(x, picks=0.2, pool_size=None).drop_nulls("score")
    rows = whole.sort("score", descending=True)["id"].str.slice(1).cast(pl.Int64).to_list()
    assert rows == [r for r, *_ in greedy(x.astype(np.float32), 10)]
    with pytest.raises(ValueError, match="pool_size is at least 2"):
        spiced(x, pool_size=1)


def test_spice_leaves_rows_without_a_gradient_out_and_says_a_poor_scale(caplog):
    scorer = Spice(picks=0.5, pool_size=4)
    pool = gradients([X], scorer.signals[0], nulls=(1, 4))
    scored = scorer.score(pool).sort("id")
    assert scored["reason"].to_list()[1] is None
    assert scored["score"].is_null()[1]
    assert len(scored["score"].drop_nulls()) == 2
    nothing = scorer.score(gradients([X], scorer.signals[0], nulls=range(6)))
    assert nothing["score"].null_count() == 6
    with caplog.at_level(logging.WARNING):
        spiced(X * 1e-3, picks=2)
    assert "set alpha so that it is about 1" in caplog.text


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
