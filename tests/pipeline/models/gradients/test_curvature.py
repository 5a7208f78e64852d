"""Curvature: golden numbers, limits with known answers, leave-one-out in closed form."""

import numpy as np
import pytest
import torch
from gradient_toys import dialogues, llama, padded_batch
from scipy.stats import spearmanr
from torch import nn
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.models.gradients.engine import FisherLabels, gradient_engine
from gristmill.pipeline.models.gradients.fisher import Damping, Fisher, datainf, fit_fisher
from gristmill.pipeline.models.gradients.hooks import row_gradients
from gristmill.pipeline.models.gradients.inner_products import (
    ExactInner,
)
from gristmill.pipeline.models.gradients.kfac import (
    Covariances,
    Kronecker,
    fit_kronecker,
)
from gristmill.pipeline.models.gradients.layers import linear_layers
from gristmill.pipeline.models.gradients.layout import Layout
from gristmill.pipeline.models.gradients.projections import Factored, Full

ABSOLUTE = Damping(value=0.5, mode="absolute")


def runner(model, rows, **labels):
    def run(feature):
        batch = padded_batch(rows)
        result = gradient_engine(model, feature).run(*batch, **labels)
        return sum(r is None for r in result.reason_R)

    return run


def one_layer(a_NI, g_NO):
    """Rows of one token each on one layer with given output gradients."""
    net = nn.Sequential(nn.Linear(a_NI.shape[1], g_NO.shape[1], bias=False)).double()

    def run(*features):
        layout = Layout(shape=(len(a_NI),), rows=len(a_NI))
        return row_gradients(net, lambda: (net(a_NI) * g_NO).sum(), layout, *features)

    return run


def test_golden_ekfac():
    fitted = Kronecker(
        bases={"w": (np.eye(2), np.eye(2))}, spectrum={"w": np.array([[0.5, 2], [0.5, 2]])}, rows=9
    )
    g = {"w": torch.tensor([[1.0, 1], [2, 2]]).double()}
    assert torch.allclose(
        fitted.solve(g, ABSOLUTE)["w"], torch.tensor([[1, 0.4], [2, 0.8]]).double()
    )


def test_independent_gradients_leave_only_the_inputs_curvature():
    draw = torch.Generator().manual_seed(0)
    n = 20_000
    scale = torch.tensor([0.5, 2.0]).sqrt()
    a = torch.randn(n, 2, generator=draw, dtype=torch.float64) * scale
    g = torch.randn(n, 2, generator=draw, dtype=torch.float64)
    run = one_layer(a, g)
    fitted = fit_kronecker(lambda f: len(run(f)) and n)
    solved = fitted.solve({"0": torch.tensor([[1.0, 1], [2, 2]]).double()}, ABSOLUTE)["0"]
    # means of 20,000 squares: about one percent
    assert torch.allclose(solved, torch.tensor([[1, 0.4], [2, 0.8]]).double(), rtol=0.04)


def test_ekfac_is_the_projection_of_the_true_fisher_on_its_eigenbasis():
    """With T = 1 the corrected spectrum is the diagonal of E[vec(G) vec(G)^T] in that basis."""
    draw = torch.Generator().manual_seed(1)
    a = torch.randn(60, 3, generator=draw, dtype=torch.float64)
    g = torch.randn(60, 2, generator=draw, dtype=torch.float64) * a[:, :2]
    run = one_layer(a, g)
    fitted = fit_kronecker(lambda f: len(run(f)) and 60)
    (full,) = run(Full())
    fisher = (full.T @ full / 60).numpy()
    inner, outer = fitted.bases["0"]
    basis = np.kron(outer, inner)
    assert np.allclose(inner.T @ inner, np.eye(3))
    assert np.allclose(np.diag(basis.T @ fisher @ basis), fitted.spectrum["0"].ravel())
    covariance = Covariances()
    run(covariance)
    assert torch.allclose(covariance.inputs["0"], a.T @ a)
    assert torch.allclose(covariance.outputs["0"], g.T @ g)


def test_great_damping_turns_preconditioning_into_the_inner_product():
    model, rows = llama(), dialogues()
    fitted = fit_kronecker(runner(model, rows))
    g = {n: torch.ones(v.shape).double() for n, v in fitted.spectrum.items()}
    huge = fitted.solve(g, Damping(value=1e9, mode="absolute"))
    assert all(torch.allclose(1e9 * huge[n], g[n], rtol=1e-6) for n in g)


