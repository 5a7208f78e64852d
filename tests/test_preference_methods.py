"""Confidence, uncertainty, in-context gains, fused margins: hand-made numbers and brute force."""

import itertools
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gristmill.pipeline.contracts import Artifact, Frames, Given
from gristmill.pipeline.road.stages import effective_size
from gristmill.pipeline.selection.rules.weighted import Weighted
from gristmill.pipeline.signals.pair_signals import VIEWS, Objective, counts, log_probs
from gristmill.pipeline.signals.reward import RewardScore
from gristmill.selectors.preference.active_dpo import ActiveDpo, most_uncertain
from gristmill.selectors.preference.alignment_potential import AlignmentPotential
from gristmill.selectors.preference.bees import Bees, fused, probability, upper
from gristmill.selectors.preference.cw_po import CwPo, confidence
from gristmill.selectors.preference.filtered_dpo import FilteredDpo, kept_after
from gristmill.selectors.preference.ica import Ica
from gristmill.selectors.preference.irm import Irm
from gristmill.selectors.preference.lossdiff import Lossdiff
from gristmill.selectors.preference.reward_margin import RewardMargin


def toy(name):
    """What a run would hand over; nothing reads it here."""
    return Given(artifacts={name: Artifact(name=name, content="toy", path=Path("toy"))})


def frame(ids, columns):
    return Frames(parts=(pl.DataFrame({"id": list(ids)} | columns),))


def rewards(chosen, rejected, role="reward"):
    names = [RewardScore(role=role, shown=view).column for view in VIEWS]
    return dict(zip(names, (chosen, rejected), strict=True))


def test_confidence_of_a_weak_annotator():
    gaps = np.array([0.0, 0.5, 1.0, 2.0, 4.0])
    expected = [0, 0.24491866, 0.46211716, 0.76159416, 0.96402758]
    assert confidence(gaps) == pytest.approx(expected, abs=1e-8)
    assert confidence(gaps) == pytest.approx(2 * (1 / (1 + np.exp(-gaps)) - 0.5))
    assert confidence(gaps)[1:].mean() == pytest.approx(0.60816439, abs=1e-8)
    assert effective_size(confidence(gaps)[1:]) == pytest.approx(3.31918903, abs=1e-8)
    assert effective_size(np.zeros(3)) == 0
    pool = frame("ab", rewards([3.0, 0.0], [1.0, 4.0], role="judge"))
    given = CwPo().score(pool)
    assert given["score"].to_list() == pytest.approx([0.76159416, -0.96402758], abs=1e-8)
    assert given["score_gap"].to_list() == [2.0, -4.0]
    own = CwPo(label="annotator").score(pool)["score"].to_list()
    assert own == pytest.approx([0.76159416, 0.96402758], abs=1e-8)
    warm = CwPo(temperature=2.0).score(pool)["score"].to_list()
    assert warm == pytest.approx([0.46211716, -0.76159416], abs=1e-8)
    with pytest.raises(ValueError, match="temperature is 0"):
        CwPo(temperature=0)


def test_sure_labels_are_right_more_often():
    draw = np.random.default_rng(0)
    truth = draw.normal(size=20_000) * 2
    label = draw.random(20_000) < 1 / (1 + np.exp(-truth))  # Bradley and Terry
    right = label == (truth > 0)
    tenth = np.argsort(np.abs(confidence(truth))).reshape(10, -1)
    rates = right[tenth].mean(axis=1)
    assert (np.diff(rates) > -0.02).all()
    assert rates[-1] > rates[0] + 0.3


PHI = np.array([(1.0, 0.0), (0.9, 0.1), (0.0, 0.8), (0.6, 0.6)])


def test_uncertain_pairs_are_picked_one_by_one():
    picks = most_uncertain(PHI, 3)
    assert picks.rows.tolist() == [0, 2, 1]
    assert picks.worth == pytest.approx([1.0, 0.64, 0.411098], abs=5e-7)
    assert np.log1p(picks.worth) == pytest.approx([0.693147, 0.494696, 0.344368], abs=5e-7)
    v = np.eye(2)
    rounds = [[1, 0.82, 0.64, 0.72], [0.5, 0.415, 0.64, 0.54]]
    rounds.append([0.5, 0.411098, 0.390244, 0.399512])
    for expected, row in zip(rounds, picks.rows, strict=True):
        width = np.einsum("nd,de,ne->n", PHI, np.linalg.inv(v), PHI)
        assert width == pytest.approx(expected, abs=5e-7)
        v += np.outer(PHI[row], PHI[row])


