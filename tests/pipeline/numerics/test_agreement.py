"""Agreement of annotators: published examples, a hand calculation, and what cannot be said."""

import pytest

from gristmill.pipeline.numerics.agreement import cohen_kappa, krippendorff_alpha


def items(count):
    return [f"{n:04d}" for n in range(count)]


def test_kappa_of_the_textbook_table():
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o = 0.7, p_e = 0.5, kappa = 0.4."""
    cells = [("yes", "yes", 20), ("yes", "no", 5), ("no", "yes", 10), ("no", "no", 15)]
    one = [a for a, _, n in cells for _ in range(n)]
    other = [b for _, b, n in cells for _ in range(n)]
    kappa = cohen_kappa(items(50), one, other)
    assert kappa.value == pytest.approx(0.4, abs=1e-12)
    # The large-sample standard error of this table is 0.128.
    assert kappa.high - kappa.low == pytest.approx(2 * 1.96 * 0.128, rel=0.15)
    assert kappa.low < 0.4 < kappa.high


def test_alpha_of_krippendorffs_own_example():
    """Four observers, twelve units, missing data: 0.743 for nominal data in his paper of 2011."""
    rows = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3"]
    rows += [". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
    units = zip(*(row.split() for row in rows), strict=True)
    said = {f"{n:02d}": [v for v in unit if v != "."] for n, unit in enumerate(units)}
    alpha = krippendorff_alpha(said)
    assert alpha.value == pytest.approx(0.743, abs=5e-4)
    assert alpha.low < alpha.value < alpha.high <= 1
    assert krippendorff_alpha({**said, "alone": ["5"]}).value == alpha.value


def test_alpha_by_hand():
    """aa, ab, bb: o_ab + o_ba = 2 of n = 6, n_a = n_b = 3; 1 - (2 / 6) / (18 / 30) = 4 / 9."""
    said = {"1": ["a", "a"], "2": ["a", "b"], "3": ["b", "b"]}
    assert krippendorff_alpha(said).value == pytest.approx(4 / 9, abs=1e-12)


def test_agreement_that_says_nothing_is_none():
    assert cohen_kappa([], [], []) is None
    assert cohen_kappa(["1", "2"], ["a", "a"], ["a", "a"]) is None, "one category alone"
    assert krippendorff_alpha({"1": ["a"], "2": ["b"]}) is None, "nobody judged twice"
    assert krippendorff_alpha({"1": ["a", "a"], "2": ["a", "a"]}) is None


def test_order_of_items_does_not_matter_and_all_agreed_is_one():
    one, other = ["a", "b", "c", "a"], ["a", "b", "c", "b"]
    ids = items(4)
    there = cohen_kappa(ids, one, other)
    back = cohen_kappa(ids[::-1], one[::-1], other[::-1])
    assert (there.value, there.low) == pytest.approx((back.value, back.low), abs=1e-12)
    assert cohen_kappa(ids, one, one).value == 1.0
