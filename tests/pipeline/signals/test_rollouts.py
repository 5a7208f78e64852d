"""Rollouts and what is made of them: golden numbers, keyed draws, outcomes that data carry."""

import json

import numpy as np
import pytest
from encoded import chat, record
from rollout_frames import rollout
from tolerances import LOG_PROB, log_probs

from gristmill.pipeline.models.completion.requests import Failure
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.signals.rollouts import Rollouts, Task, given_outcomes, graded


@pytest.fixture(scope="module")
def loaded(tiny, tmp_path_factory):
    from gristmill.pipeline.records.store import Store

    root = tmp_path_factory.mktemp("store")
    return load(resolve(str(tiny), Store(root=root)), device="cpu")


def test_a_task_is_all_before_the_last_answer():
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    shown = Task().encode(record(*turns), chat())
    assert shown.text.endswith("<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n")
    assert Task().encode(record(*turns[:3]), chat()).ids == shown.ids  # no answer: nothing to hide
    assert set(shown.turn) == {0}
    assert shown.reason is None
    assert Task().encode(record(("user", "x" * 80)), chat(limit=60)).reason.startswith("too_long")
    assert Task().encode(record(("assistant", "x")), chat()).reason == "empty_prompt"
    broken = Task().encode(record(("user", "x")), chat(template="{{ nope.x() }}"))
    assert broken.reason.startswith("template_error")


def test_draws_depend_on_the_prompt_and_the_seed_alone(loaded):
    signal = Rollouts(samples=3, max_tokens=12, seed=1)
    rows = [Task().encode(record(("user", f"Say {'x' * n}")), loaded.chat) for n in (1, 9, 30, 2)]
    together = signal.open(loaded)(rows)
    alone = [signal.open(loaded)([row])[0] for row in reversed(rows)][::-1]
    for one, two in zip(together, alone, strict=True):
        assert [r["text"] for r in one] == [r["text"] for r in two]
        np.testing.assert_allclose(
            [r["logprob"] for r in one], [r["logprob"] for r in two], atol=log_probs(12)
        )
    texts = {r["text"] for row in together for r in row}
    assert len(texts) > 9  # twelve draws, not four
    other = Rollouts(samples=3, max_tokens=12, seed=2).open(loaded)(rows)
    assert [r["text"] for r in other[0]] != [r["text"] for r in together[0]]
    assert all(r["whole"] == (r["tokens"] < 12) or r["tokens"] == 12 for r in together[0])


def test_log_probabilities_are_those_of_the_tokens_drawn(loaded):
    import torch

    (row,) = [Task().encode(record(("user", "Say")), loaded.chat)]
    (told,) = Rollouts(samples=2, max_tokens=1).open(loaded)([row])
    with torch.inference_mode():
        logits_V = loaded.model(input_ids=torch.tensor([list(row.ids)])).logits[0, -1]
    logp_V = logits_V.double().log_softmax(-1).numpy()
    for one in told:
        assert one["tokens"] == 1
        assert np.abs(logp_V - one["logprob"]).min() < LOG_PROB


def test_a_context_that_leaves_less_room_shortens_rollouts(loaded):
    row = Task().encode(record(("user", "x" * 940)), loaded.chat)
    (told,) = Rollouts(samples=1, max_tokens=5_000).open(loaded)([row])
    assert told[0]["tokens"] <= loaded.chat.limit - len(row.ids)


def test_a_row_that_the_device_cannot_hold_costs_itself_alone(loaded, monkeypatch):
    from gristmill.pipeline.models.completion.local import Local

    whole = Local.generate

    def failing(self, rows):
        found = whole(self, rows)
        return [Failure(reason="out_of_memory"), *found[1:]]

    monkeypatch.setattr(Local, "generate", failing)
    rows = [Task().encode(record(("user", text)), loaded.chat) for text in ("a", "b")]
    first, second = Rollouts(samples=2, max_tokens=2).open(loaded)(rows)
    assert first is None
    assert len(second) == 2


def test_settings_that_make_no_rollout_are_refused():
    with pytest.raises(ValueError, match="temperature above 0"):
        Rollouts(temperature=0)


def test_rollouts_are_held_against_the_records_own_answer():
    row = {**record(("user", "2+2?"), ("assistant", "2+2=4\n#### 4")), "meta": None}
    row["r"] = [
        rollout("it is 4"),
        rollout("it is 4, so", whole=False),  # cut: no end
        rollout(r"\boxed{4} and", whole=False),  # marked before the cut
        rollout("5"),
    ]
    assert graded(row, "r", "final") == ([True, False, True, False], None)
    assert graded(row, "r", "number") == ([True, True, True, False], None)
    assert graded({**row, "meta": '{"gold": {"a": 5}}'}, "r", "final", "gold.a")[0] == [
        False,
        False,
        False,
        True,
    ]
    essay = record(("user", "?"), ("assistant", "An essay of many words without any end to it."))
    assert graded({**essay, "r": row["r"], "meta": None}, "r", "final")[1] == "no_verifiable_answer"
    assert graded({**row, "r": None}, "r", "final") == (None, None)


@pytest.mark.parametrize(
    ("value", "right", "reason"),
    [
        ([1, 0, True], [True, False, True], None),
        ({"failures": 3, "n": 4}, [True, False, False, False], None),
        (3, None, "bare_count: give failures and n, or a list of 0 and 1"),
        ({"failures": 5, "n": 4}, None, "outcomes_unreadable: x"),
        ([], None, "outcomes_unreadable: x"),
        ([0.5], None, "outcomes_unreadable: x"),
        (None, None, "no_outcomes: x"),
    ],
)
def test_outcomes_that_data_carry(value, right, reason):
    assert given_outcomes(json.dumps({"x": value}), "x") == (right, reason)
