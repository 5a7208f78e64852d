"""Pair rules on small tables, and what a pair must fulfil."""

import pytest

from gristmill.pipeline.evaluate.judging import Judged
from gristmill.synthesis.preference.building import Building, pairs_of
from gristmill.synthesis.preference.candidates import (
    Candidate,
    candidate_id,
    listed,
    table,
)
from gristmill.synthesis.preference.rules import Draw, best_first, rule_named, rules


def answers(*scores, role="weak", verified=None):
    """Candidates whose texts say their scores."""
    return [
        Candidate(
            prompt="p", text=f"{score} {n}", role=role, score=score, verified=verified, sample=n
        )
        for n, score in enumerate(scores)
    ]


def scores(name, rated, seed=0, **settings):
    """The scores of the pairs that a rule proposes."""
    found = rule_named(name, settings).pairs(best_first(rated), Draw(seed=seed, prompt="p"))
    return [(c.score, r.score) for c, r in found]


RATED = answers(3.0, 9.0, 5.0, 1.0, 7.0)


@pytest.mark.parametrize(
    ("rule", "settings", "expected"),
    [
        ("best_worst", {}, [(9, 1)]),
        ("best_second", {}, [(9, 7)]),
        ("margin", {"least": 6}, [(9, 1)]),
        ("margin", {"least": 6, "most": 9}, [(9, 1), (7, 1), (9, 3)]),
        ("margin", {"least": 9}, []),
        ("adjacent", {}, [(9, 7), (7, 5), (5, 3), (3, 1)]),
        ("floor_mean_minus_2sd", {}, [(9, 1)]),
        ("floor_mean_minus_2sd", {"floor": 9.5}, []),
        ("floor_mean_minus_2sd", {"deviations": 0.5}, [(9, 3)]),  # 5 - 1.41: 3 is nearest
    ],
)
def test_rules_on_a_small_table(rule, settings, expected):
    found = scores(rule, RATED, **settings)
    assert sorted(found) == sorted(expected)
    assert scores(rule, RATED[::-1], **settings) == found


def test_the_outlier_is_not_rejected_but_the_score_two_deviations_down():
    rated = answers(*[10.0] * 20, 8.0, 7.0, 0.0)  # mean 9.35, deviation 2.08: 5.2 is aimed at
    assert scores("floor_mean_minus_2sd", rated) == [(10, 7)]


def test_random_rules_draw_among_what_they_say_and_a_seed_draws_the_same():
    tied = answers(9.0, 9.0, 9.0, 4.0, 2.0)
    for rule, lower in (
        ("best_random", {9.0, 4.0, 2.0}),
        ("best_random_lower", {4.0, 2.0}),
        ("max_random", {4.0, 2.0}),
    ):
        drawn = [scores(rule, tied, seed=s)[0] for s in range(40)]
        assert {r for _, r in drawn} == lower, rule
        assert {c for c, _ in drawn} == {9.0}
        assert drawn == [scores(rule, tied[::-1], seed=s)[0] for s in range(40)]
    chosen = {
        rule_named("max_random").pairs(best_first(tied), Draw(seed=s, prompt="p"))[0][0].id
        for s in range(40)
    }
    assert len(chosen) == 3


def test_length_is_paid_for():
    short = Candidate(prompt="p", text="a" * 10, role="m", score=1.0)
    long = Candidate(prompt="p", text="b" * 900, role="m", score=1.5)
    worst = Candidate(prompt="p", text="c" * 10, role="m", score=0.0)
    draw = Draw(seed=0, prompt="p")
    made = {
        penalty: rule_named("max_min_len", {"penalty": penalty}).pairs(
            best_first([short, long, worst]), draw
        )
        for penalty in (0.0, 0.001)
    }
    assert made == {0.0: [(long, worst)], 0.001: [(short, worst)]}