def test_picks_are_those_of_the_plain_determinant():
    phi = np.random.default_rng(1).normal(size=(40, 6))
    picks = most_uncertain(phi, 25, ridge=0.7)
    v, free = 0.7 * np.eye(6), set(range(40))
    for row, worth in zip(picks.rows, picks.worth, strict=True):
        base = np.linalg.slogdet(v)[1]
        gains = {n: np.linalg.slogdet(v + np.outer(phi[n], phi[n]))[1] - base for n in sorted(free)}
        assert max(gains, key=gains.get) == row
        assert gains[row] == pytest.approx(math.log1p(worth), abs=1e-9)
        v += np.outer(phi[row], phi[row])
        free.remove(row)
    # a copy of what was picked is worth less than 1, and less with every copy
    copies = most_uncertain(np.repeat(phi[:1], 4, axis=0), 4)
    assert (copies.worth[1:] < 1).all()
    assert (np.diff(copies.worth) < 0).all()


def gradients(chosen, rejected):
    columns = [s.column for s in ActiveDpo().signals]
    arrays = (np.asarray(chosen, float), np.asarray(rejected, float))
    return {
        c: pl.Series(c, a, dtype=pl.Array(pl.Float64, a.shape[1]))
        for c, a in zip(columns, arrays, strict=True)
    }


def test_active_dpo_reads_unit_gradients_of_both_sides():
    draw = np.random.default_rng(2)
    chosen, rejected = draw.normal(size=(2, 30, 8))
    ids = [f"{i:02d}" for i in range(30)]
    scores = ActiveDpo(picks=10).score(frame(ids, gradients(chosen, rejected)))
    unit = [g / np.linalg.norm(g, axis=1, keepdims=True) for g in (chosen, rejected)]
    picks = most_uncertain(unit[0] - unit[1], 10)
    reached = scores.drop_nulls("score").sort("score", descending=True)
    assert reached["id"].to_list() == [ids[r] for r in picks.rows]
    assert reached["score_gain"].to_list() == pytest.approx(picks.worth)
    assert scores.filter(pl.col("score").is_null())["reason"].unique().to_list() == ["not_reached"]
    for changed in (gradients(1e3 * chosen, 1e3 * rejected), gradients(rejected, chosen)):
        again = ActiveDpo(picks=10).score(frame(ids, changed))
        assert again["score"].to_list() == scores["score"].to_list()
    silent = gradients(chosen, rejected)
    first = next(iter(silent))
    silent[first] = pl.Series(first, [None, *chosen[1:].tolist()], dtype=silent[first].dtype)
    lost = ActiveDpo(picks=1.0).score(frame(ids, silent))
    assert lost["score"].null_count() == 1
    assert lost["reason"].to_list() == [None] * 30  # `checked` gives the view's own reason
    with pytest.raises(ValueError, match="ridge is 0"):
        ActiveDpo(ridge=0)


def test_in_context_gains():
    plain, behind = log_probs(), Ica(given=toy("neighbours")).shown
    columns = {
        plain[0].column: [-10.0, -5.0, -3.0],
        plain[1].column: [-12.0, -6.0, None],
        behind[0].column: [-8.0, -5.5, -2.5],
        behind[1].column: [-13.0, -5.0, None],
    }
    scores = Ica(given=toy("neighbours")).score(frame("abc", columns))["score"].to_list()
    assert scores == pytest.approx([5.0 - 2.0, -0.5 - 1.0, 0.5])
    for values, expected in (([0.3, -0.1, 0.5], [1, 0.66666667]), ([0.0] * 4, [1.0] * 4)):
        scores = pl.DataFrame({"id": list("abcd")[: len(values)], "score": values})
        weight = Weighted(stretch=True).order(scores, np.inf)["weight"]
        assert weight.to_list() == pytest.approx(expected)  # the lowest one falls out
    with pytest.raises(ValueError, match="let `score` run its recipes"):
        Ica().score(frame("abc", columns))


