"""IProX: its oracles, low-rank layers as ordinary checkpoints, and the recipes that make them."""

# I, O = layer inputs, outputs; N = probe tokens; R = rank

import copy
import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from gradient_toys import TOLERANCE, dialogues, gpt2, llama, loop, padded_batch, relative
from rows import chat_rows, write_jsonl
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Context
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.gradients.engine import gradient_engine
from gristmill.pipeline.models.gradients.layers import linear_layers
from gristmill.pipeline.models.gradients.projections import Factored
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.low_rank import KEY, LowRankLinear, from_folder, put, save
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.prepare.prepare import WarmUp, prepare
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, ready, score
from gristmill.selectors.influence import _proxy as recipes
from gristmill.selectors.influence._alignment import (
    align,
    batch_loss,
    dense_gradients,
    divergence,
    misalignment,
)
from gristmill.selectors.influence._low_rank_layers import (
    ProbeTokens,
    Side,
    factorise,
    kept_rank,
    low_rank_layers,
    multiple_for,
    side,
)
from gristmill.selectors.influence._proxy import DroppedBlocks, LowRankProxy
from gristmill.selectors.influence._warm_up import AdapterWarmUp
from gristmill.selectors.influence.iprox import Alignment, Iprox

F64 = TOLERANCE[torch.float64]
F32 = TOLERANCE[torch.float32]


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def root(square):
    values, vectors = torch.linalg.eigh(square)
    return vectors @ torch.diag(values.sqrt()) @ vectors.T


def dense_form(weight, second_o, second_i, rank):
    """The minimum of rank `rank` from whole matrices: whiten, truncate, undo."""
    left, right = root(second_o), root(second_i)
    u, s, v = torch.linalg.svd(left @ weight @ right)
    cut = (u[:, :rank] * s[:rank]) @ v[:rank]
    return torch.linalg.inv(left) @ cut @ torch.linalg.inv(right)


# The seven oracles of the method


