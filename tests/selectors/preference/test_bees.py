"""BeeS: log odds of two margins, the upper edge, external margins"""

import math

import numpy as np
import pytest
from preference_toy import frame, rewards

from gristmill.pipeline.signals.pair_signals import Objective, log_probs
from gristmill.selectors.preference.bees import Bees, fused, probability, upper


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


def test_small_margins_are_told_apart():
    small = np.linspace(-0.2, 0.6, 200)
    assert upper(small, 2.0) == pytest.approx(0.6)  # .3, then 100 lie above it
    assert upper(np.linspace(-0.2, 0.6, 20), 2.0) == pytest.approx(0.3)
    p_N = probability(small, 2.0)
    assert (np.diff(p_N[:-1]) > 0).all(), "whole numbers gave 1 to every positive margin"
    few = probability(np.array([-0.1, 0.1, 0.2, 0.3, 0.9]), 1.5)
    assert len(set(few)) == 5
