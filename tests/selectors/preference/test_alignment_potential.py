"""Alignment potential by hand"""

import numpy as np
import pytest
from preference_toy import frame, rewards

from gristmill.pipeline.signals.pair_signals import counts, log_probs
from gristmill.selectors.preference.alignment_potential import AlignmentPotential


def test_alignment_potential_by_hand():
    facts = [s.column for s in counts()]
    told = [{"tokens": 9, "answer_tokens": 10, "cut": 0, "reason": None}] * 4
    columns = {
        log_probs()[0].column: [1.0, 4.0, -3.0, 0.0],
        log_probs()[1].column: [0.0] * 4,
        facts[0]: told,
        facts[1]: told,
        **rewards([3.0, 1.0, 2.0, 0.0], [0.0] * 4),
    }
    scores = AlignmentPotential().score(frame("abcd", columns))["score"].to_list()
    assert scores == pytest.approx([1.974096, -1.712125, -0.185242, -0.076730], abs=5e-7)
    columns[log_probs()[0].column] = [0.5] * 4  # no spread: the margin's z is 0
    flat = AlignmentPotential().score(frame("abcd", columns))["score"].to_numpy()
    assert flat.argmax() == 0
    assert np.isfinite(flat).all()
