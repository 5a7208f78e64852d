"""Win rates: judges of known taste, and what is left of it at equal lengths."""

import json

import numpy as np
import polars as pl
import pytest
from clean_records import examples
from scipy.optimize import minimize
from scipy.special import expit

from gristmill.pipeline.evaluate.answers import compared
from gristmill.pipeline.evaluate.win_rate import RIDGE, at_equal_lengths, win_rate
from gristmill.pipeline.models.completion.recorded import Recorded
from gristmill.pipeline.models.completion.requests import Failure

N = 300


def answers(ahead):
    """Prompts whose candidates are longer by the given numbers of characters."""
    return pl.DataFrame(
        {
            "id": [f"{n:03}" for n in range(len(ahead))],
            "prompt": [f"Question {n}?" for n in range(len(ahead))],
            "candidate": ["c" * (300 + int(a)) for a in ahead],
            "baseline": ["b" * 300] * len(ahead),
        }
    )


def judge(ids, prefers, first=lambda n: 0.0):
    """A judge that prefers the candidate (True) or the baseline, or with some chance the first.

    Args:
        prefers: whether it likes the candidate better, prompt by prompt; None: a tie.
        first: 1 where it takes what it reads first, whatever that is.
    """
    said = {}
    for n, (ident, better) in enumerate(zip(ids, prefers, strict=True)):
        for order in ("candidate", "baseline"):
            verdict = "tie"
            if first(n):
                verdict = "first"
            elif better is not None:
                verdict = "first" if better == (order == "candidate") else "second"
            said[f"{ident}:{order}-first"] = json.dumps({"better": verdict})
    return Recorded(answers=said)


def swapped(frame):
    return frame.rename({"candidate": "baseline", "baseline": "candidate"})


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_a_judge_of_length_alone_is_indifferent_at_equal_lengths(store, draw):
    ahead = draw.normal(60, 60, N).round()
    frame = answers(ahead)
    found = win_rate(frame, judge(frame["id"], ahead > 0), store)
    assert found.raw.low > 0.75
    assert found.controlled.low < 0.5 < found.controlled.high
    assert abs(found.controlled.value - 0.5) < 0.2


@pytest.mark.parametrize("p", [0.3, 0.5, 0.7])
def test_a_true_preference_is_found_whatever_the_lengths(p, store, draw):
    ahead = draw.normal(40, 60, N).round()
    frame = answers(ahead)
    found = win_rate(frame, judge(frame["id"], draw.random(N) < p), store)
    assert found.raw.value == pytest.approx(p, abs=0.06)
    assert found.controlled.low < p < found.controlled.high


def test_preference_and_length_are_told_apart(store, draw):
    ahead = draw.normal(40, 60, 4 * N).round()
    truth = expit(0.8 + 2.0 * np.tanh(ahead / ahead.std()))
    frame = answers(ahead)
    found = win_rate(frame, judge(frame["id"], draw.random(4 * N) < truth), store)
    assert found.controlled.value == pytest.approx(expit(0.8), abs=0.05)
    assert found.raw.low > expit(0.8)


def test_to_call_the_baseline_candidate_turns_the_rates_to_the_last_bit(store, draw):
    for p in (0.2, 0.5, 0.8):
        ahead, likes = draw.normal(30, 60, 40).round(), draw.random(40) < p
        frame = answers(ahead)
        one = win_rate(frame, judge(frame["id"], likes), store)
        other = win_rate(swapped(frame), judge(frame["id"], ~likes), store)
        for mine, theirs in ((one.raw, other.raw), (one.controlled, other.controlled)):
            ends = ((mine.value, theirs.value), (mine.low, theirs.high), (mine.high, theirs.low))
            # one of them is computed, the other is what it leaves of one
            assert all(a == 1 - b for a, b in ends) or all(b == 1 - a for a, b in ends)
        assert (one.rows["value"] + other.rows["value"]).to_list() == [1.0] * 40


def test_a_preference_for_what_is_read_first_cancels(store, draw):
    frame = answers(draw.normal(50, 50, N).round())
    blind = win_rate(frame, judge(frame["id"], [None] * N, first=lambda n: 1), store)
    assert (blind.raw.value, blind.raw.low, blind.raw.high) == (0.5, 0.5, 0.5)
    assert blind.controlled.value == pytest.approx(0.5)
    assert blind.first == 1.0
    likes = draw.random(N) < 0.9
    half = win_rate(frame, judge(frame["id"], likes, first=lambda n: n % 2), store)
    # where the order decides, both orders give a half between them
    assert half.raw.value == pytest.approx((0.5 + likes[::2].mean()) / 2)
    assert half.first == pytest.approx(0.75)


