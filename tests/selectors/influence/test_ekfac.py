"""EK-FAC: the whole-layer formula, rows left out of a regression, units, keys"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from influence_frames import gradients, values
from rows import chat_rows, write_jsonl
from scipy.stats import spearmanr
from torch import nn

from gristmill.pipeline.contracts import Frames, settings_of
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.gradients.engine import FisherLabels, gradient_engine
from gristmill.pipeline.models.gradients.fisher import Damping
from gristmill.pipeline.models.gradients.hooks import row_gradients
from gristmill.pipeline.models.gradients.inner_products import ExactInner
from gristmill.pipeline.models.gradients.kfac import fit_kronecker
from gristmill.pipeline.models.gradients.layers import linear_layers
from gristmill.pipeline.models.gradients.layout import Layout
from gristmill.pipeline.models.gradients.projections import Full
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, ready, score
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient, gradient_reader
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.influence._ekfac import (
    Curvature,
    LayerWidths,
    PreconditionedGradient,
    _sketch,
)
from gristmill.selectors.influence.ekfac import Ekfac


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model whose layers are small enough to be kept whole by a projection of 32."""
    return make_tiny(tmp_path_factory.mktemp("small") / "model", hidden=16)


def curved(root, path, scorer):
    store = Store(root=root)
    pool = ingest(store, [Source(path=str(write_jsonl(root / "pool.jsonl", chat_rows(8))))])
    target = write_jsonl(root / "target.jsonl", chat_rows(3, start=20))
    return ScoreRun(
        scorer=scorer,
        dataset=pool,
        context=RunContext(
            models=Models(store=store, roles={"target": (str(path),)}),
            passes=Passes(device="cpu", batch_tokens=600),
        ),
        reference=ingest(store, [Source(path=str(target))]),
    )


def labelled(model, frame):
    """One batch of a row's ids, mask and labels, per row."""
    batches = []
    for row in frame.iter_rows(named=True):
        e = Dialogue().encode(row, model.chat)
        ids = torch.tensor([e.ids])
        answer = torch.tensor([e.turn]) != 0
        batches.append((row["id"], (ids, torch.ones_like(ids), torch.where(answer, ids, -100))))
    return batches


def test_ekfac_of_whole_layers_equals_the_formula_without_a_projection(small, tmp_path):
    scorer = Ekfac(k=32, seed=3, loss="mean")
    run = curved(tmp_path, small, scorer)
    scored = score(run).frame().sort("id")
    model = load(resolve(str(small), run.models.store), device="cpu", dtype="float32")
    pool, targets = (labelled(model, d.frame().sort("id")) for d in (run.dataset, run.reference))

    def fitting(feature):
        engine = gradient_engine(model.model, feature)
        for ident, batch in pool:
            engine.run(*batch, fisher=FisherLabels(seed=3, ids=[ident]))
        return len(pool)

    fitted = fit_kronecker(fitting)
    engine = gradient_engine(model.model, Full())
    mean = torch.stack([engine.run(*b).features[0][0] for _, b in targets]).double().mean(0)
    sizes = [x.inputs * x.outputs for x in engine.layers]
    plain = {
        x.name: p.reshape(1, x.outputs, x.inputs)
        for x, p in zip(engine.layers, torch.split(mean, sizes), strict=True)
    }
    solved = fitted.solve(plain, Damping(value=0.1))
    own = sum(float((plain[n] * solved[n]).sum()) for n in plain)
    inner = gradient_engine(model.model, ExactInner(targets=solved))
    expected = [float(inner.run(*batch).features[0][0]) / own for _, batch in pool]
    assert np.allclose(scored["score"].to_numpy(), expected, rtol=2e-3, atol=2e-3)
    assert np.std(expected) > 0.01
    # without any projection the same, unit included
    whole = dataclasses.replace(run, scorer=dataclasses.replace(scorer, space="whole"))
    found = score(whole).frame().sort("id")
    assert np.allclose(found["score"].to_numpy(), expected, rtol=2e-3, atol=2e-3)


def test_the_curvature_is_made_once_and_other_signals_keep_the_model(small, tmp_path):
    run = curved(tmp_path, small, Ekfac(k=4))
    first = ready(run)
    made = first.scorer.given.artifacts["curvature"]
    assert [s.role for s in first.scorer.reference_signals] == ["target", "target"]
    assert first.models.roles == run.models.roles, "an artifact fills no role"
    plain, solved = first.scorer.reference_signals
    assert (plain, solved.curvature) == (first.scorer.signals[0], made)
    assert str(made.path) not in json.dumps(settings_of(first.scorer)), "keys hold no path"
    again = ready(run)
    assert again.scorer.given.artifacts["curvature"].path == made.path
    other = ready(dataclasses.replace(run, scorer=Ekfac(k=4, probes=3)))
    assert other.scorer.given.artifacts["curvature"] != made
    with pytest.raises(ValueError, match="probes is at least 1; found 0"):
        ready(dataclasses.replace(run, scorer=Ekfac(probes=0)))


