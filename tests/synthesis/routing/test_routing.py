"""The router: posterior, normaliser and encoder against their oracles, and a bandit that learns."""

import numpy as np
import pytest
import torch

from gristmill.synthesis.routing.encoder import Training, fit, ranking_loss
from gristmill.synthesis.routing.normaliser import Normaliser, bounds, scaled
from gristmill.synthesis.routing.posterior import Posterior
from gristmill.synthesis.routing.router import Router, figures

H = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
R = np.array([1.0, 0.0, 1.0])


def after(mean, h_TD, rewards, **prior):
    arm = Posterior.prior(np.array(mean), **prior)
    for h_D, reward in zip(h_TD, rewards, strict=True):
        arm.update(h_D, reward)
    return arm


@pytest.mark.parametrize(
    ("mean", "expected"),
    [((0.0, 0.0), (0.36, 0.31333333)), ((0.5, -0.5), (0.62, 0.07666667))],
)
def test_the_posterior_of_three_rewards_is_the_closed_form(mean, expected):
    arm = after(mean, H, R)
    assert np.allclose(arm.precision_DD, [[2.36, 0.48], [0.48, 2.64]], atol=1e-12)
    assert np.allclose(arm.mean_D, expected, atol=1e-8)


def test_the_posterior_mean_is_ridge_regression_whatever_the_order():
    rng = np.random.default_rng(0)
    h_TD, r_T, prior_D = rng.normal(size=(200, 24)), rng.normal(size=200), rng.normal(size=24)
    arm = after(prior_D, h_TD, r_T, strength=3.0, noise=0.5)
    left = h_TD.T @ h_TD / 0.5 + 3.0 * np.eye(24)
    ridge_D = np.linalg.solve(left, h_TD.T @ r_T / 0.5 + 3.0 * prior_D)
    assert np.abs(arm.mean_D - ridge_D).max() < 1e-9
    turned = after(prior_D, h_TD[::-1], r_T[::-1], strength=3.0, noise=0.5)
    assert np.abs(turned.mean_D - ridge_D).max() < 1e-9


def test_draws_have_the_mean_and_the_covariance_of_the_posterior():
    arm = after((0.5, -0.5), H, R)
    rng = np.random.default_rng(1)
    draw_SD = np.stack([arm.sample(rng.standard_normal(2)) for _ in range(10_000)])
    assert np.allclose(draw_SD.mean(0), arm.mean_D, atol=0.03)
    assert np.allclose(np.cov(draw_SD.T), np.linalg.inv(arm.precision_DD), atol=0.03)


def test_more_than_256_features_are_refused():
    with pytest.raises(ValueError, match="257 features are too many"):
        Posterior.prior(np.zeros(257))
    with pytest.raises(ValueError, match=r"width is 257; give 1 to 256"):
        Training(width=257)
    with pytest.raises(ValueError, match="strength and noise are above 0"):
        Posterior.prior(np.zeros(2), noise=0.0)


def test_rewards_are_scaled_by_the_quantiles_of_all_that_came():
    even = np.linspace(-2.0, 0.0, 21)
    assert np.allclose(bounds(even), (-1.6, -0.4))
    assert [scaled(r, *bounds(even)) for r in (-1.8, -1.0, -0.3)] == pytest.approx([0, 0.5, 1])
    assert (scaled(1.0, 1.0, 1.0), scaled(1.1, 1.0, 1.0)) == (0.0, 1.0)


def test_the_first_19_rewards_are_one_half_and_the_20th_counts_itself():
    normalised = Normaliser()
    assert [normalised(float(r)) for r in range(19)] == [0.5] * 19
    assert normalised(100.0) == 1.0
    low, high = bounds([*range(19), 100.0])
    assert normalised.history[-1] == 100.0
    assert (low, high) != bounds(range(19)), "the reward itself is in the quantiles"
    assert normalised(-5.0) == 0.0


def test_only_right_and_wrong_arms_of_one_pair_are_ordered():
    score = torch.tensor([[0.2, -0.1, 0.4], [5.0, 1.0, -3.0], [0.0, 0.0, 1.0]])
    right = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    loss = ranking_loss(score, right)
    ordered = [0.2 - -0.1, 0.4 - -0.1]
    assert float(loss) == pytest.approx(np.mean([np.log1p(np.exp(-d)) for d in ordered]), rel=1e-6)


