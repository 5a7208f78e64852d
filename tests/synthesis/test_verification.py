"""Verification: truth tables, fixtures by hand, and brute force for the fast paths."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.pipeline.clean.text import words
from gristmill.pipeline.numerics.answers import number
from gristmill.synthesis import verification as v

# ----------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.50", Fraction(2469, 2)),
        ("-3/4", Fraction(-3, 4)),
        ("\u22127", Fraction(-7)),
        ("$5", Fraction(5)),
        ("12 %", Fraction(12, 100)),
        ("50 percent", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("1e3", Fraction(1000)),
        ("2.5E-1", Fraction(1, 4)),
        ("42.", Fraction(42)),
        ("\uff14\uff12", Fraction(42)),  # full-width digits
        ("1/0", None),
        ("12,34", None),
        ("3 apples", None),
        ("", None),
        ("-", None),
    ],
)
def test_numbers_by_value(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    ("one", "two", "equal"),
    [
        ("0.50", "1/2", True),
        ("1,000", "1000.0", True),
        ("50%", "0.5", True),
        ("the Ogr\u00f3d Saski.", "ogr\u00f3d  saski", True),
        ("STRASSE", "stra\u00dfe", True),
        ("so 6 + 6 = 12 #### 12", "12", True),
        (r"thus \boxed{3} and \boxed{4}", "4", True),
        ("Paris", "London", False),
        ("10", "100", False),
        ("0.1", "0.10000001", False),  # exact, not close
    ],
)
def test_same_answer(one, two, equal):
    assert v.same(one, two) is equal
    assert v.same(two, one) is equal


def test_free_answers():
    assert v.agrees("Saxon Garden", "It was located in the Saxon Garden, near the palace.")
    assert not v.agrees("Saxon Garden", "It was located in the garden of a Saxon.")
    assert not v.agrees("7", "It has 17 parts.")
    long = "it stores energy and insulates the body against the cold of winter"
    assert v.agrees(long, "It stores energy, and insulates the body against the winter cold.")
    assert not v.agrees(long, "Proteins are chains of amino acids that fold into a shape.")
    assert not v.agrees("x", "")


# -------------------------------------------------------------------------------------- votes


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (("A", "A", "B"), "A"),
        (("A", "B", "C"), None),
        (("A", None, None), None),  # nulls do not vote, and one voter is no majority
        ((None, None, None), None),
        (("A", "A", None), "A"),
        (("A", "A", "B", None, None), "A"),
        (("A", "A", "B", "B"), None),
        (("A", "A", "B", "C", "D"), None),  # most, but not more than half
        (("12", "12.0", "13"), "12"),
        ((" ", "", "A"), None),
        ((), None),
    ],
)
def test_majority(answers, winner):
    assert v.majority(answers) == winner


def test_majority_of_independent_voters_has_the_known_accuracy():
    """Each of three is right with p, wrong in its own way otherwise: p^2 (3 - 2p); 0.784 at 0.7."""
    p, total = 0.7, 0.0
    for right in itertools.product([True, False], repeat=3):
        answers = ["true" if r else f"wrong {i}" for i, r in enumerate(right)]
        if v.majority(answers) == "true":
            total += math.prod(p if r else 1 - p for r in right)
    assert total == pytest.approx(p**2 * (3 - 2 * p))
    assert total == pytest.approx(0.784)


@pytest.mark.parametrize(
    ("open_book", "closed_book", "reason"),
    [
        (["7"], ["8"], None),
        (["7"], [None], None),
        (["7"], ["7"], "closed_book"),
        (["8"], ["8"], "open_book"),
        ([None], ["8"], "open_book"),
        (["7", "7", "8"], ["8", "8", "8"], None),
        (["7", "7", "7"], ["7", "8", "8"], None),  # known now and then: the document gains 2/3
        (["7", "7", "8"], ["7", "8", "8"], "closed_book"),  # a gain of 1/3 is too little
        (["7", "8"], ["8", "8"], "open_book"),
    ],
)
def test_round_trip(open_book, closed_book, reason):
    found = v.round_trip("7", open_book, closed_book)
    assert (found is None) if reason is None else found.startswith(reason)


def test_round_trip_wants_answers():
    with pytest.raises(ValueError, match="at least once"):
        v.round_trip("7", [], ["7"])


def test_the_checker_accepts_one_of_eight_verdicts():
    accepted = [
        flags
        for flags in itertools.product([True, False], repeat=3)
        if v.check_verdict(dict(zip(v.CHECK_SCHEMA["required"], flags, strict=True))) is None
    ]
    assert accepted == [(True, True, False)]


# -------------------------------------------------------------------------------- plain checks


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("What is the Saxon Garden in Polish?", "Ogr\u00f3d Saski", None),
        ("Who lives in the Saxon Garden?", "the Saxon Garden", "leak"),
        ("Is it true that no man is an island?", "No", None),
        ("Is yes the answer?", "yes", None),
        ("How many of the 12 are left?", "12", None),  # two characters
        ("Were 120 people there?", "120", "leak"),
        ("Does the art of war teach war?", "ar", None),
        ("Is a start an art?", "art", "leak"),
        ("Is a start a beginning?", "art", None),  # inside a word is not inside the question
        ("\u4e1c\u4eac\u5927\u5b66\u5728\u54ea\u91cc?", "\u4e1c\u4eac\u5927\u5b66", "leak"),
    ],
)
def test_leaks(question, answer, reason):
    found = v.leaked(question, answer)
    assert (found is None) if reason is None else found.startswith(reason)


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Where did it end?", "In 1943.", None),
        ("", "x", "empty"),
        ("What?", " ... ", "empty"),
        ("Paris", "paris.", "repeats"),
        ("According to the passage, who won?", "Ann", "speaks of its source"),
        ("What is said in this document?", "much", "speaks of its source"),
        ("What is the author of Faust called?", "Goethe", None),
        ("What does </document a1> say?", "x", "speaks of its source"),
    ],
)
def test_form(question, answer, reason):
    found = v.badly_formed(question, answer)
    assert (found is None) if reason is None else reason in found


def test_grounding():
    document = "In 1,870 the  theatre\nopened; 30.5 % of seats were sold. It closed in 1939."
    quoted = "It closed in 1939"
    assert v.ungrounded("from 1870 to 1939", document, quoted) is None
    assert v.ungrounded("30.50 percent", document, quoted) is None
    assert "1940" in v.ungrounded("It closed in 1940.", document, quoted)
    # to leave the quotation out is no way around the check
    assert "no evidence" in v.ungrounded("from 1870 to 1939", document)
    assert "no evidence" in v.ungrounded("", document)
    assert v.ungrounded("the Theatre opened", document) is None
    assert v.ungrounded("x", document, "the theatre opened") is None
    assert "evidence" in v.ungrounded("x", document, "the cinema opened")
    assert "evidence" in v.ungrounded("x", document, "")
    assert "evidence" in v.ungrounded("x", "theatres opened", "theatre")  # whole words


# ------------------------------------------------------------------------------------ novelty

SEA = "Write a short poem about the sea"


def test_rouge_l_fixtures():
    assert v.rouge_l(words(SEA), words(SEA[:-3] + "sky")) == pytest.approx(6 / 7)
    assert v.rouge_l(words(SEA), words("Compose a poem on the sea")) == pytest.approx(8 / 13)
    chinese = "\u5199\u4e00\u9996\u5173\u4e8e\u5927\u6d77\u7684\u8bd7"
    assert v.rouge_l(words(chinese), words(chinese)) == 1.0
    assert v.rouge_l([], words(SEA)) == 0.0
    seen = v.Seen()
    seen.update([("sea", SEA), ("zh", chinese)])
    assert v.repeated(SEA[:-3] + "sky", seen) == "not_novel: ROUGE-L 0.857 with sea"
    assert v.repeated(chinese, seen) == "not_novel: ROUGE-L 1.000 with zh"
    assert v.repeated("Compose a poem on the sea", seen) is None
    assert v.repeated("", seen) is None


def longest_common(one, two):
    table = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            up = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else up
    return table[-1][-1]


SENTENCES = st.lists(st.sampled_from("abcdef"), max_size=12)


@settings(max_examples=200, deadline=None)
@given(SENTENCES, SENTENCES)
def test_rouge_l_is_the_textbook_table(one, two):
    expected = 2 * longest_common(one, two) / (len(one) + len(two)) if one and two else 0.0
    assert v.rouge_l(one, two) == pytest.approx(expected)


@settings(max_examples=150, deadline=None)
@given(st.lists(SENTENCES, max_size=12), SENTENCES, st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]))
def test_the_nearest_is_found_as_by_comparing_all(texts, query, limit):
    seen = v.Seen(limit=limit)
    seen.update((f"t{i:02d}", " ".join(t)) for i, t in enumerate(texts))
    values = [(-v.rouge_l(query, t), f"t{i:02d}") for i, t in enumerate(texts)]
    above = [x for x in values if -x[0] >= limit]
    best = min(above, default=None)
    assert seen.nearest(" ".join(query)) == (None if best is None else (best[1], -best[0]))


def test_the_limit_is_a_share():
    with pytest.raises(ValueError, match="limit=7"):
        v.Seen(limit=7)