def test_ekfac_scores_by_exact_inner_products_equal_the_dense_formula():
    model, rows = llama(), dialogues()
    fisher = FisherLabels(seed=0, ids=["a", "b", "c", "d"])
    fitted = fit_kronecker(runner(model, rows, fisher=fisher))
    assert fitted.rows == 4
    engine = gradient_engine(model, Full())
    pool = engine.run(*padded_batch(rows)).features[0]
    aim = engine.run(*padded_batch(dialogues((8, 10), seed=7))).features[0]
    sizes = [x.inputs * x.outputs for x in engine.layers]
    parts = torch.split(aim, sizes, dim=1)
    targets = {
        x.name: p.reshape(2, x.outputs, x.inputs) for x, p in zip(engine.layers, parts, strict=True)
    }
    solved = fitted.solve(targets)
    (found,) = gradient_engine(model, ExactInner(targets=solved)).run(*padded_batch(rows)).features
    expected = torch.zeros(4, 2, dtype=torch.float64)
    for x, p, t in zip(engine.layers, torch.split(pool, sizes, dim=1), parts, strict=True):
        inner, outer = fitted.bases[x.name]
        basis = torch.from_numpy(np.kron(outer, inner))
        spectrum = torch.from_numpy(fitted.spectrum[x.name]).flatten()
        expected += (p @ basis) / (spectrum + 0.1 * spectrum.mean()) @ (t @ basis).T
    assert torch.allclose(found, expected, rtol=1e-8)


def test_ekfac_of_projected_gradients_works_on_stored_features():
    model, rows, kind = llama(), dialogues(), Factored(k=4, seed=1)
    fitted = fit_kronecker(runner(model, rows), kind)
    (z,) = gradient_engine(model, kind).run(*padded_batch(rows)).features
    solved = fitted.solve_rows(z.numpy())
    at = 0
    for name, spectrum in fitted.spectrum.items():
        inner, outer = fitted.bases[name]
        block = z[:, at : at + spectrum.size].reshape(-1, *spectrum.shape).numpy()
        rotated = outer.T @ block @ inner
        assert np.allclose(np.square(rotated).mean(0), spectrum)
        expected = outer @ (rotated / (spectrum + 0.1 * spectrum.mean())) @ inner.T
        assert np.allclose(solved[:, at : at + spectrum.size], expected.reshape(len(z), -1))
        at += spectrum.size
    assert at == z.shape[1]
    assert list(fitted.spectrum) == [x.name for x in linear_layers(model)]


def test_curvature_survives_its_file(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(30, 7))
    fisher = fit_fisher([x[:20], x[20:]], (4, 3))
    again = Fisher.load(fisher.save(tmp_path / "fisher.safetensors"))
    assert np.array_equal(again.whiten(x), fisher.whiten(x))
    assert again.rows == 30
    fitted = fit_kronecker(runner(llama(), dialogues()), Factored(k=4))
    back = Kronecker.load(fitted.save(tmp_path / "ekfac.safetensors"))
    z = draw.normal(size=(2, 14 * 16))
    assert np.array_equal(back.solve_rows(z), fitted.solve_rows(z))
    with pytest.raises(ValueError, match="no curvature of this kind"):
        Fisher.load(tmp_path / "ekfac.safetensors")


def test_fisher_blocks_are_the_moments_of_their_layers():
    x = np.random.default_rng(0).normal(size=(40, 5))
    fisher = fit_fisher([x], (3, 2))
    damping = Damping(value=0.2)
    solved = fisher.solve(x, damping)
    for block in (slice(0, 3), slice(3, 5)):
        r = x[:, block].T @ x[:, block] / 40
        ridge = 0.2 * np.trace(r) / len(r) * np.eye(len(r))
        assert np.allclose(solved[:, block], x[:, block] @ np.linalg.inv(r + ridge))
    half = fisher.whiten(x, damping)
    assert np.allclose(half @ half.T, x @ solved.T)


def test_round_moments_change_no_cosine_and_damping_does_not_matter():
    x = np.kron(np.eye(4), [[1.0], [-1.0]]) * 3
    fisher = fit_fisher([x], (4,))
    for damping in (Damping(value=0.0), Damping(value=5.0)):
        half = fisher.whiten(np.arange(8.0).reshape(2, 4), damping)
        plain = np.arange(8.0).reshape(2, 4)
        cosine = half[0] @ half[1] / np.linalg.norm(half[0]) / np.linalg.norm(half[1])
        expected = plain[0] @ plain[1] / np.linalg.norm(plain[0]) / np.linalg.norm(plain[1])
        assert np.isclose(cosine, expected)


def test_golden_datainf():
    one = datainf(lambda: [np.array([[1.0, 2]])], np.array([[1.0, 1]]), (2,))
    assert np.allclose(one, [[1.71428571, -0.57142857]])
    rows = np.array([[1.0, 0], [0, 2]])
    two = datainf(lambda: [rows[:1], rows[1:]], np.array([[1.0, 1]]), (2,))
    assert np.allclose(two, [[4.44444444, 4.12121212]])
    exact = np.linalg.solve(rows.T @ rows / 2 + 0.125 * np.eye(2), [1, 1])
    assert np.allclose(exact, [1.6, 0.47058824])


