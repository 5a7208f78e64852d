"""Golden numbers and bad input of the influence methods that no test next door asserts."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from conftest import chat_rows, pair_rows, write_jsonl
from gradient_toys import TOLERANCE, Given, dialogues, llama, loop, padded_batch, relative
from scipy.stats import spearmanr
from torch import nn
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import EncodingFacts, Frames, asked_roles
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models import load as loading
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.gradients.adam_state import (
    AdafactorScales,
    OptimizerState,
    adafactor_scales,
)
from gristmill.pipeline.models.gradients.engine import gradient_engine
from gristmill.pipeline.models.gradients.fisher import Damping, datainf, fit_fisher
from gristmill.pipeline.models.gradients.hooks import row_gradients
from gristmill.pipeline.models.gradients.inner_products import (
    Capture,
    GhostDot,
    GhostNorm,
    MeanGradient,
)
from gristmill.pipeline.models.gradients.layers import linear_layers
from gristmill.pipeline.models.gradients.layout import Layout
from gristmill.pipeline.models.gradients.projections import Factored, Full
from gristmill.pipeline.models.load import load, load_tokenizer
from gristmill.pipeline.models.low_rank import LowRankLinear, put, save
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.numerics.similarity import from_half, task_scores, task_vectors, to_half
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.pipeline.signals.gradient_signals import tensors
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors import catalog
from gristmill.selectors.influence import paser as paser_file
from gristmill.selectors.influence._low_rank_layers import (
    ProbeTokens,
    Side,
    alignment_rate,
    factorise,
    kept_rank,
    low_rank_layers,
    side,
)
from gristmill.selectors.influence._proxy import LowRankProxy
from gristmill.selectors.influence.donod import Donod
from gristmill.selectors.influence.paser import Paser, jensen_shannon
from gristmill.selectors.influence.spice import Spice

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


@pytest.mark.parametrize(("k", "spread"), [(8, 0.028), (16, 0.014)])
def test_a_projected_cosine_spreads_like_a_dense_projection_of_that_size(k, spread):
    """20 layers of 128 x 128, 32 tokens, true cosine .36: 1 / sqrt(layers k^2)."""
    draw = torch.Generator().manual_seed(1)

    def related(size):
        """Two rows of tokens with a correlation of .6: so have their gradients, squared."""
        common, one, other = (torch.randn(32, size, generator=draw).double() for _ in range(3))
        return torch.stack([0.6**0.5 * common + 0.4**0.5 * own for own in (one, other)])

    layers = nn.ModuleList(nn.Linear(128, 128, bias=False) for _ in range(20)).double()
    a, g = ([related(128) for _ in layers] for _ in range(2))

    def loss():
        return sum((x(a_) * g_).sum() for x, a_, g_ in zip(layers, a, g, strict=True))

    kinds = [Factored(k=k, seed=seed) for seed in range(40)]
    full, *found = row_gradients(layers, loss, Layout(shape=(2, 32), rows=2), Full(), *kinds)
    true = float(torch.cosine_similarity(full[0], full[1], dim=0))
    assert true == pytest.approx(0.36, abs=0.02)
    errors = [float(torch.cosine_similarity(*z, dim=0)) - true for z in found]
    # a deviation of 40 draws is known to 11 %
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.35)


def test_half_precision_loses_tiny_gradients_and_scaled_storage_does_not():
    tiny = np.array([2e-8, 6e-8])
    assert tiny.astype(np.float16).astype(float) == pytest.approx([0, 5.96e-8], abs=1e-10)
    rows = np.stack([tiny, tiny[::-1]])
    assert from_half(*to_half(rows)) == pytest.approx(rows, rel=1e-3)


# AUROC of clean over mislabelled rows, mean of 5 draws
PLANTED = {
    3: (0.93, 0.93, 0.92, 0.31),
    40: (0.87, 0.74, 0.70, 0.07),
    150: (0.83, 0.63, 0.60, 0.05),
}


def planted(seed, steps):
    draw = np.random.default_rng(seed)
    truth = draw.normal(size=(5, 10))
    warm, clean, bad = (draw.normal(size=(n, 10)) for n in (100, 300, 300))
    shift, target = draw.integers(4, size=300), draw.normal(size=(100, 10))
    label = lambda x: (x @ truth.T).argmax(1)  # noqa: E731
    net = nn.Sequential(nn.Linear(10, 5, bias=False)).double()
    with torch.no_grad():
        net[0].weight.zero_()

    def gradients(x, y):
        inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
        loss = lambda: nn.functional.cross_entropy(net(inputs), labels, reduction="sum")  # noqa: E731
        return row_gradients(net, loss, Layout(shape=(len(x),), rows=len(x)), Full())[0].numpy()

    for _ in range(steps):
        step = gradients(warm, label(warm)).mean(0).reshape(5, 10)
        with torch.no_grad():
            net[0].weight -= 0.5 * torch.from_numpy(step)
    pool = np.concatenate([clean, bad])
    x = gradients(pool, np.concatenate([label(clean), (label(bad) + 1 + shift) % 5]))
    y = gradients(target, label(target))
    scores = []
    for similarity, aggregation in (
        ("cosine", "mean_of_cosines"),
        ("cosine", "mean_gradient"),
        ("inner", "mean_gradient"),
    ):
        how = {"similarity": similarity}
        _, vectors = task_vectors(y, ["t"] * 100, aggregation=aggregation, **how)
        scores.append(task_scores([x], vectors, **how)[:, 0])
    scores.append(np.linalg.norm(x, axis=1))
    return [(s[:300, None] > s[300:]).mean() for s in scores]


@pytest.mark.parametrize("steps", PLANTED)
def test_golden_areas_of_planted_labels(steps):
    mean = np.mean([planted(seed, steps) for seed in range(5)], axis=0)
    # two published digits
    assert mean == pytest.approx(PLANTED[steps], abs=0.006)


def test_curvature_orders_random_rows_as_leaving_them_out_does():
    curved, plain = [], []
    for seed in range(5):
        draw = np.random.default_rng(seed)
        x, x_test = draw.normal(size=(80, 5)), draw.normal(size=5)
        y = x @ draw.normal(size=5) + draw.normal(size=80)
        solve = lambda x, y: np.linalg.solve(x.T @ x + np.eye(5), x.T @ y)  # noqa: E731
        theta = solve(x, y)
        truth = [x_test @ (solve(np.delete(x, i, 0), np.delete(y, i)) - theta) for i in range(80)]
        gradient = (x @ theta - y)[:, None] * x
        damping = Damping(value=1 / 80, mode="absolute")
        solved = fit_fisher([x], (5,)).solve(x_test[None], damping)[0]
        curved.append(spearmanr(gradient @ solved, truth).statistic)
        plain.append(spearmanr(gradient @ x_test, truth).statistic)
    assert min(curved) > 0.999
    assert np.mean(plain) < np.mean(curved)
    assert np.mean(plain) > 0.9


def test_datainf_is_as_close_to_the_inverse_as_published():
    cosines = []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        x, v = draw.normal(size=(50, 8)), draw.normal(size=(1, 8))
        found = datainf(lambda x=x: [x], v, (8,))[0]
        exact = np.linalg.solve(x.T @ x / 50 + 0.1 * np.square(x).mean() * np.eye(8), v[0])
        cosines.append(found @ exact / np.linalg.norm(found) / np.linalg.norm(exact))
    assert np.mean(cosines) == pytest.approx(0.96, abs=0.01)  # a mean of 60: to .003


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


def test_defaults_are_the_published_ones():
    proxy = LowRankProxy()
    assert (proxy.rho, proxy.gamma, proxy.ridge, proxy.weighting) == (0.5, 1e-3, "relative", "both")
    assert (proxy.kl_weight, proxy.temperature, proxy.epochs, proxy.batch_size) == (0.1, 2, 5, 4)
    assert (proxy.learning_rate, proxy.weight_decay) == (None, 0.01)
    assert (alignment_rate(4_096), alignment_rate(576)) == (1e-4, 1e-5)
    spice = Spice()
    assert (spice.alpha, spice.penalty, spice.pool_size, spice.picks) == (1, 0.1, 120, None)
    assert (spice.omega, spice.fisher, spice.role) == (None, "exact", "proxy")
    donod = Donod()
    assert (donod.rate, donod.don_weight, donod.nod_weight) == (1e-5, 0.5, 0.5)
    paser = Paser()
    assert (paser.clusters, paser.picks, paser_file.MOST) == (
        10,
        None,
        20_000,
    )  # how many is the budget's word
    assert Damping() == Damping(value=0.1, mode="relative")


def drifts(values, tokens):
    divergence, embedding = Paser().signals
    facts = EncodingFacts(role="reference", shown=Dialogue())
    n = len(values)
    told = [{"tokens": t, "answer_tokens": 1, "cut": 0, "reason": None} for t in tokens]
    vectors = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    frame = pl.DataFrame(
        {
            "id": [f"r{i}" for i in range(n)],
            "messages": [[{"role": "user", "content": f"w{chr(97 + i)}"}] for i in range(n)],
        }
    )
    part = frame.with_columns(
        pl.Series(divergence.column, values, pl.Float64),
        pl.Series(facts.column, told, facts.dtype),
        pl.Series(embedding.column, vectors, pl.Array(pl.Float32, 4)),
    )
    return Frames(parts=(part,))


def test_paser_bounds_cost_below_and_picks_above(monkeypatch):
    scored = Paser().score(drifts([0.3, 0.2], [1, 10])).sort("id")
    assert scored["score_ies"].to_list() == pytest.approx([0.3, 0.2 / math.log(100)])
    monkeypatch.setattr(paser_file, "MOST", 2)
    scored = Paser(picks=1.0).score(drifts([0.5, 0.4, 0.3, 0.2], [20] * 4))
    assert len(scored["score"].drop_nulls()) == 2


# bad input ----------------------------------------------------------------------------------------


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


def test_padding_by_the_end_marker_does_not_mask_the_real_one(tiny, store):
    chat = load_tokenizer(resolve(str(tiny), store))
    chat.tokenizer.pad_token = chat.tokenizer.eos_token
    assert chat.pad_id == chat.tokenizer.eos_token_id
    rows = [{"messages": r["messages"], "tools": None} for r in chat_rows(3)]
    encoded = [Dialogue().encode(r, chat) for r in rows]
    ids, mask, labels = tensors(encoded, chat)
    assert bool((mask == 0).any())
    end = chat.tokenizer.eos_token_id
    for b, e in enumerate(encoded):
        answers = sum(m["role"] == "assistant" for m in rows[b]["messages"])
        assert int((labels[b] == end).sum()) == answers
        assert bool((ids[b, len(e.ids) :] == end).all())
        assert bool((labels[b, len(e.ids) :] == -100).all())


def opened(root):
    (root / "store").mkdir()
    return Store(root=root / "store")


def bound(root, scorer, rows, model, reference=None, **passes):
    store = opened(root)
    given = None
    if reference is not None:
        given = ingest(store, [Source(path=str(write_jsonl(root / "target.jsonl", reference)))])
    return ScoreRun(
        scorer=scorer,
        dataset=ingest(store, [Source(path=str(write_jsonl(root / "pool.jsonl", rows)))]),
        context=RunContext(
            models=Models(store=store, roles={r: (str(model),) for r in asked_roles(scorer)}),
            passes=Passes(device="cpu", **passes),
        ),
        reference=given,
    )


@pytest.mark.parametrize(
    "method", ["gradient_cosine", "tracin", "less", "iprox", "ekfac", "datainf"]
)
def test_a_reference_of_another_kind_is_refused_before_any_work(method, tiny, tmp_path):
    run = bound(tmp_path, catalog.make(method), chat_rows(4), tiny, reference=pair_rows(4))
    sentence = r"the reference set holds pair records and the data example records: give a ref"
    with pytest.raises(ValueError, match=sentence):
        score(run)
    steps = {line["step"] for line in run.models.store.computed()}
    assert steps == {"ingest"}


def test_a_reference_that_is_missing_or_not_read_is_refused(tiny, tmp_path):
    run = bound(tmp_path, catalog.make("tracin"), chat_rows(4), tiny)
    with pytest.raises(ValueError, match="tracin needs a reference"):
        score(run)
    (tmp_path / "other").mkdir()
    run = bound(tmp_path / "other", Donod(), chat_rows(4), tiny, reference=chat_rows(4))
    with pytest.raises(ValueError, match="donod reads no reference set"):
        score(run)


def test_rows_without_an_answer_in_the_context_say_why(tiny, tmp_path):
    late = {"role": "assistant", "content": "late"}
    rows = [*chat_rows(3), {"messages": [{"role": "user", "content": "x" * 3_000}, late]}]
    scorer = catalog.make("gradient_cosine", {"size": 64})
    run = bound(tmp_path, scorer, rows, tiny, reference=chat_rows(2, start=40))
    scored = score(run).frame().sort("row")
    assert scored["reason"].to_list() == [None, None, None, "answer_cut"]
    assert scored["score"].is_null().to_list() == [False, False, False, True]
    passes = Passes(device="cpu", overlong="skip")
    skipped = replace(run, context=replace(run.context, passes=passes))
    told = score(skipped).frame().sort("row")["reason"].to_list()
    assert told[:3] == [None] * 3
    assert told[3].startswith("too_long: ")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A model in which one token makes every later number NaN: `~`."""
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("broken")
    folder = make_tiny(root / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    chat = load_tokenizer(resolve(str(folder), opened(root)))
    (token,) = chat.tokenizer("~", add_special_tokens=False).input_ids
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = math.nan
    model.save_pretrained(folder)
    return folder


ODD = {"messages": [{"role": "user", "content": "~"}, {"role": "assistant", "content": "So."}]}


@pytest.mark.parametrize("method", ["gradient_cosine", "spice", "donod"])
def test_a_loss_that_is_no_number_is_null_with_its_reason_and_moves_no_other_row(
    method, broken, tmp_path, monkeypatch
):
    # such weights are refused when they are loaded; numbers may overflow all the same
    monkeypatch.setattr(loading, "check_finite", lambda *_: None)
    settings = {"spice": {"role": "target", "picks": 1.0, "size": 64}, "donod": {}}
    scorer = catalog.make(method, settings.get(method, {"size": 64}))
    reference = chat_rows(2, start=40) if scorer.reference == "required" else None
    found = []
    for name, rows in (("without", chat_rows(5)), ("with", [*chat_rows(5), ODD])):
        root = tmp_path / name
        root.mkdir()
        run = bound(root, scorer, rows, broken, reference)
        found.append(score(run).frame().sort("row"))
    plain, scored = found
    assert scored["score"].to_list()[:5] == pytest.approx(plain["score"].to_list(), abs=1e-5)
    assert scored["score"][5] is None
    assert scored["reason"].to_list() == [None] * 5 + ["not_finite"]


def test_the_divergence_of_predictions_that_are_no_numbers_is_none():
    lost = torch.full((1, 3), math.nan).double()
    fine = torch.zeros(1, 3).double().log_softmax(-1)
    for p, q in ((lost, lost), (lost, fine), (fine, lost)):
        assert bool(jensen_shannon(p, q).isnan().all())


def test_a_drift_that_is_no_number_is_not_taken():
    scored = Paser(picks=1.0).score(drifts([0.5, math.nan, 0.3], [20] * 3)).sort("id")
    assert scored["score"].is_null().to_list() == [False, True, False]


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


@pytest.fixture(scope="module")
def low_rank(tiny, tmp_path_factory):
    """A low-rank proxy as the recipe leaves it."""
    root = tmp_path_factory.mktemp("low_rank")
    folder = root / "proxy"
    model = load(resolve(str(tiny), opened(root)), device="cpu").model
    layers = linear_layers(model)
    thin = {
        x.name: LowRankLinear.of(*factorise(x.modules[0].weight, 7, Side(), Side()), None)
        for x in layers
    }
    put(model, thin)
    save(model, folder)
    for path in (*tiny.glob("token*"), *tiny.glob("*.jinja")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


WARM = {"warm_up": {"epochs": 1, "batch_size": 8, "rank": 2, "alpha": 4.0}}
SCORERS = {
    "gradient_cosine": {"role": "proxy"},
    "spice": {"picks": 1.0},
    "ekfac": {"role": "proxy"},
    "tracin": {"role": "proxy", **WARM},
    "less": {"role": "proxy", **WARM},
    "datainf": {"role": "proxy", **WARM},
}


WARMED = [m for m in SCORERS if "warm_up" in SCORERS[m]]


@pytest.mark.parametrize("method", SCORERS)
def test_every_gradient_method_reads_a_low_rank_proxy(
    method,
    low_rank,
    tmp_path,
    one_thread,  # noqa: F811
):
    scorer = catalog.make(method, SCORERS[method])
    assert asked_roles(scorer) == ("proxy",)
    reference = chat_rows(2, start=40) if scorer.reference == "required" else None
    run = bound(tmp_path, scorer, chat_rows(6), low_rank, reference)
    assert score(run).frame()["score"].is_finite().all()
