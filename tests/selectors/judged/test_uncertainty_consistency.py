"""Uncertainty consistency: golden correlations, from meta and from rollouts"""

import math

import numpy as np
import polars as pl
import pytest
from encoded import record
from rollout_frames import meta_pool, rollout

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.signals.rollouts import ROLLOUT
from gristmill.selectors.judged._rollouts import Tries
from gristmill.selectors.judged.uncertainty_consistency import (
    UncertaintyConsistency,
    online,
    point_biserial,
)

GOLDEN = 1e-5  # the figures have six digits


U = [1.0, 2.0, 3.0, 4.0]


R = [True, True, False, False]


def test_golden_correlations_and_advantages():
    swapped = [not r for r in R]
    assert point_biserial(U, R) == pytest.approx(-0.894427, abs=GOLDEN)
    assert point_biserial(U, swapped) == pytest.approx(0.894427, abs=GOLDEN)
    assert point_biserial(U, R) == pytest.approx(np.corrcoef(U, R)[0, 1], abs=1e-12)
    assert online(U, R, 0.1) == pytest.approx(0.360417, abs=GOLDEN)
    assert online(U, swapped, 0.1) == pytest.approx(0.108333, abs=GOLDEN)
    draw = np.random.default_rng(0)
    u, r = draw.uniform(1, 9, 8), draw.uniform(size=8) < 0.4
    assert point_biserial(u, r) == pytest.approx(np.corrcoef(u, r)[0, 1], abs=1e-12)


def test_uncertainty_consistency_from_meta():
    scorer = UncertaintyConsistency(outcomes="right", perplexities="ppl")
    assert scorer.signals == ()
    pool = meta_pool(
        {"right": R, "ppl": U},
        {"right": [1, 1, 1, 1], "ppl": U},
        {"right": R, "ppl": [2, 2, 2, 2]},
        {"right": R, "ppl": U[:3]},
        {"ppl": U},
    )
    out = scorer.score(pool)
    assert out["score"][0] == pytest.approx(0.894427, abs=GOLDEN)
    assert out["score"].null_count() == 4
    assert out["reason"].to_list() == [
        None,
        "one_sided",
        "no_spread",
        "perplexities_unreadable: ppl",
        "no_outcomes: right",
    ]
    form = UncertaintyConsistency(outcomes="right", perplexities="ppl", form="online")
    assert form.score(pool)["score"][0] == pytest.approx(0.360417, abs=GOLDEN)
    with pytest.raises(ValueError, match="come together"):
        UncertaintyConsistency(outcomes="right")


def test_uncertainty_consistency_from_rollouts():
    scorer = UncertaintyConsistency(rollouts=Tries(samples=4))
    told = [
        rollout(text, logprob=-3 * math.log(u), tokens=3)
        for text, u in zip(("4", "it is 4", "3", "5"), U, strict=True)
    ]
    frame = pl.DataFrame(
        {"id": ["a", "b"], "meta": [None, None]}, schema={"id": pl.String, "meta": pl.String}
    ).with_columns(
        messages=pl.Series([record(("user", "2+2?"), ("assistant", "4"))["messages"]] * 2),
        **{scorer.signals[0].column: pl.Series([told, None], dtype=pl.List(ROLLOUT))},
    )
    out = scorer.score(Frames(parts=(frame,)))
    assert out["score"].to_list() == pytest.approx([0.894427, None], abs=GOLDEN)
    assert out["score_perplexity"][0] == pytest.approx(2.5)
    two = Frames(parts=(frame,), weights={"target": (0.5, 0.5)})
    with pytest.raises(ValueError, match="rollouts of one model are scored"):
        scorer.score(two)
