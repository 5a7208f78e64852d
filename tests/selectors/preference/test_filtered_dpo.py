"""Filtered DPO drops what the policy already writes"""

import itertools
import json

import numpy as np
import polars as pl
import pytest
from preference_toy import frame, toy
from toy_training import (
    one_thread,  # noqa: F401  (a fixture)
)

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.selection.rules.threshold import Threshold
from gristmill.selectors.preference._on_policy_samples import OwnResponses
from gristmill.selectors.preference.filtered_dpo import FilteredDpo, kept_after


def test_filtered_dpo_drops_what_the_policy_already_writes():
    given = FilteredDpo(generated="generated_reward")
    (signal,) = given.signals
    meta = ['{"generated_reward": 1.0}', '{"generated_reward": 0.5}', "{}", None]
    pool = frame("abcd", {signal.column: [1.0, 0.75, 2.0, 3.0], "meta": meta})
    scores = given.score(pool)
    assert scores["score"].to_list() == [0.0, 0.25, None, None]  # equal is not above 0
    assert scores["reason"].to_list() == [None, None, *["no_number_in: generated_reward"] * 2]
    ours = FilteredDpo(given=toy("responses"))
    chosen, own = (s.column for s in ours.signals)
    scores = ours.score(frame("abc", {chosen: [1.0, 0.75, 2.0], own: [1.0, 0.5, None]}))
    assert scores["score"].to_list() == [0.0, 0.25, None]
    assert scores["reason"].to_list() == [None, None, "nothing_written"]
    with pytest.raises(ValueError, match="let `score` run its recipes"):
        FilteredDpo().score(pool)
    draw = np.random.default_rng(0)
    chosen = draw.normal(size=200)
    rounds = kept_after(chosen, [chosen, *draw.normal(size=(5, 200))])
    assert not rounds[0].any()  # equal rewards drop
    rounds = kept_after(chosen, list(draw.normal(size=(5, 200))))
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(rounds))
    assert rounds[0].any()


def test_the_rule_of_filtered_dpo_drops_what_equals_the_chosen_response():
    given = FilteredDpo(generated="generated_reward")
    (signal,) = given.signals
    meta = [f'{{"generated_reward": {r}}}' for r in (1.0, 0.999, 1.001)]
    frame = pl.DataFrame({"id": list("abc"), signal.column: [1.0] * 3, "meta": meta})
    scores = given.score(Frames(parts=(frame,)))
    kept = Threshold(min=1e-9).order(scores, np.inf)["index"].to_list()
    assert kept == [1]


def test_the_policy_is_asked_with_the_reasoning_and_calls_of_the_prompt():
    call = {"tool_calls": [{"function": {"name": "weather"}}]}
    prompt = [
        {"role": "user", "content": "Rain?", "extra": None},
        {"role": "assistant", "content": "", "extra": json.dumps(call)},
        {"role": "tool", "content": "no", "extra": '{"tool_call_id": "a"}'},
    ]
    asked = OwnResponses()._request({"id": "x", "prompt": prompt}).messages
    assert asked[1] == {"role": "assistant", "content": "", **call}
    assert asked[2]["tool_call_id"] == "a"
