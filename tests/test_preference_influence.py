"""TIF, LossDiff, IRM and their band, on a policy in closed form; bands on plain numbers."""

# figures of the closed form are the specification's, made by an implementation of its own

import logging

import numpy as np
import polars as pl
import pytest
from preference_toy import BETA, LOSS, closed_form, label_noise

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.prepare.preference import half_of
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.rules.band import Band, band_counts, centrality, symmetric
from gristmill.pipeline.signals.pair_signals import Objective, log_probs
from gristmill.selectors.preference.implicit_gap import ImplicitGap
from gristmill.selectors.preference.irm import Irm
from gristmill.selectors.preference.lossdiff import Lossdiff
from gristmill.selectors.preference.lossdiff_irm import LossdiffIrm
from gristmill.selectors.preference.selective_dpo import SelectiveDpo
from gristmill.selectors.preference.tif import Tif

BOTH = ("score_lossdiff", "score_irm")


def pearson(a, b):
    return np.corrcoef(a, b)[0, 1]


def values(scores):
    return scores["score"].to_numpy()


def kept(scores, *columns, q=0.1, **settings):
    rule = Band(low=q, high=1 - q, columns=columns, **settings)
    return set(rule.order(scores, np.inf)["index"].to_list())


@pytest.fixture(scope="module")
def toy():
    toy = closed_form()
    theta = toy.trained(toy.reference, toy.train)
    tuned = toy.trained(theta, toy.validation)
    pool = toy.observed(toy.train, target=theta, validation=tuned)
    targets = toy.observed(toy.validation, target=theta, validation=tuned)
    return toy, theta, pool, targets


def test_influence_in_closed_form(toy):
    toy, theta, pool, targets = toy
    assert toy.loss(theta, toy.train).mean() == pytest.approx(0.61709638, abs=1e-8)
    assert toy.loss(theta, toy.validation).mean() == pytest.approx(0.47773597, abs=1e-8)
    influence = values(Tif(objective=LOSS).score(pool, targets))
    # the gradient of the pair, from the gradients of its sides and four log-probabilities
    exact = toy.gradient(theta, toy.train) @ toy.gradient(theta, toy.validation).mean(0)
    np.testing.assert_allclose(influence, exact, atol=1e-12)
    assert influence[:3] == pytest.approx([0.046376, 0.015266, -0.046092], abs=5e-7)
    quantiles = np.quantile(influence, [0, 0.1, 0.5, 0.9, 1])
    expected = [-0.255804, -0.061183, 0.017404, 0.054118, 0.097278]
    assert quantiles == pytest.approx(expected, abs=5e-7)
    norm = np.linalg.norm(toy.gradient(theta, toy.validation).mean(0))
    assert norm == pytest.approx(0.18230540, abs=1e-8)


def test_stand_ins_follow_the_influence(toy):
    toy, theta, pool, targets = toy
    influence = values(Tif(objective=LOSS).score(pool, targets))
    lossdiff = values(Lossdiff(objective=LOSS).score(pool, targets))
    irm = values(Irm(objective=LOSS).score(pool))
    assert pearson(influence, lossdiff) == pytest.approx(0.95410587, abs=2e-8)
    assert pearson(influence, irm) == pytest.approx(0.77496605, abs=2e-8)
    other = toy.trained(toy.reference, toy.validation)  # from the reference model
    from_reference = toy.observed(toy.train, target=theta, validation=other)
    started = values(Lossdiff(objective=LOSS, start="reference").score(from_reference, targets))
    assert pearson(influence, started) == pytest.approx(0.97858169, abs=2e-8)
    both = LossdiffIrm(objective=LOSS).score(pool, targets)
    np.testing.assert_array_equal(both["score_lossdiff"], lossdiff)
    np.testing.assert_array_equal(both["score_irm"], irm)
    np.testing.assert_array_equal(values(ImplicitGap(objective=LOSS).score(pool)), -irm)
    np.testing.assert_array_equal(
        values(ImplicitGap(objective=LOSS, absolute=True).score(pool)), -np.abs(irm)
    )


@pytest.mark.parametrize(
    ("q", "rows", "overlaps"),
    [
        (0.10, 275, (0.950, 0.878, 0.975)),
        (0.15, 217, (0.914, 0.821, 0.963)),
        (0.20, 160, (0.866, 0.727, 0.919)),
    ],
)
def test_bands_against_the_band_of_the_influence(toy, q, rows, overlaps):
    _, _, pool, targets = toy
    scores = LossdiffIrm(objective=LOSS).score(pool, targets)
    scores = scores.with_columns(score_tif=values(Tif(objective=LOSS).score(pool, targets)))
    wanted = kept(scores, "score_tif", q=q)
    found = [kept(scores, c, q=q) for c in BOTH] + [kept(scores, *BOTH, q=q)]
    assert len(found[-1]) == rows
    shared = [len(f & wanted) / min(len(f), len(wanted)) for f in found]
    assert shared == pytest.approx(overlaps, abs=5e-4)