def test_strong_against_weak_needs_no_score():
    strong = Candidate(prompt="p", text="yes", role="big")
    weak = Candidate(prompt="p", text="no", role="small")
    delta = Building(rule=rule_named("delta", {"strong": "big", "weak": "small"}))
    (pair,), reason = pairs_of("p", [weak, strong], {}, delta)
    assert (pair.chosen, pair.rejected, pair.reason, reason) == (strong, weak, None, None)
    known = [strong.scored(0.0, {}), weak.scored(1.0, {})]
    (pair,), _ = pairs_of("p", known, {}, delta)
    assert pair.reason == "conflict: the scores say the opposite by 1"


def building(rule="best_worst", **more):
    return Building(rule=rule_named(rule), **more)


def judged(one_first, two_first):
    return Judged(id="j", one_first=one_first, two_first=two_first)


def verdict(one, two, one_first, two_first):
    """What a judge said of two candidates, `one` of the test being any of them."""
    said = judged(one_first, two_first)
    return {(min(one.id, two.id), max(one.id, two.id)): said if one.id < two.id else said.turned}


@pytest.mark.parametrize(
    ("candidates", "made", "reason"),
    [
        ([], {}, "no_candidate"),
        (answers(1.0), {}, "one_candidate"),
        ([Candidate(prompt="p", text=t, role="m", score=1.0) for t in ("a", " a\n")], {}, "identical: 2"),
        (answers(1.0, None), {}, "unrated: no score"),
        (answers(0.5, 0.5, 0.5), {}, "tied: 3"),
        (answers(0.0, 0.0, verified=False), {}, "none_correct: 2"),
        (answers(4.0, 2.0), {"floor": 5.0}, "below_floor: no"),
        (answers(4.0, 2.0), {"min_gap": 3.0}, "small_gap: 2"),
        (answers(4.0, 2.0), {"shown": lambda p, t: t[:0]}, "same_after_truncation"),
    ],
)  # fmt: skip
def test_a_prompt_without_a_pair_has_its_reason(candidates, made, reason):
    pairs, why = pairs_of("p", candidates, {}, building(**made))
    assert all(p.reason for p in pairs)
    assert (why or pairs[0].reason).startswith(reason)


@pytest.mark.parametrize(
    ("orders", "reason"),
    [
        ((1.0, 1.0), None),
        ((1.0, 0.0), "orders_disagree"),
        ((0.0, 0.0), "conflict"),
        ((0.5, 0.5), "tied"),
        ((1.0, 0.5), "tied"),
        ((None, 1.0), None),
    ],
)
def test_a_verdict_on_the_two_outweighs_their_scores(orders, reason):
    better, worse = answers(4.0, 2.0)
    (pair,), _ = pairs_of("p", [worse, better], verdict(better, worse, *orders), building())
    assert pair.chosen == better
    assert (pair.verdict.one_first, pair.verdict.two_first) == orders
    assert (pair.reason or "").split(":")[0] == (reason or "")


def test_two_that_a_judge_cannot_order_are_kept_for_people():
    one, two = answers(0.5, 0.5)
    (pair,), reason = pairs_of("p", [one, two], verdict(one, two, 1.0, 0.0), building())
    assert reason.startswith("tied")
    assert pair.reason.startswith("orders_disagree")
    assert {pair.chosen.id, pair.rejected.id} == {one.id, two.id}


def test_turning_a_pair_turns_its_verdict():
    assert judged(1.0, 0.5).turned == judged(0.5, 0.0)
    assert judged(None, 1.0).turned == judged(0.0, None)


def test_every_rule_is_a_file_and_a_table_gives_its_candidates_back():
    names = "adjacent against best_random best_random_lower best_second best_worst delta "
    names += "floor_mean_minus_2sd margin max_min_len max_random"
    assert sorted(rules()) == names.split()
    made = [*answers(1.0, None), Candidate(prompt="q", text="x", role="m", aspects={"h": None})]
    assert sorted(listed(table(made)), key=lambda c: c.id) == sorted(made, key=lambda c: c.id)
    assert candidate_id("p", " a ") == candidate_id("p", "a") != candidate_id("q", "a")
    with pytest.raises(ValueError, match="did you mean 'best_worst'"):
        rule_named("best_wors")


