"""Amounts: intervals of means, ratios and sums, against formulas by hand."""

import math

import pytest

from gristmill.pipeline.plan.amounts import NOTHING, Amount, mean, quantile, ratio, total


def test_a_sum_of_independent_estimates_adds_their_squares():
    found = total([Amount(value=3.0, half=3.0), Amount(value=4.0, half=4.0), NOTHING])
    assert (found.value, found.half, found.low, found.high) == (7.0, 5.0, 2.0, 12.0)
    assert total([]) == NOTHING


def test_a_mean_has_the_interval_of_students_t_and_none_of_a_whole_population():
    values = [1.0, 2.0, 3.0, 4.0]
    found = mean(values)
    assert found.value == 2.5
    assert found.half == pytest.approx(3.182 * math.sqrt(5 / 3 / 4))
    assert mean(values, of=4).half == 0
    assert mean(values, of=5).half == found.half
    assert quantile(1_000) == 1.96


def test_a_ratio_is_exact_where_batches_agree_and_wide_where_there_is_one():
    assert ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == Amount(value=2.0, half=0.0)
    assert ratio([2.0], [4.0]) == Amount(value=0.5, half=0.5)
    assert ratio([], []) == NOTHING
    spread = ratio([2.0, 6.0], [1.0, 1.0])  # 4 a unit; residuals 2 and 2
    assert spread.value == 4.0
    assert spread.half == pytest.approx(12.706 * math.sqrt(8 / 2))


def test_a_product_adds_relative_errors():
    found = Amount(value=10.0, half=3.0).by(Amount(value=2.0, half=0.8))
    assert found.value == 20.0
    assert found.half == pytest.approx(10.0)
    assert Amount(value=1.0, half=2.0).low == 0.0, "nothing takes less than nothing"
