"""Selective DPO: no model that saw a pair is asked about it"""

import numpy as np
import polars as pl
import pytest
from preference_toy import values

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.prepare.preference import half_of
from gristmill.pipeline.signals.pair_signals import log_probs
from gristmill.selectors.preference.selective_dpo import SelectiveDpo


def test_selective_dpo_never_asks_a_model_that_saw_the_pair():
    ids = [f"{i:03d}" for i in range(60)]
    columns = {"id": ids}
    for signal in log_probs("reference"):
        columns[signal.column] = np.zeros(60)
    for s, seed in enumerate((41, 42, 43)):
        for half in (0, 1):
            saw = np.array([half_of(i, seed) == half for i in ids])
            chosen, rejected = log_probs("proxy")
            # a model that saw the pair would say that it is very easy
            columns[f"{chosen.column}@{2 * s + half}"] = np.where(saw, 1e6, -100.0 * s)
            columns[f"{rejected.column}@{2 * s + half}"] = np.zeros(60)
    pool = Frames(parts=(pl.DataFrame(columns),), weights={"proxy": (1 / 6,) * 6})
    scores = SelectiveDpo().score(pool)
    mean = np.logaddexp(0, [0.0, 1.0, 2.0]).mean()
    np.testing.assert_allclose(values(scores), -mean, atol=1e-12)
    few = Frames(parts=(pl.DataFrame(columns),), weights={"proxy": (0.5, 0.5)})
    with pytest.raises(ValueError, match="two models for each of 3 seeds"):
        SelectiveDpo().score(few)
