"""TIF, LossDiff, IRM and their band, on a policy in closed form"""

import logging
from functools import wraps

import numpy as np
import polars as pl
import pytest
from ingested import dataset
from preference_toy import BETA, LOSS, closed_form, frame, label_noise, pearson, tuned_world, values
from rows import pair_rows
from toy_training import (
    one_thread,  # noqa: F401  (a fixture)
)
from transformers.models.llama.modeling_llama import LlamaModel

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.prepare.preference import half_of
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.rules.band import Band, symmetric
from gristmill.pipeline.signals.pair_signals import VIEWS, log_probs
from gristmill.pipeline.signals.reward import RewardScore
from gristmill.selectors.preference.bees import Bees
from gristmill.selectors.preference.implicit_gap import ImplicitGap
from gristmill.selectors.preference.irm import Irm
from gristmill.selectors.preference.lossdiff import Lossdiff
from gristmill.selectors.preference.lossdiff_irm import LossdiffIrm
from gristmill.selectors.preference.selective_dpo import SelectiveDpo
from gristmill.selectors.preference.tif import Tif

BOTH = ("score_lossdiff", "score_irm")


def kept(scores, *columns, q=0.1, **settings):
    rule = Band(low=q, high=1 - q, columns=columns, **settings)
    return set(rule.order(scores, np.inf)["index"].to_list())


@pytest.fixture(scope="module")
def world():
    return tuned_world()


def test_influence_in_closed_form(world):
    world, theta, pool, targets = world
    assert world.loss(theta, world.train).mean() == pytest.approx(0.61709638, abs=1e-8)
    assert world.loss(theta, world.validation).mean() == pytest.approx(0.47773597, abs=1e-8)
    influence = values(Tif(objective=LOSS).score(pool, targets))
    # the gradient of the pair, from the gradients of its sides and four log-probabilities
    exact = world.gradient(theta, world.train) @ world.gradient(theta, world.validation).mean(0)
    np.testing.assert_allclose(influence, exact, atol=1e-12)
    assert influence[:3] == pytest.approx([0.046376, 0.015266, -0.046092], abs=5e-7)
    quantiles = np.quantile(influence, [0, 0.1, 0.5, 0.9, 1])
    expected = [-0.255804, -0.061183, 0.017404, 0.054118, 0.097278]
    assert quantiles == pytest.approx(expected, abs=5e-7)
    norm = np.linalg.norm(world.gradient(theta, world.validation).mean(0))
    assert norm == pytest.approx(0.18230540, abs=1e-8)


def test_stand_ins_follow_the_influence(world):
    world, theta, pool, targets = world
    influence = values(Tif(objective=LOSS).score(pool, targets))
    lossdiff = values(Lossdiff(objective=LOSS).score(pool, targets))
    irm = values(Irm(objective=LOSS).score(pool))
    assert pearson(influence, lossdiff) == pytest.approx(0.95410587, abs=2e-8)
    assert pearson(influence, irm) == pytest.approx(0.77496605, abs=2e-8)
    other = world.trained(world.reference, world.validation)  # from the reference model
    from_reference = world.observed(world.train, target=theta, validation=other)
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
def test_bands_against_the_band_of_the_influence(world, q, rows, overlaps):
    _, _, pool, targets = world
    scores = LossdiffIrm(objective=LOSS).score(pool, targets)
    scores = scores.with_columns(score_tif=values(Tif(objective=LOSS).score(pool, targets)))
    wanted = kept(scores, "score_tif", q=q)
    found = [kept(scores, c, q=q) for c in BOTH] + [kept(scores, *BOTH, q=q)]
    assert len(found[-1]) == rows
    shared = [len(f & wanted) / min(len(f), len(wanted)) for f in found]
    assert shared == pytest.approx(overlaps, abs=5e-4)


def test_the_share_to_keep_is_met_by_one_symmetric_quantile(world):
    _, _, pool, targets = world
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