def test_datainf_is_close_to_the_inverse_on_random_rows():
    cosines = []
    for seed in range(5):
        draw = np.random.default_rng(seed)
        x, v = draw.normal(size=(50, 8)), draw.normal(size=(1, 8))
        found = datainf(lambda x=x: [x], v, (8,))[0]
        ridge = 0.1 * np.square(x).mean()
        exact = np.linalg.solve(x.T @ x / 50 + ridge * np.eye(8), v[0])
        cosines.append(found @ exact / np.linalg.norm(found) / np.linalg.norm(exact))
    assert np.mean(cosines) > 0.9  # influence.md: .96


def ridge(x, y, penalty=1.0):
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def residual_gradients(x, y, theta):
    """Gradients of (x theta - y)^2 / 2 by the engine."""
    net = nn.Sequential(nn.Linear(x.shape[1], 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.from_numpy(theta)[None])
    inputs, wanted = torch.from_numpy(x), torch.from_numpy(y)[:, None]
    (features,) = row_gradients(
        net,
        lambda: (net(inputs) - wanted).square().sum() / 2,
        Layout(shape=(len(x),), rows=len(x)),
        Full(),
    )
    return features.numpy()


def influence(x, y, x_test, penalty=1.0):
    """-x_test^T H^-1 x_i r_i with the curvature fitted on the layer's inputs."""
    theta = ridge(x, y, penalty)
    fisher = fit_fisher([x], (x.shape[1],))
    n = len(x)
    solved = fisher.solve(x_test[None], Damping(value=penalty / n, mode="absolute"))[0] / n
    return residual_gradients(x, y, theta) @ solved


def test_leave_one_out_of_ridge_regression_is_matched_exactly():
    x = np.array([[1.0, 0], [1, 1], [1, 2], [1, 3]])
    y, x_test = np.array([0.0, 1, 1, 3]), np.array([1.0, 4])
    theta = ridge(x, y)
    assert np.allclose(theta, [0.0769231, 0.7692308])
    found = influence(x, y, x_test)
    assert np.allclose(found, [-0.01775148, -0.01972387, 0.29980276, -0.52071006])
    h = np.array([0.38461538, 0.20512821, 0.28205128, 0.61538462])
    assert np.allclose(found / (1 - h), [-0.02884615, -0.02481390, 0.41758242, -1.35384615])
    removed = [x_test @ (ridge(np.delete(x, i, 0), np.delete(y, i)) - theta) for i in range(4)]
    assert np.allclose(found / (1 - h), removed)


def test_curvature_beats_plain_gradients_at_leave_one_out():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(80, 5)) * np.array([3, 1, 1, 0.5, 0.3])
    y, x_test = x @ draw.normal(size=5) + draw.normal(size=80), draw.normal(size=5)
    theta = ridge(x, y)
    truth = [x_test @ (ridge(np.delete(x, i, 0), np.delete(y, i)) - theta) for i in range(80)]
    plain = residual_gradients(x, y, theta) @ x_test
    curved = spearmanr(influence(x, y, x_test), truth).statistic
    assert curved > 0.999
    assert curved > spearmanr(plain, truth).statistic > 0


def test_what_cannot_be_fitted_or_inverted_is_refused():
    x = np.random.default_rng(0).normal(size=(3, 5))
    thin = fit_fisher([x], (5,))
    with pytest.raises(ValueError, match="3 rows and cannot be inverted"):
        thin.solve(x, Damping(value=0.0))
    assert np.isfinite(thin.solve(x)).all()
    with pytest.raises(ValueError, match="no row has a finite feature"):
        fit_fisher([x * np.nan], (5,))
    with pytest.raises(ValueError, match="features have 5 columns"):
        fit_fisher([x], (4,))
    with pytest.raises(ValueError, match="above 0 in every layer"):
        datainf(lambda: [x], x, (5,), Damping(value=0.0))
    with pytest.raises(ValueError, match="no probe had a gradient"):
        fit_kronecker(runner(llama(), [([5, 6], [-100, -100])]))
    flat = Kronecker(bases={"w": (np.eye(2),) * 2}, spectrum={"w": np.zeros((2, 2))}, rows=1)
    with pytest.raises(ValueError, match="seen from 1 probes"):
        flat.solve({"w": torch.ones(2, 2)})


def test_rows_without_a_gradient_do_not_count():
    x = np.random.default_rng(0).normal(size=(30, 4))
    holed = np.concatenate([x[:10], np.full((2, 4), np.nan), x[10:]])
    assert np.allclose(fit_fisher([holed], (4,)).solve(x), fit_fisher([x], (4,)).solve(x))
    assert np.allclose(datainf(lambda: [holed], x, (4,)), datainf(lambda: [x], x, (4,)))


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
