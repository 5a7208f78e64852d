"""Effects: closed forms, coverage of simulated experiments, Holm by hand, what is refused."""

import numpy as np
import pytest
from scipy import stats

from gristmill.pipeline.numerics import effects
from gristmill.pipeline.numerics.effects import Effect, detectable, effect, holm


def ids(n):
    return [f"item-{i:04d}" for i in range(n)]


def experiment(draw, *, true=0.0, items=120, seeds=3, random=5, noise=(0.3, 0.05, 0.05, 0.2)):
    """Arm and control: items answer the arm differently, seeds, draws and single answers vary."""
    by_item, by_seed, by_draw, rest = noise
    item = draw.normal(size=items)
    reacts = draw.normal(true, by_item, size=items)  # what the arm does to an item
    common = draw.normal(0, by_seed, size=seeds)  # a training seed is shared by all arms

    def models(draws, what):
        selection = draw.normal(0, by_draw, size=(draws, 1, 1))
        own = draw.normal(0, by_seed, size=(draws, seeds, 1))
        answers = draw.normal(0, rest, size=(draws, seeds, items))
        return item + what + selection + common[:, None] + own + answers

    return models(1, reacts), models(random, 0.0)


@pytest.mark.parametrize(
    ("shape", "noise"),
    [
        ({"items": 60, "seeds": 3, "random": 5}, (0.3, 0.05, 0.05, 0.2)),
        ({"items": 200, "seeds": 3, "random": 10}, (0.1, 0.1, 0.02, 0.5)),  # seeds rule
        ({"items": 200, "seeds": 5, "random": 5}, (0.1, 0.02, 0.15, 0.1)),  # draws rule
        ({"items": 80, "seeds": 3, "random": 5}, (0.5, 0.0, 0.0, 0.1)),  # items alone
    ],
)
def test_intervals_cover_the_truth_of_simulated_experiments(shape, noise, monkeypatch):
    names = ids(shape["items"])
    counts = effects.draws(names, 400, 0)  # the same items each time: drawn once
    monkeypatch.setattr(effects, "draws", lambda *_: counts)
    draw = np.random.default_rng(7)
    found = [
        effect(*experiment(draw, true=0.1, noise=noise, **shape), names, resamples=400)
        for _ in range(1_000)
    ]
    covered = np.mean([e.low <= 0.1 <= e.high for e in found])
    assert 0.93 <= covered <= 0.97
    null = [
        effect(*experiment(draw, noise=noise, **shape), names, resamples=400) for _ in range(400)
    ]
    assert np.mean([e.p < 0.05 for e in null]) <= 0.08


def test_with_items_alone_it_is_the_paired_t_interval():
    draw = np.random.default_rng(1)
    arm_N, control_N = draw.normal(size=(2, 400))
    same = np.repeat(arm_N[None, None], 3, axis=1), np.repeat(control_N[None, None], 3, axis=1)
    found = effect(*same, ids(400), resamples=20_000)
    exact = stats.ttest_rel(arm_N, control_N)
    low, high = exact.confidence_interval()
    assert found.value == pytest.approx((arm_N - control_N).mean())
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.05, abs=3e-3)
    assert found.p == pytest.approx(exact.pvalue, abs=0.02)


def test_items_count_by_their_weight():
    arm = np.zeros((1, 2, 3)) + np.array([1.0, 2.0, 3.0])
    found = effect(arm, np.zeros((1, 2, 3)), ids(3), weight_N=np.array([2.0, 0.0, 2.0]))
    assert found.value == pytest.approx(2.0)


def test_equal_arms_have_no_effect_and_no_finding():
    arm = np.random.default_rng(0).normal(size=(1, 3, 20))
    found = effect(arm, arm, ids(20))
    assert (found.value, found.error, found.p) == (0.0, 0.0, 1.0)
    sure = effect(arm + 1.0, arm, ids(20))
    assert (sure.low, sure.high) == (pytest.approx(1.0), pytest.approx(1.0))
    assert sure.p < 1e-100


def test_the_detectable_effect_is_detected_with_its_power():
    error, freedom = 0.1, 8.0
    size = detectable(error, freedom)
    draw = np.random.default_rng(3)
    scale = error * np.sqrt(draw.chisquare(freedom, 20_000) / freedom)
    value = draw.normal(size, error, 20_000)
    assert np.mean(value > stats.t.ppf(0.975, freedom) * scale) == pytest.approx(0.8, abs=0.03)


def test_another_level_keeps_the_estimate():
    draw = np.random.default_rng(5)
    found = effect(*experiment(draw, true=0.5), ids(120))
    wide = found.at(0.99)
    assert wide.value == found.value
    assert wide.low < found.low < found.high < wide.high
    assert isinstance(wide, Effect)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize(
    ("arm", "control", "said"),
    [
        ((1, 3, 4), (5, 2, 4), "3 and 2 seeds"),
        ((1, 3, 4), (5, 3, 5), "4 and 5 items"),
        ((1, 1, 4), (5, 1, 4), "2 seeds and 2 items at least"),
    ],
)
def test_experiments_that_give_no_interval_are_refused(arm, control, said):
    with pytest.raises(ValueError, match=said):
        effect(np.zeros(arm), np.zeros(control), ids(4))
