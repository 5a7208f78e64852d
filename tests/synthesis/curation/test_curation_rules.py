"""The rules of preference data curation: counts, votes, keep and flip, against their oracles."""

import itertools

import numpy as np
import pytest

from gristmill.pipeline.numerics.intervals import lower_bound
from gristmill.synthesis.curation.consistency import FlipTest, judged_again, kept
from gristmill.synthesis.curation.people import to_verify
from gristmill.synthesis.curation.retrieval import (
    at_random,
    error_driven,
    nearest,
    neighbours_of,
    uncertain,
)
from gristmill.synthesis.curation.votes import majority, needed, of_people

COUNTS = {0.3: 8, 0.5: 8, 0.501: 4, 0.55: 4, 0.75: 2, 0.8: 2, 0.876: 1, 0.9: 1, 0.99: 1, 1.0: 0}


@pytest.mark.parametrize(("p", "count"), COUNTS.items())
def test_a_gold_pair_asks_for_more_neighbours_the_less_its_label_is_understood(p, count):
    assert neighbours_of(p) == count


@pytest.mark.parametrize(
    ("odds", "count"), [(1.0, 8), (5 / 3, 3), (3.0, 2), (7.0, 1), (0.0, 8), (1e300, 0)]
)
def test_the_count_of_a_sigmoid_is_that_of_the_exact_probability(odds, count):
    for p in (odds / (1 + odds), 1 / (1 + 1 / odds) if odds else 0.0):
        for near in (p, np.nextafter(p, 0), np.nextafter(p, 1)):
            if p != 0.5:
                assert neighbours_of(float(near)) == count
    with pytest.raises(ValueError, match=r"between 0 and 1; found nan"):
        neighbours_of(float("nan"))


def directions(*degrees):
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_gold_pairs_are_served_from_the_worst_on_and_shared_neighbours_are_labelled_once():
    pool = [f"p{n:02d}" for n in range(20)]
    vector_ND = directions(*range(0, 40, 2))
    gold = {"understood": 0.99, "wrong": 0.1, "known": 1.0, "unsure": 0.75}
    vector_GD = directions(38, 0, 20, 1)
    found = error_driven(gold, vector_GD, pool, vector_ND, budget=100)
    assert found.ids[:8] == tuple(pool[:8]), "8 neighbours of the gold pair that is ranked wrong"
    assert found.asked_by[pool[0]] == "wrong", "the unsure one asks for it as well"
    assert found.counted == 8 + 2 + 1 + 0
    assert found.ids[8:] == ("p19",), "both of the unsure one's were asked for already"
    assert found.served == 4
    few = error_driven(gold, vector_GD, pool, vector_ND, budget=3)
    assert (few.ids, few.served) == (tuple(pool[:3]), 1)
    turned = list(range(20))[::-1]
    again = error_driven(gold, vector_GD, [pool[n] for n in turned], vector_ND[turned], budget=100)
    assert again.ids == found.ids, "the order of the pool does not matter"


def test_equally_similar_pairs_go_by_id():
    same = np.ones((30, 2)) / np.sqrt(2)
    names = [f"{n:02d}" for n in range(30)][::-1]
    assert nearest(same[:1], names[:12], same[:12], 3) == [["18", "19", "20"]]
    assert nearest(same[:1], [], same[:0], 3) == [[]]


def test_the_controls_take_the_least_sure_pairs_or_any():
    p = {"a": 0.9, "b": 0.45, "c": 0.55, "d": 0.5}
    assert uncertain(p, 3).ids == ("d", "b", "c")
    drawn = at_random(list("abcdefgh"), 4, seed=0, number=1)
    assert set(drawn.ids) < set("abcdefgh")
    assert at_random(list("hgfedcba"), 4, seed=0, number=1) == drawn
    assert at_random(list("abcdefgh"), 4, seed=0, number=2) != drawn


@pytest.mark.parametrize(("asked", "votes"), [(3, 2), (6, 4), (9, 6), (1, 1), (4, 3)])
def test_two_thirds_of_all_asked_samples_decide(asked, votes):
    assert needed(asked) == votes
    assert majority(["rejected"] * votes, asked).label == "rejected"
    too_few = majority(["rejected"] * (votes - 1), asked)
    assert (too_few.label, too_few.reason) == (None, "judges_silent")


@pytest.mark.parametrize(
    ("votes", "asked", "reason"),
    [
        (["chosen", "chosen", "rejected", "rejected", "chosen", "tie"], 6, "judges_disagree"),
        (["tie", "tie", "chosen"], 3, "judges_tie"),
        (["chosen", "rejected", "tie"], 3, "judges_disagree"),
    ],
)
def test_a_vote_without_two_thirds_is_undecided_and_says_why(votes, asked, reason):
    verdict = majority(votes, asked)
    assert (verdict.label, verdict.reason) == (None, reason)


@pytest.mark.parametrize(
    ("said", "label", "reason"),
    [
        (["rejected"], "rejected", None),
        (["chosen", "chosen", "tie"], "chosen", None),
        (["chosen", "skip"], "chosen", None),
        (["chosen", "rejected"], None, "people_disagree"),
        (["tie"], None, "people_tie"),
        (["both_bad", "both_bad", "tie"], None, "people_both_bad"),
        (["skip"], None, "people_skipped"),
    ],
)
def test_more_than_half_of_the_people_decide(said, label, reason):
    verdict = of_people(said)
    assert (verdict.label, verdict.reason) == (label, reason)


def test_three_of_eight_agreements_keep_a_pair():
    rows = list(itertools.product([True, False], repeat=3))
    stay = [r for r in rows if kept(gold=r[0], judges=r[1], best=r[2])]
    assert stay == [(True, True, True), (True, True, False), (True, False, True)]


@pytest.mark.parametrize(("p", "again"), [(0.51, False), (0.5, True), (0.2, True), (np.nan, True)])
def test_only_pairs_that_the_best_model_doubts_are_judged_again(p, again):
    assert judged_again(p) is again


@pytest.mark.parametrize(
    ("right", "decided", "allowed"),
    [(0, 0, False), (199, 199, False), (112, 200, False), (113, 200, True), (1_050, 2_000, True)],
)
def test_a_flip_needs_200_verdicts_and_a_lower_bound_above_one_half(right, decided, allowed):
    test = FlipTest(right=right, decided=decided)
    assert test.allowed is allowed
    assert ("were not flipped" in test.sentence) is not allowed


def test_the_lower_bound_is_exact():
    from scipy.stats import binom

    low = lower_bound(113, 200)
    assert binom.sf(112, 200, low) == pytest.approx(0.05, abs=1e-9)
    assert lower_bound(0, 10) == 0.0
    assert lower_bound(10, 10) == pytest.approx(0.05 ** (1 / 10))
    with pytest.raises(ValueError, match="11 of 10 is not a share"):
        lower_bound(11, 10)


def test_people_see_the_easiest_pairs_first_and_a_hash_decides_among_equal_ones():
    ranks = {"a": 2, "b": 0, "c": 0, "d": 1}
    first = to_verify(list("abcd"), ranks, 3, seed=0, number=0)
    assert set(first[:2]) == {"b", "c"}
    assert first[2] == "d"
    draws = {tuple(to_verify(list("bc"), ranks, 1, seed=s, number=0)) for s in range(20)}
    assert draws == {("b",), ("c",)}
