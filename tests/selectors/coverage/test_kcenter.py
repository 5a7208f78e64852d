"""k-center starts where its seed says"""

import pytest
from embeddings import distances, observed, units

from gristmill.selectors.coverage.kcenter import KCenter


def test_k_center_starts_where_its_seed_says():
    unit_ND = units(6, 30)
    firsts = set()
    for seed in range(8):
        scores = KCenter(picks=2, seed=seed).score(observed(unit_ND)).sort("score", nulls_last=True)
        first, second = scores["id"][1], scores["id"][0]
        firsts.add(first)
        far = distances(unit_ND)[int(first)]
        assert far[int(second)] == far.max()
        assert scores["score_distance"][0] == pytest.approx(far.max(), rel=1e-4)
        assert scores["score_distance"][1] is None
    assert len(firsts) > 2
