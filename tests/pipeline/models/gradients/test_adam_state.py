"""Adam's state in gradient features: golden numbers, real optimizer steps, mismatched files."""

import pytest
import torch
from gradient_toys import Given, dialogues, gpt2, llama, padded_batch, relative
from torch import nn
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.models.gradients.adam_state import (
    AdafactorScales,
    AdamUpdate,
    OptimizerState,
    adafactor_scales,
    read_state,
    step_taken,
)
from gristmill.pipeline.models.gradients.engine import gradient_engine
from gristmill.pipeline.models.gradients.hooks import row_gradients
from gristmill.pipeline.models.gradients.layers import Layer, linear_layers
from gristmill.pipeline.models.gradients.layout import Layout
from gristmill.pipeline.models.gradients.projections import CountSketched, Factored, Full

PLAIN = OptimizerState(first={}, second={}, step=0)
# influence.md 1.8: g, M, V, t -> true Adam, eps inside, and without bias correction
GOLDEN = [
    (0.02, 0.01, 4e-4, 10, 0.084253986, 0.54999313, 0.54999973),
    (1e-6, 0.0, 1e-12, 1000, 0.078890265, 9.9995e-4, 0.099009901),
    (1e-3, 0.0, 1e-12, 1000, 2.5126801, 0.9534193, 3.1597006),
    (-1e-5, 2e-6, 1e-10, 100, 0.024677657, 0.0079602975, None),
]


@pytest.mark.parametrize(("g", "m", "v", "t", "adam", "inside", "uncorrected"), GOLDEN)
def test_golden_update_directions(g, m, v, t, adam, inside, uncorrected):
    g, m, v = (torch.tensor(x, dtype=torch.float64) for x in (g, m, v))
    assert step_taken(g, m, v, t, PLAIN, "adam").item() == pytest.approx(adam, rel=1e-7)
    found = step_taken(g, m, v, t, PLAIN, "adam_eps_inside").item()
    assert found == pytest.approx(inside, rel=1e-5 if inside == 9.9995e-4 else 1e-7)
    if uncorrected is not None:  # the correction dies out with t
        late = step_taken(g, m, v, 10**9, PLAIN, "adam").item()
        assert late == pytest.approx(uncorrected, rel=1e-7)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_the_update_is_the_step_that_the_optimizer_takes(kind):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3)).double()
    rate = 1e-3
    optimizer = kind(net.named_parameters(), lr=rate, weight_decay=0.0)

    def step(x):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()

    x = torch.randn(6, 5, 4, dtype=torch.float64)
    for i in range(5):
        step(x[i])
    state = read_state(optimizer.state_dict())
    assert state.step == 5
    layers = linear_layers(net, bias=True)
    (gamma,) = row_gradients(
        net,
        lambda: net(x[5:]).square().sum(),
        Layout(shape=(1, 5), rows=1),
        Full(update=AdamUpdate(state=state)),
        layers=layers,
    )
    before = torch.cat([net[0].weight.detach().clone(), net[0].bias.detach().clone()[:, None]], 1)
    step(x[5])
    after = torch.cat([net[0].weight.detach(), net[0].bias.detach()[:, None]], 1)
    assert torch.allclose(after - before, -rate * gamma.reshape(3, 5), rtol=1e-9, atol=1e-15)


def test_golden_adafactor_scaling():
    row = torch.tensor([1.0, 4, 1], dtype=torch.float64)
    column = torch.tensor([4.0, 1], dtype=torch.float64)
    scale_I, scale_O = adafactor_scales(row, column)
    g = torch.tensor([[2.5, 0.5], [0, 1], [-1, 5]], dtype=torch.float64)
    expected = [[1.76776695, 0.70710678], [0, 0.70710678], [-0.70710678, 7.07106781]]
    second = torch.tensor([[2, 0.5], [8, 2], [2, 0.5]], dtype=torch.float64)
    assert torch.allclose(g / second.sqrt(), torch.tensor(expected).double(), atol=1e-8)
    assert torch.allclose(scale_O[:, None] * g * scale_I, g / second.sqrt(), rtol=1e-14)


def test_adafactor_scales_go_into_the_projection():
    torch.manual_seed(0)
    a, g = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    net = Given(a, g)
    second = torch.rand(4, 5, dtype=torch.float64)
    state = OptimizerState(
        first={"layer.weight": torch.zeros(4, 5)}, second={"layer.weight": second}, step=10**9
    )
    layout = Layout(shape=(2, 3), rows=2)
    scaled, plain = row_gradients(
        net, net.loss, layout, Factored(k=8, scales=AdafactorScales(state=state)), Full()
    )
    rank_one = second.mean(1)[:, None] * second.mean(0) / second.mean()
    assert torch.allclose(scaled, plain / rank_one.sqrt().flatten(), rtol=1e-12)


def test_frozen_v_on_the_target_side_gives_the_same_inner_products():
    torch.manual_seed(0)
    g, target, second = torch.randn(4, 5), torch.randn(4, 5), torch.rand(4, 5)
    zero = torch.zeros(4, 5)

    def scaled(x):
        return step_taken(x, zero, second, 8, PLAIN, "frozen_v")

    assert torch.allclose((scaled(g) * target).sum(), (g * scaled(target)).sum(), rtol=1e-5)
    corrected = second / (1 - 0.999**7)
    assert torch.allclose(scaled(g), g / (corrected.sqrt() + 1e-8), rtol=1e-6)