@pytest.mark.parametrize("seed", range(5))
def test_planted_flips_fall_to_the_bottom(seed):
    world = label_noise(seed)
    theta = world.trained(world.reference, world.train)
    tuned = world.trained(theta, world.validation)
    pool = world.observed(world.train, target=theta, validation=tuned)
    targets = world.observed(world.validation, target=theta, validation=tuned)
    flipped = world.train[:, 3] == 1
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
        models += [world.trained(world.reference, world.train[half == h]) for h in (0, 1)]
    scores = SelectiveDpo(beta=BETA).score(world.observed(world.train, proxy=models))
    hard = np.argsort(values(scores))[:200]
    assert np.isin(np.flatnonzero(flipped), hard).mean() >= 0.98


def test_lossdiff_and_influence_of_a_swapped_pair(world):
    world, theta, pool, targets = world
    swapped = world.train[:, [0, 2, 1, 3]]
    tuned = world.trained(theta, world.validation)
    other = world.observed(swapped, target=theta, validation=tuned)
    m, m_val = world.margin(theta, world.train), world.margin(tuned, world.train)
    influence, back = (values(Tif(objective=LOSS).score(p, targets)) for p in (pool, other))
    np.testing.assert_allclose(back, -np.exp(m) * influence, atol=1e-12)
    lossdiff, back = (values(Lossdiff(objective=LOSS).score(p, targets)) for p in (pool, other))
    np.testing.assert_allclose(back, lossdiff + m - m_val, atol=1e-12)


def test_without_a_warm_up_margins_carry_nothing():
    numbers = {s.column: [-3.0, -4.0] for s in (*log_probs(), *log_probs("reference"))}
    with pytest.raises(ValueError, match="all 2 implicit reward margins are 0"):
        Irm().score(frame("ab", numbers))


def test_few_validation_pairs_are_said_and_none_is_refused(caplog):
    roles = ("target", "validation", "reference")
    pool = frame("a", {s.column: [float(i)] for i, r in enumerate(roles) for s in log_probs(r)})
    Lossdiff().score(pool, frame("xy", {}))
    assert "2 validation pairs were given" in caplog.text
    caplog.clear()
    Lossdiff().score(pool, frame([str(i) for i in range(32)], {}))
    assert not caplog.text
    with pytest.raises(ValueError, match="the validation set holds no pair"):
        Lossdiff().score(pool, Frames(parts=()))


@pytest.mark.parametrize("scorer", [Irm(), ImplicitGap(), LossdiffIrm(), Bees()])
def test_margins_that_are_all_0_are_refused(scorer):
    toy = closed_form()
    roles = {"target": toy.reference, "proxy": toy.reference, "validation": toy.reference + 0.1}
    frame = toy.observed(toy.train, **roles).frame()
    reward = {RewardScore(view=view).column: pl.lit(float(k)) for k, view in enumerate(VIEWS)}
    pool = Frames(parts=(frame.with_columns(**reward),))
    with pytest.raises(ValueError, match=r"all 400 implicit reward margins are 0.*warm"):
        scorer.score(pool, pool)


def test_lossdiff_approaches_the_influence_at_the_published_rate():
    toy = closed_form()
    theta = toy.trained(toy.reference, toy.train)
    g_v = toy.gradient(theta, toy.validation).mean(0)
    targets = toy.observed(toy.validation, target=theta)
    exact = values(Tif(objective=LOSS).score(toy.observed(toy.train, target=theta), targets))

    def stepped(rate):
        pool = toy.observed(toy.train, target=theta, validation=theta - rate * g_v)
        return values(Lossdiff(objective=LOSS).score(pool, targets)) / rate

    assert np.abs(stepped(1e-2) - exact).max() == pytest.approx(9.9e-5, abs=5e-7)
    assert np.abs(stepped(1e-4) - exact).max() == pytest.approx(9.9e-7, abs=5e-9)
    assert np.corrcoef(stepped(1.0), exact)[0, 1] == pytest.approx(0.9995, abs=5e-5)


