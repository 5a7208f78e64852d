"""Ask-LLM: the probability of yes"""

import pytest
from encoded import chat
from judged_frames import recorded

from gristmill.selectors.judged._judge import Judge
from gristmill.selectors.judged.ask_llm import AskLlm


def test_ask_llm_takes_the_probability_of_yes():
    (signal,) = AskLlm().signals
    pool = recorded({signal.column: [[0.5, 0.3], [0.2, 0.1], [0.004, 0.003], None]})
    out = AskLlm().score(pool)
    assert out["score"].to_list() == pytest.approx([0.5, 0.2, None, None], nan_ok=True)
    assert out["score_mass"].to_list()[:3] == pytest.approx([0.8, 0.3, 0.007])
    assert out["score_unsure"].to_list() == [0.0, 1.0, 1.0, None]
    assert out["reason"].to_list() == [None, None, "neither_yes_nor_no", None]
    shares = AskLlm(normalise="answers").score(pool)["score"].to_list()
    assert shares[:2] == pytest.approx([0.625, 2 / 3])
    with pytest.raises(ValueError, match="least_mass is a probability"):
        Judge(least_mass=0)


def test_ask_llm_shows_its_cue_before_the_judge_answers():
    told = Judge(cue="Verdict:", part_tokens=512)
    (signal,), (other,) = AskLlm().signals, AskLlm(judge=told).signals
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}]}
    assert signal.view.encode(row, chat()).text.endswith("<|im_start|>assistant\nAnswer:")
    assert other.view.encode(row, chat()).text.endswith("<|im_start|>assistant\nVerdict:")
    assert signal.column != other.column
