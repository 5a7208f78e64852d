"""Bands on plain numbers: strict edges, numbers that are none, bands that contradict"""

import logging

import numpy as np
import polars as pl
import pytest

from gristmill.pipeline.selection.rules.band import Band, band_counts, centrality


def test_strict_bands_of_plain_numbers():
    def ids(n):
        scores = pl.DataFrame({"id": [f"{i:03d}" for i in range(n)], "score": np.arange(float(n))})
        return sorted(Band().order(scores, np.inf)["index"].to_list())

    assert ids(100) == list(range(10, 90))
    assert ids(10) == list(range(1, 9))


def test_values_that_are_no_numbers_are_in_no_band():
    scores = pl.DataFrame(
        {"id": list("abcdefg"), "score": [None, np.nan, np.inf, -np.inf, 1.0, 2.0, 3.0]}
    )
    assert Band(low=0.0, high=1.0).order(scores, np.inf)["index"].to_list() == [5]
    counts = band_counts(scores, Band(low=0.0, high=1.0)).row(0, named=True)
    assert (counts["below"], counts["inside"], counts["above"], counts["null"]) == (1, 1, 1, 4)
    assert centrality(np.array([3.0, np.nan, 1.0, 2.0])) == pytest.approx(
        [1 / 3, np.nan, 1 / 3, 1.0], nan_ok=True
    )


def test_bands_that_contradict_each_other_are_flagged(caplog):
    up = np.arange(100.0)
    scores = pl.DataFrame(
        {"id": [f"{i:03d}" for i in range(100)], "score_a": up, "score_b": np.abs(up - 50)}
    )
    rule = Band(columns=("score_a", "score_b"), low=0.4, high=0.6)
    with caplog.at_level(logging.WARNING):
        rule.order(scores, np.inf)
    assert "score_a and score_b together keep" in caplog.text
    assert band_counts(scores, rule)["inside"][-1] == len(rule.order(scores, np.inf))
    caplog.clear()
    Band(columns=("score_a",), low=0.4, high=0.6).order(scores, np.inf)
    assert not caplog.text
    with pytest.raises(ValueError, match="target_keep is a share between 0 and 1; found 64"):
        Band(target_keep=64)