def checked(*scores, right=1):
    """Answers to a known answer, as the verifier leaves them: the first `right` reach it."""
    return [
        Candidate(
            prompt="p", text=f"{n}" * (900 if n < right else 9), role="m", sample=n,
            verified=n < right, score=score, aspects={"verified": score},
        )
        for n, score in enumerate(scores)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("margin", {"least": 2}),
        ("floor_mean_minus_2sd", {"floor": 4.0}),
        ("max_min_len", {"penalty": 0.01}),
    ],
)
def test_what_is_known_needs_no_margin_and_no_floor_of_a_judge(rule, settings):
    right, *wrong = known = checked(1.0, 0.0, 0.0)
    ruled = Building(rule=rule_named(rule, settings), floor=4.0, min_gap=2.0)
    found, reason = pairs_of("p", known, {}, ruled)
    assert [(p.chosen, p.reason) for p in found] == [(right, None)]
    assert found[0].rejected in wrong
    assert reason is None


def test_a_right_answer_that_a_judge_grades_is_held_to_its_floor():
    graded = [c.scored(g, {"help": g}) for c, g in zip(checked(1, 1, right=2), (1.0, 0.5), strict=True)]  # fmt: skip
    assert pairs_of("p", graded, {}, building(floor=4.0)) == (
        [],
        "below_floor: no candidate reaches 4",
    )
    equal = [c.scored(1.0, {"help": 1.0}) for c in graded]
    assert pairs_of("p", equal, {}, building())[1] == "tied: 2 candidates of score 1"
    assert pairs_of("p", checked(1.0, 1.0, right=2), {}, building(floor=4.0))[1].startswith("all_correct: 2")  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "settings"),
    [("delta", {"strong": "big", "weak": "small"}), ("against", {"strong": "big"})],
)
def test_a_text_stands_for_every_role_that_wrote_it(rule, settings):
    ruled = Building(rule=rule_named(rule, settings), min_gap=3.0)

    def made(**texts):
        written = [Candidate(prompt="p", text=t, role=r) for r, t in texts.items()]
        found, reason = pairs_of("p", written, {}, ruled)
        return [(p.chosen.role, p.chosen.text, p.rejected.text, p.reason) for p in found], reason

    assert made(another="same", big="same", small="else") == ([("big", "same", "else", None)], None)
    assert made(small="same", big="same", another="else")[0] in (
        [],
        [("big", "same", "else", None)],
    )
    alike = [Candidate(prompt="p", text="same", role=r) for r in ("big", "small")]
    more = [Candidate(prompt="p", text="big alone", role="big", sample=1)]
    found, _ = pairs_of("p", [*alike, *more], {}, ruled)
    assert all(p.chosen.id != p.rejected.id for p in found)
    rated = [Candidate(prompt="p", text=t, role=r, score=s) for t, r, s in (("a", "big", 4.0), ("b", "small", 2.0))]  # fmt: skip
    (pair,), _ = pairs_of("p", rated, {}, ruled)
    assert pair.reason == "small_gap: 2 is below 3"


def test_texts_that_read_alike_are_one_candidate():
    alike = [("caf\u00e9", "cafe\u0301"), ("a\nb", "a\r\nb"), ("a \nb", "a\nb\n"), (" a", "a\t")]
    for one, two in alike:
        assert candidate_id("p", one) == candidate_id("p", two)
    for one, two in [("if x:\n  y", "if x:\n    y"), ("A", "a"), ("a b", "a  b")]:
        assert candidate_id("p", one) != candidate_id("p", two)


def test_a_prompt_that_was_not_to_be_judged_says_so():
    aside = [c.scored(None, {}, "not_chosen: others tell more") for c in answers(1.0, 2.0)]
    assert pairs_of("p", aside, {}, building()) == ([], "not_chosen: others tell more")
    failed = [c.scored(None, {}, "judge: schema") for c in answers(1.0, 2.0)]
    assert pairs_of("p", failed, {}, building())[1] == "unrated: judge: schema"