def test_the_share_to_keep_is_met_by_one_symmetric_quantile(toy):
    _, _, pool, targets = toy
    scores = LossdiffIrm(objective=LOSS).score(pool, targets)
    columns = [scores[c].to_numpy() for c in BOTH]
    assert symmetric(columns, 0.64) == pytest.approx(0.113, abs=0.005)
    solved = kept(scores, *BOTH, target_keep=0.64)
    assert len(solved) / 400 == pytest.approx(0.64, abs=0.01)
    # the score is made so that `top` with the same budget keeps the same pairs
    top = set(np.argsort(-values(scores), kind="stable")[: len(solved)].tolist())
    assert len(top & solved) >= len(solved) - 2
    built = rule_named("band", {"columns": ",".join(BOTH), "target_keep": "0.64"})
    assert set(built.order(scores, np.inf)["index"].to_list()) == solved


def test_derivatives_of_the_loss(toy):
    toy, theta, pool, targets = toy
    pairs = toy.train[:50]
    step = 1e-5 * np.eye(5)
    numeric = np.stack(
        [(toy.loss(theta + h, pairs) - toy.loss(theta - h, pairs)) / 2e-5 for h in step], axis=1
    )
    np.testing.assert_allclose(toy.gradient(theta, pairs), numeric, atol=1e-9)
    influence = values(Tif(objective=LOSS).score(pool, targets))
    g_v = toy.gradient(theta, toy.validation).mean(0)
    eps = 1e-4
    models = toy.observed(toy.train, proxy=[theta + eps * g_v, theta - eps * g_v])
    by_difference = Tif(objective=LOSS, by="difference", epsilon=eps).score(models, targets)
    np.testing.assert_allclose(values(by_difference), influence, atol=5e-12)
    before = toy.loss(theta, toy.validation).mean()
    rate = 1e-3
    stepped = theta - rate * toy.gradient(theta, toy.train)  # one model per pair
    drop = np.array([before - toy.loss(t, toy.validation).mean() for t in stepped])
    assert np.abs(drop - rate * influence).max() <= 4e-7
    assert pearson(drop, influence) > 0.9999
    for rate, most in ((1e-2, 1.0e-4), (1e-4, 1.0e-6)):
        tuned = toy.observed(toy.train, target=theta, validation=theta - rate * g_v)
        lossdiff = values(Lossdiff(objective=LOSS).score(tuned, targets))
        assert np.abs(lossdiff / rate - influence).max() < most
    tuned = toy.observed(toy.train, target=theta, validation=theta - g_v)
    assert pearson(values(Lossdiff(objective=LOSS).score(tuned, targets)), influence) > 0.999


@pytest.mark.parametrize("seed", range(5))
def test_planted_flips_fall_to_the_bottom(seed):
    toy = label_noise(seed)
    theta = toy.trained(toy.reference, toy.train)
    tuned = toy.trained(theta, toy.validation)
    pool = toy.observed(toy.train, target=theta, validation=tuned)
    targets = toy.observed(toy.validation, target=theta, validation=tuned)
    flipped = toy.train[:, 3] == 1
    for scorer in (Tif(objective=LOSS), Lossdiff(objective=LOSS), Irm(objective=LOSS)):
        lowest = np.argsort(values(scorer.score(pool, targets)))[:40]
        assert flipped[lowest].mean() >= 0.97
    stay = sorted(kept(LossdiffIrm(objective=LOSS).score(pool, targets), *BOTH))
    assert 0.68 <= len(stay) / 400 <= 0.695
    assert 0.177 <= flipped.mean() <= 0.226
    assert 0.101 <= flipped[stay].mean() <= 0.158
    hardest = np.argsort(-values(ImplicitGap(objective=LOSS).score(pool)))[:40]
    assert flipped[hardest].mean() >= 0.95
    ids = pool.frame()["id"].to_list()
    models = []
    for cut in (41, 42, 43):
        half = np.array([half_of(i, cut) for i in ids])
        models += [toy.trained(toy.reference, toy.train[half == h]) for h in (0, 1)]
    scores = SelectiveDpo(beta=BETA).score(toy.observed(toy.train, proxy=models))
    hard = np.argsort(values(scores))[:200]
    assert np.isin(np.flatnonzero(flipped), hard).mean() >= 0.98