def trained(model, steps=3):
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
    ids, mask, labels = padded_batch(dialogues())
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("make", [llama, gpt2])
def test_state_is_matched_by_name_in_the_layers_own_orientation(make):
    model = make()
    state = read_state(trained(model))
    rows = padded_batch(dialogues(seed=3))
    plain = gradient_engine(model, Full()).run(*rows).features[0]
    engine = gradient_engine(model, Full(update=AdamUpdate(state=state)))
    found = engine.run(*rows).features[0]
    names = {id(p): n for n, p in model.named_parameters()}
    parts = []
    for layer in engine.layers:
        name = names[id(layer.modules[0].weight)]
        m, v = (x[name].T if layer.transposed else x[name] for x in (state.first, state.second))
        parts.append(torch.stack([m.flatten(), v.flatten()]))
    first, second = torch.cat(parts, dim=1)
    assert relative(found, step_taken(plain, first, second, 4, state, "adam")) < 1e-10


def test_a_pairs_update_is_taken_of_the_pairs_gradient():
    model = llama()
    state = read_state(trained(model))
    batch, reference = padded_batch(dialogues(seed=3)), torch.full((4,), -30.0)
    plain = gradient_engine(model, Full(), loss="dpo").run(*batch, reference_logp_S=reference)
    kind = CountSketched(size=64, update=AdamUpdate(state=state))
    found = gradient_engine(model, kind, loss="dpo").run(*batch, reference_logp_S=reference)
    layers = gradient_engine(model).layers
    total = torch.zeros(2, 64, dtype=torch.float64)
    parts = torch.split(plain.features[0], [x.inputs * x.outputs for x in layers], dim=1)
    for layer, part in zip(layers, parts, strict=True):
        m, v = state.of(layer)
        gamma = step_taken(part, m.flatten(), v.flatten(), 4, state, "adam")
        sketch = CountSketched(size=64)(layer)
        one = torch.ones(2, 1, 1, dtype=torch.float64)
        tokens = Layout(shape=(2, layer.outputs), rows=2)
        rows = gamma.reshape(2, layer.outputs, layer.inputs)
        eye = torch.eye(layer.outputs, dtype=torch.float64).expand(2, -1, -1) * one
        total += sketch.meet(rows, eye, tokens)
    assert relative(found.features[0], total) < 1e-10


def test_numbered_parameters_need_names_in_their_order():
    model = llama()
    names = [n for n, _ in model.named_parameters()]
    named = trained(model)
    numbered = {
        "state": dict(named["state"]),
        "param_groups": [
            {k: v for k, v in g.items() if k != "param_names"} for g in named["param_groups"]
        ],
    }
    with pytest.raises(ValueError, match="names none"):
        read_state(numbered)
    with pytest.raises(ValueError, match=f"holds {len(names)} parameters and 1 names"):
        read_state(numbered, names[:1])
    wrapped = read_state(numbered, [f"module.{n}" for n in names])
    assert list(wrapped.first) == [n for n in names if n in wrapped.first]
    with pytest.raises(ValueError, match="twice"):
        read_state(numbered, [names[0], *names[:-1]])
    with pytest.raises(ValueError, match="no Adam moments"):
        read_state({**numbered, "state": {}}, names)


def test_a_state_of_another_model_is_refused():
    state = read_state(trained(llama()))
    layer = linear_layers(llama())[0]
    assert state.of(layer)[0].shape == (32, 32)
    with pytest.raises(ValueError, match=r"holds nothing for other\.weight"):
        state.of(Layer(**{**vars(layer), "name": "other"}))
    with pytest.raises(ValueError, match="do not belong together"):
        state.of(Layer(**{**vars(layer), "outputs": 16}))
    zero = OptimizerState(
        first=state.first, second={n: x * 0 for n, x in state.second.items()}, step=3
    )
    with pytest.raises(ValueError, match="all zero"):
        AdafactorScales(state=zero)(layer)


def test_groups_with_different_constants_are_refused():
    state = trained(llama())
    state["param_groups"] = [
        {**state["param_groups"][0], "params": [0], "param_names": ["a"]},
        {**state["param_groups"][0], "params": [1], "param_names": ["b"], "eps": 1e-6},
    ]
    with pytest.raises(ValueError, match="one of each is expected"):
        read_state(state)


# rows of 3 and of 2 tokens, layer 2 -> 3
A = torch.tensor([[[1.0, 2], [0, 1], [3, -1]], [[2, 0], [1, 1], [0, 0]]]).double()


G = torch.tensor([[[1.0, 0, 2], [-1, 1, 0], [0.5, 0, -1]], [[0, 1, 1], [1, 0, -1], [0, 0, 0]]])


PAIR = Layout(shape=(2, 3), rows=2)


def test_golden_adafactor_scaling_of_inputs_and_output_gradients():
    second = torch.tensor([[2, 0.5], [8, 2], [2, 0.5]]).double()
    scale_I, scale_O = adafactor_scales(
        torch.tensor([1.0, 4, 1]).double(), torch.tensor([4.0, 1]).double()
    )
    assert torch.allclose(1 / (scale_O[:, None] * scale_I).square(), second, rtol=1e-14)
    state = OptimizerState(
        first={"layer.weight": 0 * second}, second={"layer.weight": second}, step=10**9
    )
    net = Given(A, G.double())
    scaled = Factored(k=8, scales=AdafactorScales(state=state))
    (z,) = row_gradients(net, net.loss, PAIR, scaled)
    expected = [1.76776695, 0.70710678, 0, 0.70710678, -0.70710678, 7.07106781]
    assert z[0].tolist() == pytest.approx(expected, abs=1e-8)