def test_sketched_targets_meet_the_pools_sketch(small, tmp_path):
    store = Store(root=tmp_path)
    model = load(resolve(str(small), store), device="cpu", dtype="float32")
    encoded = [
        Dialogue().encode({"messages": r["messages"], "tools": None}, model.chat)
        for r in chat_rows(2)
    ]
    whole, capped = ProjectedGradient(k=4, size=None), ProjectedGradient(k=4, size=50)
    out = gradient_reader(model, [whole, capped])(encoded)
    batch = torch.tensor([encoded[0].ids])
    engine = lambda f: gradient_engine(model.model, f).run(batch, batch * 0 + 1, batch)  # noqa: E731
    from gristmill.pipeline.models.gradients.projections import Factored

    fitted = fit_kronecker(lambda f: len(engine(f).reason_R), Factored(k=4))
    sketch = _sketch(capped, fitted)
    for z, expected in zip(out[whole.column], out[capped.column], strict=True):
        assert np.allclose(sketch(z[None].astype(np.float64)), expected, atol=1e-6)
    assert np.array_equal(_sketch(whole, fitted)(np.ones((1, 3))), [1, 1, 1])
    with pytest.raises(ValueError, match="the curvature is not there: let `score` run"):
        PreconditionedGradient(plain=whole).open(model)
    (widths,) = LayerWidths(k=4).open(model)(encoded[:1])
    assert sum(layer["kept"] for layer in widths) == len(out[whole.column][0])
    layers = linear_layers(model.model)
    assert [layer["whole"] for layer in widths] == [x.inputs * x.outputs for x in layers]
    with pytest.raises(ValueError, match="no linear layer that matches"):
        LayerWidths(of=Backward(layers="nowhere,")).open(model)


def frames(scorer, pool, target, solved):
    """An Ekfac run on given gradients."""
    plain, preconditioned = scorer.reference_signals
    both = gradients([target], plain, prefix="t").frame()
    more = gradients([solved], preconditioned, prefix="t").frame()
    reference = both.join(more.select("id", preconditioned.column), on="id")
    return scorer.score(gradients([pool], plain, blocks=4), Frames(parts=(reference,)))


def test_ekfac_ranks_rows_of_a_regression_like_leaving_them_out():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(80, 5)) * np.array([3, 1, 1, 0.5, 0.3])
    y, x_test = x @ draw.normal(size=5) + draw.normal(size=80), draw.normal(size=5)
    y_test = x_test @ draw.normal(size=5)
    solve = lambda a, b: np.linalg.solve(a.T @ a + np.eye(5), a.T @ b)  # noqa: E731
    theta = solve(x, y)
    test_loss = lambda at: (x_test @ at - y_test) ** 2 / 2  # noqa: E731
    truth = [
        test_loss(solve(np.delete(x, i, 0), np.delete(y, i))) - test_loss(theta) for i in range(80)
    ]
    net = nn.Sequential(nn.Linear(5, 1, bias=False)).double()
    inputs = torch.from_numpy(x)
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(80, 1)))  # sampled labels

    def run(*features):
        layout = Layout(shape=(80,), rows=80)
        return row_gradients(net, lambda: (net(inputs) * noise).sum(), layout, *features)

    fitted = fit_kronecker(lambda f: len(run(f)) and 80)
    pool = (x @ theta - y)[:, None] * x
    target = (x_test @ theta - y_test) * x_test[None]
    scorer = Ekfac(damping=0.001)
    solved = fitted.solve_rows(target, Damping(value=0.001))
    found = values(frames(scorer, pool, target, solved))
    expected = pool @ solved[0] / (target[0] @ solved[0])
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)
    curved = spearmanr(found, truth).statistic
    assert curved > 0.95, "80 sampled labels give the spectrum to 16 %"
    assert curved > spearmanr(pool @ target[0], truth).statistic
    assert [x.name for x in linear_layers(net)] == list(fitted.spectrum)


def test_scores_are_in_units_of_the_target_itself():
    pool = [[2.0, 0], [0, 1], [3, 4]]
    scored = frames(Ekfac(), pool, [[3.0, 4], [3, 4]], [[6.0, 4], [6, 4]])
    assert np.allclose(values(scored), [12 / 34, 4 / 34, 1])
    with pytest.raises(ValueError, match="zero under the curvature"):
        frames(Ekfac(), pool, [[0.0, 0]], [[0.0, 0]])


def test_the_recipe_names_what_it_is_made_of():
    (recipe,) = Ekfac(layers="lora", loss="sum", k=8, seed=5, probes=9).recipes
    of = Backward(layers="lora", loss="sum")
    assert recipe == Curvature(base="target", of=of, k=8, seed=5, probes=9)


def test_a_target_row_without_a_gradient_stops_no_other_in_whole_space(small, tmp_path, caplog):
    """It is said and left out, and rows of two tasks count for both, as in projected space."""
    roots = [tmp_path / name for name in ("fine", "bad")]
    targets = [{**r, "task": "ab"[i % 2]} for i, r in enumerate(chat_rows(3, start=20))]
    targets.append({**targets[0], "task": "b"})
    lost = {
        "messages": [
            {"role": "user", "content": "x" * 3_000},
            {"role": "assistant", "content": "y"},
        ]
    }
    found = []
    for root, more in zip(roots, ([], [{**lost, "task": "a"}]), strict=True):
        root.mkdir()
        run = curved(root, small, Ekfac(space="whole"))
        path = write_jsonl(root / "tasks.jsonl", [*targets, *more])
        told = ingest(run.context.store, [Source(path=str(path))])
        found.append(score(dataclasses.replace(run, reference=told)).frame().sort("id"))
    assert "1 of 4 target rows have no gradient" in caplog.text
    for name in ("score", "score_target_a", "score_target_b"):
        assert np.allclose(found[0][name].to_numpy(), found[1][name].to_numpy(), rtol=1e-5)
    run = dataclasses.replace(run, reference=told, scorer=Ekfac(k=32))
    projected = score(run).frame().sort("id")
    for name in ("score", "score_target_a", "score_target_b"):
        assert np.allclose(
            found[1][name].to_numpy(), projected[name].to_numpy(), rtol=2e-3, atol=2e-3
        )