def test_shares_of_planted_flips_span_the_published_ranges():
    stay, before, after = [], [], []
    for seed in range(5):
        toy = label_noise(seed)
        theta = toy.trained(toy.reference, toy.train)
        tuned = toy.trained(theta, toy.validation)
        pool = toy.observed(toy.train, target=theta, validation=tuned)
        scores = LossdiffIrm(objective=LOSS).score(pool, pool)
        rule = Band(columns=("score_lossdiff", "score_irm"))
        kept = rule.order(scores, np.inf)["index"].to_numpy()
        flipped = toy.train[:, 3] == 1
        stay.append(len(kept) / 400)
        before.append(flipped.mean())
        after.append(flipped[kept].mean())
    assert (min(stay), max(stay)) == pytest.approx((0.68, 0.69), abs=5e-3)
    assert (min(before), max(before)) == pytest.approx((0.1775, 0.225), abs=1e-9)
    assert (min(after), max(after)) == pytest.approx((0.101, 0.158), abs=5e-4)


def test_lossdiff_irm_costs_three_pair_forwards_and_its_parts_nothing_more(
    store, tiny, tmp_path, monkeypatch
):
    read, plain = [], LlamaModel.forward

    @wraps(plain)
    def counted(self, input_ids=None, **rest):
        read.append(input_ids.numel())
        return plain(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(LlamaModel, "forward", counted)
    roles = {"reference": (str(tiny),)}
    for seed, role in enumerate(("target", "validation"), start=1):
        roles[role] = (str(make_tiny(tmp_path / role, seed=seed)),)
    models = Models(store=store, roles=roles)
    pool = dataset(store, tmp_path, "pool", pair_rows(7))
    passes = Passes(device="cpu")
    observe(RunContext(models=models, passes=passes), pool, log_probs("reference"))
    one = sum(read)
    assert one > 0
    for scorer in (LossdiffIrm(), Lossdiff(), Irm(), ImplicitGap()):
        observe(RunContext(models=models, passes=passes), pool, scorer.signals)
        assert sum(read) == 3 * one  # the reference's is not read again


@pytest.mark.parametrize("scorer", [Tif(), Tif(by="difference"), Lossdiff(), LossdiffIrm()])
def test_each_method_says_that_validation_pairs_are_few_and_refuses_none(scorer, caplog):
    toy = closed_form()
    theta = toy.trained(toy.reference, toy.train)
    if scorer == Tif(by="difference"):
        scorer = Tif(by="difference", epsilon=0.1)
        pool = toy.observed(toy.train, proxy=[theta + 0.01, theta - 0.01])
    else:
        pool = toy.observed(toy.train, target=theta, validation=theta + 0.1)
    few, enough = (toy.observed(toy.validation[:n], target=theta) for n in (31, 32))
    with caplog.at_level(logging.WARNING):
        assert np.isfinite(values(scorer.score(pool, enough))).all()
        assert not caplog.text
        scorer.score(pool, few)
        assert caplog.text.count("31 validation pairs were given; below 32") == 1
    for nobody in (None, Frames(parts=())):
        with pytest.raises(ValueError, match="the validation set holds no pair"):
            scorer.score(pool, nobody)


@pytest.mark.parametrize("scorer", [Irm(), ImplicitGap(), LossdiffIrm()])
def test_a_shard_of_pairs_whose_margins_are_0_stops_no_run(scorer):
    toy = closed_form()
    roles = {"target": toy.reference + 1.0, "validation": toy.reference + 0.1}
    frame = toy.observed(toy.train, **roles).frame().head(40)
    equal = [
        pl.col(mine.column.removeprefix("reference.")).alias(mine.column)
        for mine in log_probs("reference")
    ]
    flat = frame.head(10).with_columns(equal)
    pool = Frames(parts=(flat, frame.tail(30)))
    targets = Frames(parts=(frame.head(32),))
    found = scorer.score(pool, targets)
    assert found["score"].is_not_null().all()
    assert scorer.scope == "pool", "shards are not asked one by one"
