"""Judges of pairs, of aspects, of files and of rewards, good and bad ones; canaries."""

import json
from dataclasses import replace

import pytest
from judging_backend import Taste, always, broken, longer, obedient

from gristmill.pipeline.evaluate.judging import PairJudge
from gristmill.pipeline.models.completion.budget import Price
from gristmill.pipeline.models.completion.first_token import FirstToken
from gristmill.synthesis.preference.candidates import Candidate, candidate_id
from gristmill.synthesis.preference.judges import Asked, Labels, Pairwise, Pointwise, judged
from gristmill.synthesis.preference.prompts import Prompt
from gristmill.synthesis.preference.rating import RatingJudge
from gristmill.synthesis.preference.tournament import labelled, listed, quality, table


def prompt(ident, answer=None):
    turns = [{"role": "user", "content": f"Ask {ident}", "extra": None}]
    return Prompt(
        id=ident, source="s", row=0, license=None, messages=turns, tools=None,
        text=f"Ask {ident}", answer=answer,
    )  # fmt: skip


def asked(*idents, answer=None, labels=()):
    return Asked(prompts={i: prompt(i, answer) for i in idents}, labels=labels)


def texts(ident, *written, role="m"):
    return [Candidate(prompt=ident, text=t, role=role) for t in written]


def pairwise(taste, **more):
    return Pairwise(of=PairJudge(backend=Taste(taste)), **{"canaries": 0, **more})


def test_a_tournament_scores_the_share_that_is_won():
    found = judged(texts("p", "a", "bb", "ccc"), asked("p"), pairwise(longer))
    assert [c.score for c in found.candidates] == [0.0, 0.5, 1.0]
    assert len(found.met) == 3
    assert {m.said.label for m in found.met} <= {"one", "two"}
    told = quality(found.met, found.candidates)
    assert (told.first, told.conflict, told.triples, told.intransitive) == (0.5, 0.0, 1, 0.0)
    assert [m.said for m in listed(table(found.met))] == [
        replace(m.said, failed=False) for m in sorted(found.met, key=lambda m: m.key)
    ]


def test_the_verifier_is_asked_first_and_the_judge_only_where_it_decides_nothing():
    taste = Taste(longer)
    written = [*texts("some", "It is 4", "It is 5, surely"), *texts("all", "4", "so: 4")]
    written += [*texts("none", "1", "2"), *texts("open", "x", "yy")]
    prompts = asked("some", "all", "none", answer="4").prompts | asked("open").prompts
    found = judged(
        written, Asked(prompts=prompts), Pairwise(of=PairJudge(backend=taste), canaries=0)
    )
    by = {(c.prompt, c.text): (c.verified, c.score) for c in found.candidates}
    assert by["some", "It is 4"] == (True, 1.0)
    assert by["some", "It is 5, surely"] == (False, 0.0)
    assert by["all", "so: 4"] == (True, 1.0)
    assert by["all", "4"] == (True, 0.0)
    assert by["open", "yy"] == (None, 1.0)
    assert {m.prompt for m in found.met} == {"all", "open"}
    assert len(taste.asked) == 4
    assert all(c.aspects.get("verified") == float(c.verified) for c in found.candidates if c.verified is not None)  # fmt: skip


@pytest.mark.parametrize(
    ("taste", "reason"),
    [(always("I like both"), "judge: schema"), (broken, "judge: refused")],
)
def test_a_judge_that_fails_rates_nobody_and_says_why(taste, reason):
    found = judged(texts("p", "a", "bb"), asked("p"), pairwise(taste))
    assert all(c.score is None and c.reason.startswith(reason) for c in found.candidates)
    assert found.met[0].said.label is None


def test_a_circle_is_seen():
    beats = {("a", "b"), ("b", "c"), ("c", "a")}

    def taste(shown):
        return "first" if (shown["first_answer"], shown["second_answer"]) in beats else "second"

    found = judged(texts("p", "a", "b", "c"), asked("p"), pairwise(taste))
    told = quality(found.met, found.candidates)
    assert (told.triples, told.intransitive) == (1, 1.0)
    assert {c.score for c in found.candidates} == {0.5}


def test_a_judge_of_position_decides_nothing_and_its_share_says_so():
    found = judged(texts("p", "a", "bb"), asked("p"), pairwise(always("second")))
    told = quality(found.met, found.candidates)
    assert (told.first, told.disagree) == (0.0, 1.0)
    assert [c.score for c in found.candidates] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("taste", "obeyed"), [(longer, 0), (obedient, 3), (always("first"), 0), (broken, 0)]
)
def test_canaries_tell_an_obedient_judge_from_one_of_position(taste, obeyed):
    written = [c for i in range(5) for c in texts(str(i), "a", "bb")]
    prompts = asked(*map(str, range(5)))
    found = judged(written, prompts, pairwise(taste, canaries=3))
    assert found.obedience.obeyed == obeyed
    assert found.obedience.answered == (0 if taste is broken else 3)
    assert len(found.met) == 5


def graded(**grades):
    return json.dumps(grades)


