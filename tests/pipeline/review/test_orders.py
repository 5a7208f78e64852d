"""Orders: what is written, and which items come first."""

import polars as pl
import pytest

from gristmill.pipeline.review.orders import Order, disagreement

IDS = ["a", "b", "c", "d"]
SCORES = pl.DataFrame(
    {
        "id": ["d", "c", "b", "a", "a"],
        "score_kind": [1.0, 2.0, 3.0, 4.0, 0.0],
        "score_strict": [10.0, 20.0, 40.0, 30.0, 0.0],
        "score_picky": [float("nan"), -3.0, -1.0, -2.0, 0.0],
        "vote": ["chosen", "rejected", "chosen", "tie", "tie"],
        "other": ["chosen", "chosen", "chosen", "tie", "tie"],
    }
)


def arranged(text, scores=SCORES, seed=0):
    return Order.parse(text).arranged(IDS, scores, seed)


def test_a_score_the_highest_or_the_lowest_first_and_nothing_last():
    assert arranged("kind") == arranged("score_kind") == ["a", "b", "c", "d"]
    assert arranged("-kind") == ["d", "c", "b", "a"]
    assert arranged("picky") == ["b", "a", "c", "d"], "NaN says nothing"
    assert arranged("-picky") == ["c", "a", "b", "d"]


def test_disagreement_by_hand():
    """Places of kind d c b a, of strict d c a b: a and b are a quarter apart, c and d agree."""
    assert arranged("disagreement:kind,strict")[:2] in (["a", "b"], ["b", "a"])
    frame = SCORES.head(4)
    apart = disagreement(frame, ("score_kind", "score_strict"))
    assert apart.to_list() == [0, 0, 0.25, 0.25]
    assert disagreement(frame, ("vote", "other")).to_list() == [0, 1, 0, 0]
    assert disagreement(frame, ("score_kind", "score_picky"))[0] is None, "one judge alone"
    assert arranged("disagreement:vote,other")[0] == "c"


def test_what_stands_equal_is_drawn_by_the_seed_alone():
    drawn = {tuple(arranged("random", None, seed)) for seed in range(20)}
    assert len(drawn) > 5
    assert Order.parse("random").arranged(IDS[::-1], None, 3) == arranged("random", None, 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a valid rule"),
        ("-", "not a valid rule"),
        ("random:2", "not a valid rule"),
        ("disagreement:kind", "two at least"),
        ("kinda", "did you mean 'kind'"),
        ("vote", "column of numbers"),
        ("disagreement:kind,vote", "cannot be compared"),
        ("disagreement:kind,nobody", "no column 'nobody'"),
    ],
)
def test_an_order_that_cannot_be_is_refused_in_a_sentence(text, says):
    with pytest.raises(ValueError, match=says):
        arranged(text)


def test_scores_are_needed_where_a_rule_reads_them():
    with pytest.raises(ValueError, match="--scores"):
        arranged("kind", None)
    with pytest.raises(ValueError, match="the scores hold 1"):
        arranged("disagreement", SCORES.select("id", "score_kind"))