def separated(count, seed):
    """Features whose sign tells which of two arms is right."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(count, 6)), rng.normal(size=(count, 6))
    side = (first + second)[:, 0] > 0
    return first, second, np.stack([side, ~side], axis=1)


def test_the_encoder_learns_which_arm_is_right_where_and_ignores_the_order_of_sides():
    first, second, right = separated(300, 0)
    before = torch.get_rng_state()
    encoder = fit(first, second, right, Training())
    assert torch.equal(torch.get_rng_state(), before)
    held = separated(200, 1)
    h_ND = encoder.encode(*held[:2])
    assert np.allclose(np.linalg.norm(h_ND, axis=1), 1)
    assert np.allclose(np.linalg.norm(encoder.arm_KD, axis=1), 1)
    chosen = np.argmax(h_ND @ encoder.arm_KD.T, axis=1)
    assert held[2][np.arange(200), chosen].mean() > 0.9
    assert np.allclose(h_ND, encoder.encode(held[1], held[0]))
    again = fit(first, second, right, Training())
    assert np.array_equal(again.arm_KD, encoder.arm_KD), "equal inputs give equal weights"


def bandit(steps, *, batch, seed=0):
    """Three arms whose labels are right at known rates, whatever the pair."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-0.3, 0.3, steps)
    h_TD = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    quality = np.array([0.1, 0.95, 0.3])
    ids = [f"{n}" for n in range(steps)]
    right_TK = rng.random((steps, 3)) < quality
    arms = {}

    def margins(arm, places):
        arms.update(dict.fromkeys(places, arm))
        return np.where(right_TK[places, arm], 1.0, -1.0)

    def feedback(decided):
        return {t: float(right_TK[t, arms[t]]) + 0.01 * rng.random() for t in decided}

    router = Router(batch=batch, strength=1.0)
    found = router.run(ids, h_TD, np.zeros((3, 2)), margins, feedback)
    return list(found.values()), right_TK


@pytest.mark.parametrize("batch", [1, 32])
def test_the_best_of_three_arms_is_drawn_more_than_nine_times_in_ten(batch):
    routed, right_TK = bandit(2_000, batch=batch)
    told = figures(routed, right_TK)
    assert told.shares[1] > 0.9
    assert told.accuracy > 0.85
    late = told.regret_T[-1] - told.regret_T[1_000]
    assert late < told.regret_T[-1], "what is lost is lost early"
    assert np.mean(np.diff(told.regret_T)[-500:]) < 0.05
    assert 0.4 < told.mean_reward <= 1.0


def test_a_tie_draws_another_pair():
    ids, h_TD = [f"{n}" for n in range(10)], np.ones((10, 1))
    margins = {n: 0.001 if n % 2 else -2.0 for n in range(10)}
    asked = []

    def ask(arm, places):
        asked.extend(places)
        return np.array([margins[t] for t in places])

    found = Router(batch=2).run(ids, h_TD, np.ones((2, 1)), ask, None, wanted=3)
    assert [r.label for r in found.values()] == ["rejected", None, "rejected", None, "rejected"]
    assert sorted(asked) == [0, 1, 2, 3, 4], "no more are asked about than are wanted"
    told = figures(list(found.values()), arms=2)
    assert (told.ties, told.mean_reward, told.accuracy) == (2, None, None)
    assert sum(told.shares.values()) == pytest.approx(1.0)


def test_draws_depend_on_the_pair_and_not_on_its_place():
    ids, h_TD = [f"{n}" for n in range(40)], np.ones((40, 1))

    def ask(arm, places):
        return np.ones(len(places)) * (arm + 1)

    one = Router(batch=64).run(ids, h_TD, np.ones((3, 1)), ask, None)
    turned = Router(batch=64).run(ids[::-1], h_TD, np.ones((3, 1)), ask, None)
    assert {i: r.arm for i, r in one.items()} == {i: r.arm for i, r in turned.items()}
    assert len({r.arm for r in one.values()}) == 3
