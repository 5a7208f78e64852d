"""Active DPO: uncertain pairs one by one, plain determinants, gradients of both sides"""

import math

import numpy as np
import polars as pl
import pytest
import torch
from preference_toy import frame
from toy_training import (
    one_thread,  # noqa: F401  (a fixture)
)

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.models.gradients.random_bits import CountSketch
from gristmill.selectors.preference.active_dpo import ActiveDpo, most_uncertain

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


@pytest.mark.parametrize(
    ("before", "worth"),
    [
        ((), (1, 0.82, 0.64, 0.72)),
        ((0,), (0.5, 0.415, 0.64, 0.54)),
        ((0, 2), (0.5, 0.411098, 0.390244, 0.399512)),
    ],
)
def test_worth_of_every_pair_after_the_picks_before(before, worth):
    for row, expected in enumerate(worth):  # those picked already represent copies of themselves
        picks = most_uncertain(PHI[[*before, row]], len(before) + 1)
        assert picks.rows.tolist() == list(range(len(before) + 1))
        assert picks.worth[-1] == pytest.approx(expected, abs=5e-7)


def test_of_a_linear_reward_phi_is_the_difference_of_the_features():
    draw = np.random.default_rng(3)
    chosen, rejected = draw.normal(size=(2, 12, 6))
    for f in (chosen, rejected):
        f /= np.linalg.norm(f, axis=1, keepdims=True)
    columns = [s.column for s in ActiveDpo().signals]
    # reward w . f has the gradient f by w; what is observed are gradients of minus that
    losses = {c: -1.7 * f for c, f in zip(columns, (chosen, rejected), strict=True)}
    frame = pl.DataFrame({"id": [f"{i:02d}" for i in range(12)]}).with_columns(
        pl.Series(c, g, dtype=pl.Array(pl.Float64, 6)) for c, g in losses.items()
    )
    scores = ActiveDpo(picks=12).score(Frames(parts=(frame,)))
    inverse, free = np.eye(6), list(range(12))
    for place in range(1, 13):
        gain = {n: (phi := chosen[n] - rejected[n]) @ inverse @ phi for n in free}
        best = max(free, key=gain.get)
        row = scores.row(best, named=True)
        assert row["score"] == -place
        assert row["score_gain"] == pytest.approx(gain[best], abs=1e-9)
        phi = chosen[best] - rejected[best]
        inverse = np.linalg.inv(np.linalg.inv(inverse) + np.outer(phi, phi))
        free.remove(best)


def test_a_sketch_of_8192_numbers_keeps_inner_products_of_unit_vectors():
    draw = np.random.default_rng(4)
    x = draw.normal(size=(16, 20_000)) + draw.normal(size=20_000)
    x = torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True))
    z = CountSketch.draw(20_000, 8_192, 0, "oracle", device=torch.device("cpu"))(x)
    errors = (z @ z.T - x @ x.T).abs()
    assert 0 < errors.max() <= 0.05