def test_selective_dpo_never_asks_a_model_that_saw_the_pair():
    ids = [f"{i:03d}" for i in range(60)]
    columns = {"id": ids}
    for signal in log_probs("reference"):
        columns[signal.column] = np.zeros(60)
    for s, seed in enumerate((41, 42, 43)):
        for half in (0, 1):
            saw = np.array([half_of(i, seed) == half for i in ids])
            chosen, rejected = log_probs("proxy")
            # a model that saw the pair would say that it is very easy
            columns[f"{chosen.column}@{2 * s + half}"] = np.where(saw, 1e6, -100.0 * s)
            columns[f"{rejected.column}@{2 * s + half}"] = np.zeros(60)
    pool = Frames(parts=(pl.DataFrame(columns),), weights={"proxy": (1 / 6,) * 6})
    scores = SelectiveDpo().score(pool)
    mean = np.logaddexp(0, [0.0, 1.0, 2.0]).mean()
    np.testing.assert_allclose(values(scores), -mean, atol=1e-12)
    few = Frames(parts=(pl.DataFrame(columns),), weights={"proxy": (0.5, 0.5)})
    with pytest.raises(ValueError, match="two models for each of 3 seeds"):
        SelectiveDpo().score(few)


def test_label_swap():
    loss = Objective(beta=0.1)
    chosen, rejected = log_probs("target")
    ref = log_probs("reference")

    def block(a, b):
        numbers = {chosen.column: a[0], rejected.column: b[0]}
        numbers |= {ref[0].column: a[1], ref[1].column: b[1]}
        return pl.DataFrame({"id": ["x"]} | {k: [float(v)] for k, v in numbers.items()})

    good, bad = (-40, -45), (-60, -58)
    forth, back = block(good, bad), block(bad, good)
    m = loss.margin(forth)
    assert m == pytest.approx(0.7)
    assert loss.margin(back) == pytest.approx(-0.7)
    assert loss.loss(m) == pytest.approx(0.40318605, abs=1e-8)
    assert 0.1 * loss.slope(m) == pytest.approx(-0.03318122, abs=1e-8)
    assert loss.loss(-m) == pytest.approx(1.10318605, abs=1e-8)
    assert loss.loss(-m) == pytest.approx(loss.loss(m) + m)
    g_w, g_l = np.array([[1.0, 2.0]]), np.array([[0.5, -1.0]])
    swapped = loss.gradient(back, g_l, g_w)
    np.testing.assert_allclose(swapped, -np.exp(m) * loss.gradient(forth, g_w, g_l))


def test_lossdiff_and_influence_of_a_swapped_pair(toy):
    toy, theta, pool, targets = toy
    swapped = toy.train[:, [0, 2, 1, 3]]
    tuned = toy.trained(theta, toy.validation)
    other = toy.observed(swapped, target=theta, validation=tuned)
    m, m_val = toy.margin(theta, toy.train), toy.margin(tuned, toy.train)
    influence, back = (values(Tif(objective=LOSS).score(p, targets)) for p in (pool, other))
    np.testing.assert_allclose(back, -np.exp(m) * influence, atol=1e-12)
    lossdiff, back = (values(Lossdiff(objective=LOSS).score(p, targets)) for p in (pool, other))
    np.testing.assert_allclose(back, lossdiff + m - m_val, atol=1e-12)


def test_strict_bands_of_plain_numbers():
    def ids(n):
        scores = pl.DataFrame({"id": [f"{i:03d}" for i in range(n)], "score": np.arange(float(n))})
        return sorted(Band().order(scores, np.inf)["index"].to_list())

    assert ids(100) == list(range(10, 90))
    assert ids(10) == list(range(1, 9))


def test_values_that_are_no_numbers_are_in_no_band():
    scores = pl.DataFrame(
        {"id": list("abcdefg"), "score": [None, np.nan, np.inf, -np.inf, 1.0, 2.0, 3.0]}
    )
    assert Band(low=0.0, high=1.0).order(scores, np.inf)["index"].to_list() == [5]
    counts = band_counts(scores, Band(low=0.0, high=1.0)).row(0, named=True)
    assert (counts["below"], counts["inside"], counts["above"], counts["null"]) == (1, 1, 1, 4)
    assert centrality(np.array([3.0, np.nan, 1.0, 2.0])) == pytest.approx(
        [1 / 3, np.nan, 1 / 3, 1.0], nan_ok=True
    )


def test_bands_that_contradict_each_other_are_flagged(caplog):
    up = np.arange(100.0)
    scores = pl.DataFrame(
        {"id": [f"{i:03d}" for i in range(100)], "score_a": up, "score_b": np.abs(up - 50)}
    )
    rule = Band(columns=("score_a", "score_b"), low=0.4, high=0.6)
    with caplog.at_level(logging.WARNING):
        rule.order(scores, np.inf)
    assert "score_a and score_b together keep" in caplog.text
    assert band_counts(scores, rule)["inside"][-1] == len(rule.order(scores, np.inf))
    caplog.clear()
    Band(columns=("score_a",), low=0.4, high=0.6).order(scores, np.inf)
    assert not caplog.text
    with pytest.raises(ValueError, match="target_keep is a share between 0 and 1; found 64"):
        Band(target_keep=64)
