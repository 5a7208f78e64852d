"""Ghost inner products: golden numbers, loops of backward passes, layers that are frozen or shared"""

import math

import pytest
import torch
from gradient_toys import TOLERANCE, Given, dialogues, llama, loop, padded_batch, relative
from torch import nn
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.models.gradients.engine import gradient_engine
from gristmill.pipeline.models.gradients.hooks import row_gradients
from gristmill.pipeline.models.gradients.inner_products import (
    Capture,
    GhostDot,
    GhostNorm,
    MeanGradient,
)
from gristmill.pipeline.models.gradients.layers import linear_layers
from gristmill.pipeline.models.gradients.layout import Layout
from gristmill.pipeline.models.gradients.projections import Full

# rows of 3 and of 2 tokens, layer 2 -> 3
A = torch.tensor([[[1.0, 2], [0, 1], [3, -1]], [[2, 0], [1, 1], [0, 0]]]).double()


G = torch.tensor([[[1.0, 0, 2], [-1, 1, 0], [0.5, 0, -1]], [[0, 1, 1], [1, 0, -1], [0, 0, 0]]])


PAIR = Layout(shape=(2, 3), rows=2)


def test_the_ghost_identity_gives_the_golden_numbers():
    """In a layer large enough that it is cheaper than the gradient: all further sizes are 0."""
    wide = Given(*(nn.functional.pad(x.double(), (0, 40 - x.shape[-1])) for x in (A, G)))
    captured = Capture()
    row_gradients(wide, wide.loss, PAIR, captured)
    norm, dots = row_gradients(wide, wide.loss, PAIR, GhostNorm(), GhostDot(captured=captured))
    assert norm[:, 0].tolist() == [33.5, 8]
    assert dots.tolist() == [[33.5, -3], [-3, 8]]


def test_one_token_of_one_layer():
    """TracIn of one linear layer and one token is (d . d')(h . h')."""
    draw = torch.Generator().manual_seed(0)
    h, d = (torch.randn(2, 1, n, generator=draw, dtype=torch.float64) for n in (5, 4))
    net = Given(h, d)
    (g,) = row_gradients(net, net.loss, Layout(shape=(2, 1), rows=2), Full())
    expected = (d[0, 0] @ d[1, 0]) * (h[0, 0] @ h[1, 0])
    assert float(g[0] @ g[1]) == pytest.approx(float(expected), rel=1e-12)


def test_frozen_layers_have_the_gradient_of_a_loop():
    model, rows = llama(), dialogues()
    layers = linear_layers(model)
    expected = loop(model, layers, rows)
    model.requires_grad_(False)
    engine = gradient_engine(model, Full())
    found = engine.run(*padded_batch(rows)).features[0]
    assert relative(found, expected) < TOLERANCE[torch.float64]
    assert not any(p.requires_grad for p in model.parameters())


def test_a_layer_tied_to_the_embedding_or_to_another_is_told_apart():
    tied = nn.ModuleDict({"words": nn.Embedding(6, 6), "head": nn.Linear(6, 6, bias=False)})
    tied["head"].weight = tied["words"].weight
    with pytest.raises(ValueError, match="no linear layer"):
        linear_layers(tied)
    two = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
    two[1].weight = two[0].weight
    (layer,) = linear_layers(two)
    assert len(layer.modules) == 2
    with pytest.raises(ValueError, match="shares its weight with another"):
        linear_layers(two, bias=True)


def test_rows_without_a_loss_enter_no_sum():
    model = llama()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    good, odd = dialogues((9, 12), low=3), ([5, 0, 7, 8], [-100, 0, 7, 8])
    plain, mixed = MeanGradient(), MeanGradient()
    engines = [gradient_engine(model, m) for m in (plain, mixed)]
    with torch.no_grad():
        model.model.embed_tokens.weight[0] = math.nan
    engines[0].run(*padded_batch(good, pad=3))
    result = engines[1].run(*padded_batch([good[0], odd, good[1]], pad=3))
    assert result.reason_R == (None, "non_finite_loss", None)
    for name, total in plain.total.items():
        assert torch.allclose(mixed.total[name], total, rtol=1e-9, atol=1e-12)