def test_the_in_context_gain_is_the_holdout_gain_of_an_exchangeable_model():
    def log_evidence(ones, zeros, a=2, b=3):  # Beta-Bernoulli
        gamma = math.lgamma
        top = gamma(a + ones) + gamma(b + zeros) - gamma(a + b + ones + zeros)
        return top - (gamma(a) + gamma(b) - gamma(a + b))

    holdout = [1, 1, 0, 1]
    ones, zeros = sum(holdout), len(holdout) - sum(holdout)
    behind = log_evidence(ones + 1, zeros) - log_evidence(ones, zeros)
    alone = log_evidence(1, 0)
    plain, shown = log_probs()[0], Ica(given=toy("neighbours")).shown[0]
    others = {s.column: [None] for s in (log_probs()[1], Ica(given=toy("neighbours")).shown[1])}
    numbers = {plain.column: [alone], shown.column: [behind]}
    types = dict.fromkeys((*numbers, *others), pl.Float64)
    block = pl.DataFrame({"id": ["x"]} | numbers | others, schema_overrides=types)
    score = Ica(given=toy("neighbours")).score(Frames(parts=(block,)))["score"][0]
    trained = log_evidence(ones + 1, zeros) - log_evidence(1, 0)
    assert score == pytest.approx(0.328504, abs=5e-7)
    assert score == pytest.approx(trained - log_evidence(ones, zeros))


def test_log_odds_of_two_margins_add():
    for other, expected in ((0.8, 0.94117647), (0.5, 0.8), (0.2, 0.5)):
        assert fused(np.array([[0.8], [other]]))[0] == pytest.approx(expected, abs=1e-8)
    sure = probability(np.array([-9.0, 5.0, np.nan]), 2.0)
    assert sure[0] == 1e-6
    assert sure[1] == 1 - 1e-6
    assert math.isnan(sure[2])
    veto = fused(np.array([[1e-6], [1 - 1e-6]]))[0]
    assert veto == pytest.approx(0.5)
    p = np.array([[0.2], [0.6]])
    assert [fused(p, f)[0] for f in ("sum", "max", "min")] == pytest.approx([0.4, 0.6, 0.2])


def test_the_upper_edge_rises_until_few_margins_lie_above_it():
    few = np.linspace(-1, 9, 29)
    assert upper(few, 2.0) == 4  # int(9 / 2); 14 above
    assert upper(few, 1.5) == 6
    many = np.repeat(np.arange(10.0), 50)  # 50 at each of 0 .. 9
    assert upper(many, 2.0) == 9  # 50 or more above everything below 9
    assert upper(np.array([-5.0, -9.0]), 2.0) == -1  # int(-2.5) is -2, the lower edge


def test_bees_joins_implicit_and_external_margins():
    loss = Objective(beta=0.1)
    won, lost = loss.signals("proxy")[:2]
    ref = log_probs("reference")
    columns = {
        won.column: [10.0, -10.0, 40.0],
        lost.column: [0.0, 0.0, 0.0],
        ref[0].column: [0.0, 0.0, 0.0],
        ref[1].column: [0.0, 0.0, 0.0],
        **rewards([2.0, 4.0, -1.0], [0.0, 0.0, 0.0]),
    }
    scores = Bees().score(frame("abc", columns))
    assert scores["score_implicit"].to_list() == pytest.approx([1.0, -1.0, 4.0])
    implicit = [(m + 2) / (2 + 2) for m in (1, -1)]  # U = int(4 / 2)
    external = [(m + 2) / (2 + 2) for m in (2, 4)]  # U = int(4 / 1.5)
    expected = [
        p * q / (p * q + (1 - p) * (1 - q))
        for p, q in zip(implicit, np.clip(external, 1e-6, 1 - 1e-6), strict=True)
    ]
    assert scores["score"].to_list()[:2] == pytest.approx(expected)
    only = Bees(both_positive=True).score(frame("abc", columns))
    assert only["score"].null_count() == 2
    assert only["reason"].to_list() == [None, "margin_not_positive", "margin_not_positive"]


