"""Choosing what to label: ActiveDPO's golden picks, the spread of an ensemble, and a draw."""

import numpy as np
import polars as pl
import pytest

from gristmill.pipeline.numerics.uncertainty import ensemble
from gristmill.synthesis.preference.choosing import choose


def picks(found):
    return found.drop_nulls("place").sort("place")["id"].to_list()


def test_active_choice_picks_and_gains_are_the_specified_ones():
    # differences of unit gradients whose directions are those of the golden rows
    angle = np.array([0.0, 0.4, 2.0, 1.0])
    one = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    two = -one  # phi = 2 (cos, sin): all as long, only the direction tells
    table = pl.DataFrame({"id": list("abcd"), "one": one.tolist(), "two": two.tolist()})
    found = choose(table, "gradients", 3)
    assert found["id"].to_list() == list("abcd")
    chosen = picks(found)
    assert chosen[0] == "a"
    phi = {i: 2 * v for i, v in zip("abcd", one, strict=True)}
    precision = np.eye(2)
    for ident in chosen:
        inverse = np.linalg.inv(precision)
        worth = {i: float(v @ inverse @ v) for i, v in phi.items()}
        left = {i: w for i, w in worth.items() if i not in chosen[: chosen.index(ident)]}
        assert ident == min(left, key=lambda i: (-round(left[i], 9), i))
        assert found.filter(id=ident)["worth"][0] == pytest.approx(worth[ident])
        precision += np.outer(phi[ident], phi[ident])
    scaled = table.with_columns(pl.col("one", "two").list.eval(pl.element() * 7))
    assert picks(choose(scaled, "gradients", 3)) == chosen


def test_an_ensemble_is_unsure_where_its_models_differ():
    margins = np.array([[2, 20], [-2, 20], [2, 0], [0, 0], [-2, -20], [0, 20.0]])
    worth = ensemble(margins)
    assert worth[0] == worth[4] == pytest.approx(0)
    assert worth[1] == pytest.approx(1)
    assert worth[2] == worth[5] == pytest.approx(0.5)
    assert worth[3] == 1, "models that say nothing are as unsure as can be"
    assert np.allclose(worth, ensemble(margins * [3.0, 0.1])), "their scales play no part"
    table = pl.DataFrame({"id": list("eabcdf"), "margins": margins[[4, 0, 1, 2, 3, 5]].tolist()})
    assert picks(choose(table, "uncertainty", 2)) == ["b", "d"]


def test_a_draw_depends_on_seed_and_id_alone():
    table = pl.DataFrame({"id": [f"{i:02d}" for i in range(20)]})
    chosen = picks(choose(table, "random", 5))
    assert len(chosen) == 5
    assert chosen == picks(choose(table.reverse(), "random", 5))
    assert chosen != picks(choose(table, "random", 5, seed=1))
    assert len(picks(choose(table, "random", 99))) == 20


def test_what_cannot_be_chosen_from_is_refused():
    table = pl.DataFrame({"id": ["a"], "margins": [[1.0]]})
    with pytest.raises(ValueError, match="at least two models"):
        choose(table, "uncertainty", 1)
    with pytest.raises(ValueError, match="needs the columns"):
        choose(table, "gradients", 1)
    with pytest.raises(ValueError, match="give at least 1"):
        choose(table, "random", 0)
