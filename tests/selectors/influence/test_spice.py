"""SPICE: golden numbers, dense log-determinants, blocks, planted limits"""

import logging

import numpy as np
import polars as pl
import pytest
from influence_frames import gradients

from gristmill.selectors.influence import spice as spice_file
from gristmill.selectors.influence.spice import Spice, greedy

# influence.md 5
X = np.array(
    [[-0.75, -0.25, -1], [1.5, -1.5, -0.5], [-1.5, 1.25, 0.5], [-0.25, 1, -0.5], [0, -0.5, 0.75],
     [-1.5, 0.25, -0.75]]
)  # fmt: skip


def test_golden_spice():
    rows, gains, conflicts = zip(*greedy(X, 4, penalty=0), strict=True)
    assert rows == (1, 5, 3, 2)
    assert np.allclose(gains, [1.749200, 1.096799, 0.592765, 0.503543], atol=1e-6)
    assert np.allclose(conflicts, [0, 0.608859, 0.308607, 0.225788], atol=1e-6)
    rows, gains, conflicts = map(np.array, zip(*greedy(X, 6), strict=True))
    assert rows.tolist() == [1, 5, 3, 0, 2, 4]
    expected = [1.749200, 1.035913, 0.561905, 0.481472, 0.485929, 0.249796]
    assert np.allclose(gains - 0.1 * conflicts, expected, atol=1e-6)
    total = [1.74919985, 2.84599891, 3.43876408, 3.92023625]
    assert np.allclose(np.cumsum(gains)[:4], total, atol=1e-8)
    assert [r for r, *_ in greedy(X, 4, fisher="diag_g2")] == [1, 2, 0, 5]
    assert [r for r, *_ in greedy(X, 4, fisher="code_g4")] == [1, 0, 5, 2]
    assert np.argsort(-np.square(X).sum(1))[:4].tolist() == [1, 2, 5, 0], "not the order of norms"


@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_gains_are_differences_of_dense_log_determinants(alpha):
    x = np.random.default_rng(0).normal(size=(60, 16))
    trace = greedy(x, 20, alpha=alpha, penalty=0.2)
    before, earlier = 0.0, None
    for t, (row, gain, _) in enumerate(trace):
        picked = x[[r for r, *_ in trace[: t + 1]]]
        now = np.linalg.slogdet(np.eye(16) + alpha * picked.T @ picked)[1]
        assert gain == pytest.approx(now - before, abs=1e-8)
        rest = np.linalg.inv(np.eye(16) + alpha * picked[:-1].T @ picked[:-1])
        all_gains = np.log1p(alpha * np.einsum("nd,de,ne->n", x, rest, x))
        assert gain == pytest.approx(all_gains[row], abs=1e-8)
        if earlier is not None:
            assert (all_gains <= earlier + 1e-12).all(), "a row's gain never rises"
        before, earlier = now, all_gains
    plain = greedy(x, 20, alpha=alpha, penalty=0)
    left, picked = list(range(60)), []
    for row, *_ in plain:  # penalty 0 is plain greedy
        dense = [
            np.linalg.slogdet(np.eye(16) + alpha * x[[*picked, i]].T @ x[[*picked, i]])[1]
            for i in left
        ]
        assert left[int(np.argmax(dense))] == row
        picked.append(row)
        left.remove(row)


def test_limits_of_spice():
    orthogonal = np.diag([3.0, 1, 2])
    rows, gains, conflicts = zip(*greedy(orthogonal, 3), strict=True)
    assert rows == (0, 2, 1)
    assert np.allclose(gains, np.log1p([9, 4, 1]))
    assert conflicts == (0, 0, 0)
    opposite = greedy(np.array([[2.0, 0], [-1.9, 0]]), 2)
    assert opposite[1][2] == pytest.approx(1)
    again = greedy(np.array([[2.0, 1], [2.0, 1]]), 2)
    assert again[1][2] == 0
    assert again[1][1] - np.log1p(5) < -1, "a duplicate adds little"
    assert [r for r, *_ in greedy(np.ones((3, 2)), 3)] == [0, 1, 2], "ties go to the lower row"
    stopped = greedy(X, 6, omega=0.5)
    assert len(stopped) == 2, "the third gain is at most half of the first"
    assert stopped == greedy(X, 2)


def spiced(x, **settings):
    scorer = Spice(**settings)
    pool = gradients([x], scorer.signals[0], blocks=3, nulls=settings.pop("nulls", ()))
    return scorer.score(pool).sort("id")


def test_picks_are_shared_out_among_blocks_drawn_by_id(monkeypatch):
    x = np.random.default_rng(2).normal(size=(50, 6))
    base = spiced(x, picks=0.2, pool_size=20)
    assert sorted(base["score"].drop_nulls().to_list()) == list(range(-10, 0))
    assert set(base.filter(pl.col("score").is_null())["reason"]) == {"not_reached"}
    picked = base.drop_nulls("score").sort("score", descending=True)
    firsts = picked["score_conflict"].to_list()[:3]  # three blocks, each begins without conflict
    assert firsts == [0, 0, 0]
    assert picked["score_gain"].to_list()[:3] == pytest.approx(
        np.log1p(np.square(x[[int(i[1:]) for i in picked["id"][:3]]]).sum(1)), rel=1e-5
    )
    assert len(spiced(x, picks=7, pool_size=20)["score"].drop_nulls()) == 7
    monkeypatch.setattr(spice_file, "ROOM", 1)  # one block a sweep
    assert spiced(x, picks=0.2, pool_size=20).equals(base)
    whole = spiced(x, picks=0.2, pool_size=None).drop_nulls("score")
    rows = whole.sort("score", descending=True)["id"].str.slice(1).cast(pl.Int64).to_list()
    assert rows == [r for r, *_ in greedy(x.astype(np.float32), 10)]
    with pytest.raises(ValueError, match="pool_size is at least 2"):
        spiced(x, pool_size=1)


def test_spice_leaves_rows_without_a_gradient_out_and_says_a_poor_scale(caplog):
    scorer = Spice(picks=0.5, pool_size=4)
    pool = gradients([X], scorer.signals[0], nulls=(1, 4))
    scored = scorer.score(pool).sort("id")
    assert scored["reason"].to_list()[1] is None
    assert scored["score"].is_null()[1]
    assert len(scored["score"].drop_nulls()) == 2
    nothing = scorer.score(gradients([X], scorer.signals[0], nulls=range(6)))
    assert nothing["score"].null_count() == 6
    with caplog.at_level(logging.WARNING):
        spiced(X * 1e-3, picks=2)
    assert "set alpha so that it is about 1" in caplog.text