def test_golden_two_by_two():
    weight = torch.tensor([[2.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    # probes whose second moments are diag(4, 1) and diag(1, 9)
    inputs = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64) * 2**0.5
    gradients = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64) * 2**0.5
    inner, outer = side(inputs, 0.0), side(gradients, 0.0)
    assert torch.allclose(torch.sort(inner.scale_M).values, torch.tensor([1.0, 2.0]).double())
    up, down = factorise(weight, 1, inner, outer)
    expected = torch.tensor([[1.8, 1.8], [0.2, 0.2]], dtype=torch.float64)
    assert torch.allclose(up @ down, expected, atol=F64)
    assert float(up.norm()) == pytest.approx(float(down.norm()))  # one step size suits both
    white = inner.whiten(outer.whiten(weight).T).T
    singular = torch.linalg.svdvals(white)
    assert singular.tolist() == pytest.approx([4.24264069, 2.82842712], abs=1e-8)

    def error(product):
        return float(inner.whiten(outer.whiten(weight - product).T).norm())

    assert error(up @ down) == pytest.approx(2.82842712, abs=1e-8)
    up, down = factorise(weight, 1, Side(), Side())
    assert error(up @ down) == pytest.approx(3.46211254, abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_skinny_form_is_the_dense_closed_form(dtype):
    weight = normal(6, 9).to(dtype)
    inputs, gradients = normal(40, 9, seed=1).to(dtype), normal(40, 6, seed=2).to(dtype)
    expected = dense_form(
        weight.double(),
        gradients.double().T @ gradients.double() / 40,
        inputs.double().T @ inputs.double() / 40,
        3,
    )
    up, down = factorise(weight, 3, side(inputs, 0.0), side(gradients, 0.0))
    assert up.dtype == dtype
    assert relative((up @ down).double()[None], expected[None]) < TOLERANCE[dtype]
    # and with a ridge, of either kind
    for ridge in ("relative", "absolute"):
        moments = []
        for probes in (gradients.double(), inputs.double()):
            square = probes.T @ probes / 40
            mean = float(square.trace()) / len(square) if ridge == "relative" else 1.0
            moments.append(square + 0.1 * mean * torch.eye(len(square)).double())
        up, down = factorise(weight, 3, side(inputs, 0.1, ridge), side(gradients, 0.1, ridge))
        expected = dense_form(weight.double(), *moments, 3)
        assert relative((up @ down).double()[None], expected[None]) < TOLERANCE[dtype]


def test_white_probes_give_the_plain_svd():
    weight = normal(5, 8)
    inputs = torch.linalg.qr(normal(20, 8, seed=1))[0] * 20**0.5
    gradients = torch.linalg.qr(normal(20, 5, seed=2))[0] * 20**0.5
    up, down = factorise(weight, 2, side(inputs, 0.0), side(gradients, 0.0))
    u, s, v = torch.linalg.svd(weight)
    plain = (u[:, :2] * s[:2]) @ v[:2]
    assert relative((up @ down)[None], plain[None]) < F64
    up, down = factorise(weight, 2, Side(), Side())
    assert relative((up @ down)[None], plain[None]) < F64


def test_full_rank_keeps_influence_on_the_span_of_the_probes():
    weight, count = normal(10, 12), 7  # fewer probes than dimensions
    inputs, gradients = normal(count, 12, seed=1), normal(count, 10, seed=2)
    up, down = factorise(weight, count, side(inputs, 1e-3), side(gradients, 1e-3))
    bilinear, kept = gradients @ weight @ inputs.T, gradients @ (up @ down) @ inputs.T
    assert relative(kept[None], bilinear[None]) < F64


def planted(seed, noise):
    """One layer under squared loss: weight, inputs (N x I), residuals (N x O), and fresh rows."""
    draw = np.random.default_rng(seed)
    weight = draw.standard_normal((40, 30))
    scale_i = draw.permutation(np.logspace(0, -1.5, 30))
    scale_o = draw.permutation(noise * np.logspace(0, -1.5, 40))
    return [
        torch.from_numpy(x)
        for x in (
            weight,
            draw.standard_normal((4_000, 30)) * scale_i,
            draw.standard_normal((4_000, 40)) * scale_o,
        )
    ]


# error, distance and correlation of plain SVD, activation alone, both; other draws than ours
PUBLISHED = {
    3.0: ((117.7, 29.3, 12.97), (49.3, 10.9, 14.7), (0.44, 0.88, 0.80)),
    0.3: ((1.18, 0.29, 0.13), (47.3, 7.8, 13.8), (0.17, 0.24, 0.21)),
}


@pytest.mark.parametrize("noise", [3.0, 0.3])
def test_both_weightings_beat_the_plain_svd(noise):
    """E[e^2], mean |I - I'| and corr(I, I') of one layer under squared loss, mean of 10 draws.

    The residual of the low-rank layer is d + (W - W')h.
    """
    told = {"plain": [], "activation": [], "both": []}
    for seed in range(10):
        weight, inputs, residual = planted(seed, noise)
        h, d = inputs[:300], residual[:300]
        influence = (d @ d.T) * (h @ h.T)
        inner, outer = side(inputs, 0.0), side(residual, 0.0)
        forms = {"plain": (Side(), Side()), "activation": (inner, Side()), "both": (inner, outer)}
        for name, (one, two) in forms.items():
            up, down = factorise(weight, 8, one, two)
            gap = weight - up @ down
            e = ((residual @ gap) * inputs).sum(1)
            moved = d + h @ gap.T
            other = (moved @ moved.T) * (h @ h.T)
            x, y = influence.flatten(), other.flatten()
            told[name].append((e.square().mean(), (x - y).abs().mean(), np.corrcoef(x, y)[0, 1]))
    error, apart, alike = zip(*(np.mean(told[n], axis=0) for n in told), strict=True)
    assert error[2] < error[1] < error[0]
    assert max(apart[1:]) < apart[0]
    assert min(alike[1:]) > alike[0]
    for found, expected in zip((error, apart, alike), PUBLISHED[noise], strict=True):
        assert found == pytest.approx(expected, rel=0.2)


def test_aligning_exact_factors_finds_nothing_to_do():
    target = llama(torch.float64)
    layers = linear_layers(target)
    exact = {}
    for layer in layers:
        weight = layer.modules[0].weight.detach()
        exact[layer.name] = LowRankLinear.of(
            *factorise(weight, min(weight.shape), Side(), Side()), None
        )
    proxy = copy.deepcopy(target)
    put(proxy, exact)
    rows = dialogues()
    ids, _, labels = padded_batch(rows)
    for layer in layers:
        layer.modules[0].weight.requires_grad_(True)
    loss, teacher = batch_loss(target, ids, labels)
    gradients = dense_gradients(layers, loss)
    own, logits = batch_loss(proxy, ids, labels)
    factors = {x.name: proxy.get_submodule(x.name) for x in layers}
    assert float(misalignment(factors, gradients, own).detach()) == pytest.approx(0, abs=F64)
    assert float(divergence(teacher, logits, 2.0).detach()) == pytest.approx(0, abs=F64)


def test_fewer_probes_than_the_rank_are_refused():
    weight, few = normal(8, 8), normal(3, 8)
    with pytest.raises(ValueError, match="a rank of 4 needs as many probe tokens, and 3 were"):
        factorise(weight, 4, side(few, 1e-3), Side())
    with pytest.raises(ValueError, match="a rank of 4 needs as many probe tokens, and 3 were"):
        factorise(weight, 4, Side(), side(few, 1e-3))


# Ranks, losses, alignment


def test_rank_arithmetic():
    assert kept_rank(576, 576, 0.5, 128) == 256
    assert kept_rank(576, 576, 0.5, 16) == 144
    assert [kept_rank(9728, 2560, rho, 128) for rho in (0.3, 0.5, 0.7)] == [1536, 1024, 640]
    assert kept_rank(4096, 4096, 0.7, 128) == 640
    assert kept_rank(192, 576, 0.3, 128) == 128
    assert kept_rank(192, 576, 0.1, 128) is None  # 130 -> 256: dense
    assert kept_rank(32, 32, 0.99, 16) == 16
    assert (multiple_for(576), multiple_for(1_024)) == (16, 128)


def test_the_loss_of_a_batch_is_the_models_own():
    model = llama(torch.float32)
    ids, mask, labels = padded_batch(dialogues())
    expected = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss, logits = batch_loss(model, ids, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=F32)
    assert len(logits) == int((labels[:, 1:] != -100).sum())


def test_divergence_by_hand():
    p, q = (
        torch.tensor([0.9, 0.1], dtype=torch.float64),
        torch.tensor([0.5, 0.5], dtype=torch.float64),
    )
    kl = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    found = divergence(2 * p.log()[None], 2 * q.log()[None], 2.0)
    assert float(found) == pytest.approx(4 * kl, rel=F64)


def aligned(dtype, kl_weight=0.1, epochs=8):
    """L_GA and L_KL of every step on one batch, and what changed."""
    target = llama(torch.float32).to(dtype).requires_grad_(False)
    layers = linear_layers(target)
    proxy = copy.deepcopy(target)
    probes = ProbeTokens()
    ids, mask, labels = padded_batch(dialogues())
    probes.picks.append(torch.arange(ids.numel())[mask.flatten() == 1])
    gradient_engine(target, probes).run(ids, mask, labels)
    put(proxy, low_rank_layers(layers, {x.name: 8 for x in layers}, probes))
    before = copy.deepcopy(proxy.state_dict()), copy.deepcopy(target.state_dict())
    batches = [(ids, labels)] * epochs
    steps = align(target, proxy, layers, batches, learning_rate=2e-3, kl_weight=kl_weight)
    after = proxy.state_dict(), target.state_dict()
    moved = {n for n in before[0] if not torch.equal(before[0][n], after[0][n])}
    assert all(torch.equal(before[1][n], after[1][n]) for n in before[1])
    assert not any(p.requires_grad for p in (*proxy.parameters(), *target.parameters()))
    assert {v.dtype for n, v in after[0].items() if n in moved} == {dtype}
    return steps, moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alignment_turns_gradients_and_touches_the_factors_alone(dtype):
    steps, moved = aligned(dtype)
    assert {n.rpartition(".")[2] for n in moved} == {"up", "down"}
    assert steps[-1][0] < 0.9 * steps[0][0]


def test_the_anchor_holds_predictions():
    loose, _ = aligned(torch.float32, kl_weight=0.0)
    tight, _ = aligned(torch.float32, kl_weight=1e4)
    assert loose[0] == tight[0]
    assert tight[-1][1] < 0.5 * loose[-1][1]


def test_the_derivative_of_the_misalignment_is_that_of_finite_differences():
    target = llama(torch.float64)
    layers = linear_layers(target)[:3]
    proxy = copy.deepcopy(target)
    pieces = {}
    for layer in layers:
        weight = layer.modules[0].weight.detach()
        pieces[layer.name] = LowRankLinear.of(*factorise(weight, 4, Side(), Side()), None)
    put(proxy, pieces)
    ids, _, labels = padded_batch(dialogues())
    for layer in layers:
        layer.modules[0].weight.requires_grad_(True)
    gradients = dense_gradients(layers, batch_loss(target, ids, labels)[0])

    def apart():
        with sdpa_kernel(SDPBackend.MATH):
            return misalignment(pieces, gradients, batch_loss(proxy, ids, labels)[0])

    up = pieces[layers[1].name].up
    found = torch.autograd.grad(apart(), up)[0]
    direction = normal(*up.shape, seed=5)
    step = 1e-5
    with torch.no_grad():
        up += step * direction
    high = float(apart().detach())
    with torch.no_grad():
        up -= 2 * step * direction
    low = float(apart().detach())
    assert float((found * direction).sum()) == pytest.approx((high - low) / (2 * step), rel=1e-6)


# Low-rank layers in models


def test_gradients_at_the_product_are_those_of_the_dense_layer():
    dense = llama(torch.float64)
    proxy = copy.deepcopy(dense)
    pieces = {}
    for layer in linear_layers(dense):
        weight = layer.modules[0].weight
        up, down = factorise(weight.detach(), 6, Side(), Side())
        with torch.no_grad():
            weight.copy_(up @ down)
        pieces[layer.name] = LowRankLinear.of(up, down, None)
    put(proxy, pieces)
    layers = linear_layers(proxy)
    assert [(x.name, x.inputs, x.outputs) for x in layers] == [
        (x.name, x.inputs, x.outputs) for x in linear_layers(dense)
    ]
    rows = dialogues()
    batch = padded_batch(rows)
    feature = Factored(k=48)  # both sides whole: the gradient itself
    found = gradient_engine(proxy, feature).run(*batch).features[0]
    expected = gradient_engine(dense, feature).run(*batch).features[0]
    assert relative(found, expected) < F64
    assert relative(found, loop(dense, linear_layers(dense), rows)) < F64


def test_biases_and_transposed_layers_are_kept():
    dense = gpt2()
    proxy = copy.deepcopy(dense)
    pieces = {}
    for layer in linear_layers(dense):
        module = layer.modules[0]
        up, down = factorise(module.weight.detach().T, 16, Side(), Side())
        with torch.no_grad():
            module.weight.copy_((up @ down).T)
            module.bias.normal_()
        pieces[layer.name] = LowRankLinear.of(up, down, module.bias)
    put(proxy, pieces)
    batch = padded_batch(dialogues())
    with torch.no_grad():
        assert torch.allclose(proxy(batch[0]).logits, dense(batch[0]).logits, atol=1e-9)
    found, expected = (
        gradient_engine(m, Factored(k=200), bias=True).run(*batch).features[0]
        for m in (proxy, dense)
    )
    assert relative(found, expected) < F64


def test_a_low_rank_folder_is_an_ordinary_checkpoint(tiny, store, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = load(resolve(str(tiny), store), device="cpu").model
    pieces = {
        x.name: LowRankLinear.of(*factorise(x.modules[0].weight, 7, Side(), Side()), None)
        for x in linear_layers(model)
        if "down_proj" not in x.name
    }
    put(model, pieces)
    folder = tmp_path / "proxy"
    save(model, folder)
    for path in tiny.glob("token*"):
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LowRankLlamaForCausalLM"]
    assert set(config[KEY].values()) == {7}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load(resolve(str(folder), store), device="cpu").model
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    scoring = from_folder(AutoModelForSequenceClassification, folder, num_labels=1).eval()
    with torch.no_grad():
        assert torch.equal(scoring.model(ids)[0], model.model(ids)[0])
    save(again, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    config[KEY] = {"model.layers.9.mlp.up_proj": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"names model\.layers\.9\.mlp\.up_proj under"):
        load(resolve(str(folder), store), device="cpu")


# Recipes


def pool(store, tmp_path, rows, name="pool", shard_rows=7):
    path = write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return ingest(store, [Source(path=str(path))], shard_rows=shard_rows)


@pytest.fixture
def context(store, tiny, tmp_path):
    return Context(
        models=Models(store=store, roles={"target": (str(tiny),)}),
        pool=pool(store, tmp_path, chat_rows(30)),
        passes=Passes(device="cpu", max_length=96),
    )


WARM = AdapterWarmUp(epochs=1, batch_size=16, rank=4, alpha=8.0)
QUICK = LowRankProxy(tokens=64, epochs=1, batch_size=8, learning_rate=1e-4)


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_low_rank_proxy(context, tiny, tmp_path, store, one_thread):  # noqa: F811
    said = []
    twice = dataclasses.replace(QUICK, epochs=2)
    told = dataclasses.replace(context, log=said.append)
    made = twice.make(told)
    assert made.weights == (1.0,)
    assert made.notes == tuple(said)
    assert said[0] == "64 probe tokens of 16 rows: 0.1% of the pool would be 1 rows."
    assert said[1] == (
        "alignment on 16 rows: 0.9% of the pool would be 1; 9 of them gave probe tokens too."
    )
    assert said[2].endswith("0 layers stay dense.")
    assert said[3].startswith("influence of 7 held-out rows on each other, proxy and target: Spe")
    folder = next(p for p in [store.root / "low-rank-proxy"] if p.exists())
    entry = json.loads(next(folder.glob("*/manifest.json")).read_text())
    note = entry["note"]
    assert note["aligned"]["pairs"] == note["factored"]["pairs"] == 21
    assert note["aligned"]["spearman"] > 0.5
    assert note["last_epoch"]["gradients"] < note["first_epoch"]["gradients"]
    assert set(note["ranks"].values()) == {16, 32}
    files = resolve(made.references[0], store)
    base = resolve(str(tiny), store)
    assert (files.layout, files.tokenizer_sha) == ("causal", base.tokenizer_sha)
    assert files.chat_template_sha == base.chat_template_sha
    assert len(linear_layers(load(files, device="cpu").model)) == 14
    assert twice.make(context).references == made.references
    # another order of the same rows is the same work; another seed is not
    shuffled = pool(store, tmp_path, chat_rows(30)[::-1], "shuffled", shard_rows=11)
    other = dataclasses.replace(context, pool=shuffled)
    assert twice.make(other).references == made.references


def test_a_killed_build_is_made_again_with_the_same_bytes(
    context,
    tmp_path,
    tiny,
    monkeypatch,
    one_thread,  # noqa: F811
):
    first = QUICK.make(context)
    root = tmp_path / "other"
    root.mkdir()
    models = Models(store=Store(root=root), roles={"target": (str(tiny),)})
    again = dataclasses.replace(context, models=models)

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(recipes, "settle", die)
        with pytest.raises(KeyboardInterrupt):
            QUICK.make(again)
    assert not list((root / "low-rank-proxy").glob("*/manifest.json"))
    second = QUICK.make(again)
    assert second.notes == first.notes
    one, two = (files_of(Path(p.references[0])) for p in (first, second))
    assert one == two


def test_a_warmed_up_target_is_merged(context, one_thread):  # noqa: F811
    training = Training(epochs=1, batch_size=16, micro_batch=16, learning_rate=3e-3)
    warm = WarmUp(training=training, lora=Lora(rank=4, alpha=8.0, dropout=0.0))
    found = prepare([warm, QUICK], context)
    models, made = found.models, found.prepared
    assert models.files("target")[0].layout == "adapter"
    files = models.files("proxy")[0]
    assert (files.layout, files.base) == ("causal", None)
    plain = QUICK.make(context)
    assert plain.references != made["proxy"].references
    with pytest.raises(ValueError, match="has low-rank layers already"):
        dataclasses.replace(QUICK, base="proxy", role="weak").make(
            dataclasses.replace(context, models=models)
        )


def test_what_a_proxy_cannot_be_made_of_is_said(context, store, tmp_path):
    with pytest.raises(ValueError, match="rho is 1"):
        LowRankProxy(rho=1)
    with pytest.raises(ValueError, match=r"no layer of .* gets smaller: raise rho"):
        LowRankProxy(rank_multiple=128).make(context)
    few = dataclasses.replace(context, pool=pool(store, tmp_path, chat_rows(3), "few"))
    with pytest.raises(ValueError, match="3 of 3 rows drawn for the proxy can be shown"):
        QUICK.make(few)
    with pytest.raises(ValueError, match="a rank of 48 needs as many probe tokens"):
        LowRankProxy(tokens=4, rank_multiple=48, epochs=0, rho=0.1).make(context)


def test_the_method_makes_its_proxy_and_reads_it(context, store, tmp_path, one_thread):  # noqa: F811
    targets = pool(store, tmp_path, chat_rows(34)[30:], "targets")
    method = Iprox(warm_up=WARM, alignment=Alignment(epochs=0))
    run = ready(
        ScoreRun(
            scorer=method,
            dataset=context.pool,
            reference=targets,
            context=RunContext(models=context.models, passes=Passes(device="cpu")),
        )
    )
    assert any(s.startswith("influence of 7 held-out rows on each other") for s in run.notes)
    assert "/low-rank-proxy/" in run.models.roles["proxy"][0]
    entry = score(run)
    assert entry.note["prepared"] == list(run.notes)
    frame = entry.frame().sort("id")
    assert frame["score"].is_finite().all()
    # the same by hand, with whole gradients of the proxy
    loaded = load(run.models.files("proxy")[0], device="cpu")
    signal = method.signals[0]
    engine = gradient_engine(loaded.model, Factored(k=128))

    def gradients(dataset):
        rows = dataset.frame().unique("id").sort("id")
        out = []
        for row in rows.iter_rows(named=True):
            encoded = signal.view.encode(row, loaded.chat)
            ids = torch.tensor([list(encoded.ids)])
            labels = torch.where(torch.tensor([list(encoded.turn)]) != 0, ids, -100)
            out.append(engine.run(ids, torch.ones_like(ids), labels).features[0][0])
        return torch.stack(out).double()

    expected = gradients(context.pool) @ gradients(targets).mean(0)
    found = torch.tensor(frame["score"].to_list(), dtype=torch.float64)
    assert float(torch.corrcoef(torch.stack([expected, found]))[0, 1]) > 0.9


@pytest.mark.parametrize(("every", "kept"), [(2, [0, 2]), (3, [0, 1, 3]), ((0, 3), [1, 2])])
def test_dropped_blocks_are_passed_by(every, kept, store, context, tmp_path):

    deep = make_tiny(tmp_path / "deep", layers=4)
    models = Models(store=store, roles={"target": (str(deep),)})
    recipe = DroppedBlocks(role="student", every=every)
    made = recipe.make(dataclasses.replace(context, models=models))
    assert recipe.make(dataclasses.replace(context, models=models)) == made
    assert made.notes[0].endswith(f"of 4 are dropped, {len(kept)} stay.")
    files = resolve(made.references[0], store)
    small = load(files, device="cpu").model
    whole = load(resolve(str(deep), store), device="cpu").model
    assert small.config.num_hidden_layers == len(kept)
    ids = torch.arange(30)[None]

    def skip(module, args, output):
        return args[0]

    for i, block in enumerate(whole.model.layers):
        if i not in kept:
            block.register_forward_hook(skip)
    with torch.no_grad():
        assert torch.equal(small(ids).logits, whole(ids).logits)


def test_lists_per_block_are_cut_with_them(store, context, tmp_path, tiny):
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=259, hidden_size=16, intermediate_size=24, num_hidden_layers=4, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=8,
    )  # fmt: skip
    folder = tmp_path / "gemma"
    torch.manual_seed(0)
    Gemma3ForCausalLM(config).save_pretrained(folder)
    for path in tiny.glob("token*"):
        (folder / path.name).write_bytes(path.read_bytes())
    models = Models(store=store, roles={"target": (str(folder),)})
    made = DroppedBlocks(every=(0, 2)).make(dataclasses.replace(context, models=models))
    model = load(resolve(made.references[0], store), device="cpu").model
    assert model.config.layer_types == ["full_attention"] * 2
    assert isinstance(model.model.layers, nn.ModuleList)


def test_blocks_that_cannot_be_dropped_are_refused(context):
    for every in (1, (), (-1,)):
        with pytest.raises(ValueError, match="give 2 or more, or the numbers"):
            DroppedBlocks(every=every)
    for every in (3, (2,), (0, 1)):
        with pytest.raises(ValueError, match="has 2 blocks, and every="):
            DroppedBlocks(every=every).make(context)


def test_ranks_before_they_are_rounded_up():
    assert kept_rank(576, 576, 0.5, 1) == 144
    assert [kept_rank(9728, 2560, rho, 1) for rho in (0.3, 0.5, 0.7)] == [1419, 1013, 608]
    assert kept_rank(4096, 4096, 0.7, 1) == 614


@pytest.mark.parametrize("weighting", ["both", "activation", "none"])
def test_a_low_rank_layer_is_weighted_on_the_sides_that_were_asked_for(weighting):
    model, probes = llama(), ProbeTokens()
    ids, mask, labels = padded_batch(dialogues((30, 30)))
    probes.picks.append(torch.arange(60))
    engine = gradient_engine(model, probes)
    engine.run(ids, mask, labels)
    layer = next(x for x in engine.layers if x.name.endswith("1.mlp.down_proj"))
    (made,) = low_rank_layers([layer], {layer.name: 4}, probes, weighting=weighting).values()
    inner = side(probes.inputs[probes.source[layer.name]][0], 1e-3)
    outer = side(probes.gradients[layer.name][0], 1e-3)
    sides = {"both": (inner, outer), "activation": (inner, Side()), "none": (Side(), Side())}
    found = made.up @ made.down
    for name, form in sides.items():
        up, down = factorise(layer.modules[0].weight.detach(), 4, *form)
        same = relative(found[None].detach(), (up @ down)[None]) < TOLERANCE[torch.float64]
        assert same == (name == weighting)