def test_alignment_potential_by_hand():
    facts = [s.column for s in counts()]
    told = [{"tokens": 9, "answer_tokens": 10, "cut": 0, "reason": None}] * 4
    columns = {
        log_probs()[0].column: [1.0, 4.0, -3.0, 0.0],
        log_probs()[1].column: [0.0] * 4,
        facts[0]: told,
        facts[1]: told,
        **rewards([3.0, 1.0, 2.0, 0.0], [0.0] * 4),
    }
    scores = AlignmentPotential().score(frame("abcd", columns))["score"].to_list()
    assert scores == pytest.approx([1.974096, -1.712125, -0.185242, -0.076730], abs=5e-7)
    columns[log_probs()[0].column] = [0.5] * 4  # no spread: the margin's z is 0
    flat = AlignmentPotential().score(frame("abcd", columns))["score"].to_numpy()
    assert flat.argmax() == 0
    assert np.isfinite(flat).all()


def test_filtered_dpo_drops_what_the_policy_already_writes():
    given = FilteredDpo(generated="generated_reward")
    (signal,) = given.signals
    meta = ['{"generated_reward": 1.0}', '{"generated_reward": 0.5}', "{}", None]
    pool = frame("abcd", {signal.column: [1.0, 0.75, 2.0, 3.0], "meta": meta})
    scores = given.score(pool)
    assert scores["score"].to_list() == [0.0, 0.25, None, None]  # equal is not above 0
    assert scores["reason"].to_list() == [None, None, *["no_number_in: generated_reward"] * 2]
    ours = FilteredDpo(given=toy("responses"))
    chosen, own = (s.column for s in ours.signals)
    scores = ours.score(frame("abc", {chosen: [1.0, 0.75, 2.0], own: [1.0, 0.5, None]}))
    assert scores["score"].to_list() == [0.0, 0.25, None]
    assert scores["reason"].to_list() == [None, None, "nothing_written"]
    with pytest.raises(ValueError, match="let `score` run its recipes"):
        FilteredDpo().score(pool)
    draw = np.random.default_rng(0)
    chosen = draw.normal(size=200)
    rounds = kept_after(chosen, [chosen, *draw.normal(size=(5, 200))])
    assert not rounds[0].any()  # equal rewards drop
    rounds = kept_after(chosen, list(draw.normal(size=(5, 200))))
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(rounds))
    assert rounds[0].any()


def test_reward_margin():
    scores = RewardMargin().score(frame("ab", rewards([2.0, None], [0.5, 1.0])))
    assert scores["score"].to_list() == [1.5, None]


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


def test_objectives():
    chosen, rejected = log_probs()
    facts = [s.column for s in counts()]
    block = pl.DataFrame(
        {
            "id": ["a", "b"],
            chosen.column: [-8.0, -2.0],
            rejected.column: [-9.0, -30.0],
            log_probs("reference")[0].column: [-10.0, -30.0],
            log_probs("reference")[1].column: [-9.0, -10.0],
            facts[0]: [{"answer_tokens": n} for n in (4, 2)],
            facts[1]: [{"answer_tokens": n} for n in (3, 5)],
        }
    )
    slic = Objective(name="slic", beta=0.25)
    assert slic.margin(block) == pytest.approx([0.5, 0.25 * 48])
    assert slic.loss(slic.margin(block)) == pytest.approx([0.5, 0.0])
    assert slic.slope(slic.margin(block)).tolist() == [-1.0, 0.0]
    simpo = Objective(name="simpo", beta=2.0, gamma=0.5)
    m = simpo.margin(block)
    assert m == pytest.approx([2 * (-2 + 3) - 0.5, 2 * (-1 + 6) - 0.5])
    assert simpo.signals("target") == log_probs()
    assert simpo.facts == counts()
    g_w, g_l = np.array([[1.0], [2.0]]), np.array([[3.0], [-1.0]])
    exact = -1 / (1 + np.exp(m)) * 2.0 * (-g_w[:, 0] / [4, 2] + g_l[:, 0] / [3, 5])
    assert simpo.gradient(block, g_w, g_l)[:, 0] == pytest.approx(exact)
    with pytest.raises(ValueError, match="gamma is read by simpo alone"):
        Objective(gamma=1.0)
    with pytest.raises(ValueError, match="an objective is dpo, slic or simpo"):
        Objective(name="ppo")
    with pytest.raises(ValueError, match="beta is 0"):
        Objective(beta=0)