def test_ties_count_half_and_lengths_without_spread_control_nothing(store):
    frame = answers([7] * 4)
    found = win_rate(frame, judge(frame["id"], [True, None, None, False]), store)
    assert found.rows["value"].to_list() == [1.0, 0.5, 0.5, 0.0]
    assert found.raw.value == 0.5
    assert found.controlled.value == pytest.approx(0.5)


def test_what_is_no_verdict_is_set_aside_and_counted(store):
    frame = answers([5, -5, 3, 8])
    said = dict(judge(frame["id"], [True] * 4).answers)
    said["000:candidate-first"] = "The first one is better."
    said["001:baseline-first"] = '{"better": "both"}'
    said["002:baseline-first"] = Failure(reason="timeout: no answer")
    found = win_rate(frame, Recorded(answers=said), store)
    assert found.set_aside == {"schema": 2, "timeout": 1}
    assert found.rows["value"].to_list() == [None, None, None, 1.0]
    assert found.raw.value == 1.0
    nothing = Recorded(answers=dict.fromkeys(said, "Both are fine."))
    with pytest.raises(ValueError, match=r"gave no prompt two verdicts \(4 schema\)"):
        win_rate(frame, nothing, store)


def test_a_judge_is_asked_once_and_again_only_where_it_failed(store, tmp_path):
    frame = answers([5, -5])
    asked = judge(frame["id"], [True, False])
    first = win_rate(frame, asked, store)
    before = len(asked.asked)
    again = win_rate(frame.reverse(), asked, store)
    assert len(asked.asked) == before == 4
    assert again.rows.equals(first.rows)
    broken = {**asked.answers, "001:baseline-first": Failure(reason="timeout: no answer")}
    cache = tmp_path / "completions.sqlite"
    partly = Recorded(answers=broken)
    win_rate(frame, partly, store, cache=cache)
    count = len(partly.asked)
    win_rate(frame, partly, store, cache=cache)
    assert partly.asked[count:] == ["001:baseline-first"] * (len(partly.asked) - count)


def test_the_fit_is_the_maximum_of_the_penalised_likelihood(draw):
    ahead, value = draw.normal(20, 40, 60), draw.choice([0, 0.25, 0.5, 0.75, 1.0], 60)
    x, weight = np.tanh(ahead / ahead.std()), draw.poisson(1.0, 60).astype(float)

    def loss(at):
        rate = expit(at[0] + at[1] * x)
        fit = value * np.log(rate) + (1 - value) * np.log(1 - rate)
        return -(weight @ fit) + RIDGE / 2 * (at @ at)

    best = minimize(loss, np.zeros(2), tol=1e-12).x
    found = at_equal_lengths(value, ahead, weight[:, None])
    assert found[0] == pytest.approx(expit(best[0]), abs=1e-6)
    # all that is longer wins: without the ridge there is no maximum
    assert np.isfinite(at_equal_lengths((ahead > 0) * 1.0, ahead, weight[:, None])).all()
    assert at_equal_lengths(np.ones(60), ahead, np.ones((60, 1)))[0] > 0.95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop("baseline"), "baseline is missing"),
        (lambda f: f.clear(), "got no answers"),
        (lambda f: f.with_columns(id=pl.lit("a")), "the id 'a' stands twice"),
        (lambda f: f.with_columns(candidate=pl.lit(None, pl.String)), "lacks its prompt or an"),
    ],
)
def test_answers_that_cannot_be_compared_are_refused(change, message, store):
    frame = answers([1, 2])
    with pytest.raises(ValueError, match=message):
        win_rate(change(frame), judge(frame["id"], [True, True]), store)


def test_an_empty_answer_is_an_answer_and_what_could_not_be_asked_is_counted():
    frame = examples([("What is a lamp?", "x"), ("And a spoon?", "x"), ("And a wolf?", "x")])
    first, second, third = frame["id"]
    candidate = Recorded(answers={first: "A light.", second: " ", third: "An animal."})
    baseline = Recorded(answers={first: "A thing.", second: "Cutlery."})
    found, left = compared(pl.concat([frame, frame[:1]]), candidate, baseline)
    assert found.rows() == [
        (first, "What is a lamp?", "A light.", "A thing."),
        (second, "And a spoon?", "", "Cutlery."),
    ]
    assert left == {"not_recorded": 1}
    with pytest.raises(ValueError, match=r"that both models answer \(3 not_recorded\)"):
        compared(frame, candidate, Recorded(answers={}))