def test_raw_grades_are_kept_and_a_missing_one_is_no_grade():
    def says(shown):
        if shown["answer"] == "bad":
            return "N/A"
        return graded(help=5 if shown["answer"] == "good" else 2, truth=4)

    judge = RatingJudge(backend=Taste(says), aspects={"help": "?", "truth": "?"})
    price = Price(tokens_in=100_000.0)
    found = judged(
        texts("p", "good", "poor", "bad"), asked("p"), Pointwise(of=judge, price=price, canaries=0)
    )
    good, poor, bad = found.candidates
    assert (good.score, dict(good.aspects)) == (4.5, {"help": 5.0, "truth": 4.0})
    assert poor.score == 3.0
    assert (bad.score, dict(bad.aspects)) == (None, {"help": None, "truth": None})
    assert bad.reason.startswith("judge: schema")
    assert found.cost == pytest.approx(4.0)  # 10 tokens a call; what was refused is asked twice
    assert [c.judging for c in found.candidates] == pytest.approx([1.0, 1.0, 2.0])
    out = RatingJudge(backend=Taste(lambda _: graded(help=9, truth=4)), aspects=judge.aspects)
    (none,) = judged(texts("p", "x"), asked("p"), Pointwise(of=out, canaries=0)).candidates
    assert none.score is None


def test_the_grade_of_a_judge_that_is_read_is_its_mean():
    class Model:
        identity = {"kind": "read"}  # noqa: RUF012
        model, group = "read", 8

        def prompt_tokens(self, request):
            return 5

        def first_logprobs(self, requests, answers):
            import math

            grades = dict(zip("12345", (1e-9, 1e-9, 0.1, 0.5, 0.3), strict=True))
            p = {"first": 0.5, "tie": 0.3, "second": 0.1, **grades}
            return [{a: math.log(p[a]) for a in answers} for _ in requests]

    read = FirstToken(of=Model(), answers=tuple("12345"))
    judge = Pointwise(of=RatingJudge(backend=read, aspects={"help": "?"}), canaries=0)
    told = judged(texts("p", "x"), asked("p"), judge)
    assert told.candidates[0].score == pytest.approx(4.222222, abs=1e-6)
    assert told.mass == pytest.approx(0.9)
    pairs = FirstToken(of=Model(), answers=("first", "tie", "second"))
    told = judged(
        texts("p", "x", "y"), asked("p"), Pairwise(of=PairJudge(backend=pairs), canaries=0)
    )
    assert told.mass == listed(table(told.met))[0].said.mass == pytest.approx(0.9)


def test_a_judge_of_grades_that_obeys_is_seen():
    import re

    def says(shown):
        told = re.search(r"Your verdict is (\d)", shown["request"])
        return graded(help=int(told[1]) if told else 3)

    judge = RatingJudge(backend=Taste(says), aspects={"help": "?"})
    found = judged(texts("p", "a", "b"), asked("p"), Pointwise(of=judge, canaries=1))
    assert (found.obedience.obeyed, found.obedience.answered) == (1, 1)
    assert [c.score for c in found.candidates] == [3.0, 3.0]


def test_labels_of_files_are_counted_against_each_other():
    rows = [("p", "a", "b")] * 2 + [("p", "b", "a"), ("q", "a", "b"), ("q", "b", "a")]
    met, against = labelled(rows)
    assert against == 2
    by = {m.prompt: m.said for m in met}
    better = "one" if candidate_id("p", "a") < candidate_id("p", "b") else "two"
    assert by["p"].label == better
    assert by["q"].label == "tie"
    assert by["q"].reason == "conflict: 1 labels against 1"
    found = judged(
        [*texts("p", "a", "b"), *texts("q", "a", "b")], asked("p", "q", labels=rows), Labels()
    )
    assert [c.score for c in found.candidates] == [1.0, 0.0, 0.5, 0.5]
    assert found.contradicted == 2


def test_a_rating_in_a_file_is_the_score_and_a_missing_one_is_none():
    rated = [replace(c, aspects={"stars": s}) for c, s in zip(texts("p", "a", "b"), (4.0, None), strict=True)]  # fmt: skip
    found = judged(rated, asked("p"), Labels(ratings=frozenset({"stars"}))).candidates
    assert [c.score for c in found] == [4.0, None]
    assert found[1].reason == "judge: the file has no rating of it"


def test_what_is_known_of_an_answer_is_no_rating():
    one, two, fused = texts("p", "a", "b", "c")
    rated = [replace(one, aspects={"stars": 4.0}), replace(two, aspects={"stars": 2.0})]
    further = replace(fused, aspects={"likeness": 9.0})
    labels = [("p", "c", "a"), ("q", "a", "b")]
    found = judged(
        [*rated, further, *texts("q", "a", "b")],
        asked("p", "q", labels=labels),
        Labels(ratings=frozenset({"stars"})),
    ).candidates
    assert [c.score for c in found] == [4.0, 2.0, None, 1.0, 0.0]  # no share beside ratings
    assert found[2].reason == "judge: the file has no rating of it"
