"""Answers: what a solution ends in, and which completions reach it."""

import time

import pytest

from gristmill.pipeline.numerics.answers import (
    boxed,
    final_answer,
    known_answer,
    last_number,
    marked_answer,
    solves,
)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{3} #### 4", "4"),
        (r"#### \boxed{5}", "5"),
        (r"\boxed{6", None),
        (r"\boxed{7} but \boxed{8", "7"),
        ("12 + 6 = 18\n#### 18\n", "18"),
        ("so\n####\n\n 18", "18"),  # the mark alone on a line
        ("#### 17 and #### 18", "17 and #### 18"),
        ("#### 17\nis wrong", None),
        ("18 ####", None),
        ("}\\boxed{9}{", "9"),
        ("no mark at all", None),
    ],
)
def test_the_marked_end(text, end):
    assert marked_answer(text) == end
    assert final_answer(text) == (text if end is None else end)


LONG = 200_000


@pytest.mark.parametrize(
    "text",
    [
        "#" * LONG,
        "#### " * (LONG // 5),
        "#" * LONG + " x",
        "####" + " " * LONG + "x\ny",
        " " * LONG + "x",
        "x" + " " * LONG + "y",
        "5" + " " * LONG + "x",
        "5 percent" + " " * LONG + "x",
        "$" + " " * LONG + "-",
        "1" * LONG,
        "1/" + "1" * LONG,
        "\\boxed{" * (LONG // 7),
        "\\frac{" * (LONG // 6),
    ],
    ids=range(13),
)
def test_no_text_is_slow(text):
    """Each took minutes, or was no number that Python reads."""
    began = time.perf_counter()
    for reading in (marked_answer, last_number, known_answer):
        reading(text)
    solves(text, "5")
    solves("5", text)
    assert time.perf_counter() - began < 10  # a fraction of a second on an idle machine


def test_the_place_of_a_box():
    assert boxed(r"ab \boxed{x{y}z}") == (3, "x{y}z")


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("she pays 3 x $6 = $18.", "$18"),
        ("7-3 is 4", "4"),
        ("it is 7-3", "3"),  # a difference, not minus three
        ("the change is -3", "-3"),
        ("1,234,567 apples", "1,234,567"),
        ("about 12 %", "12 %"),
        ("none", None),
    ],
)
def test_the_last_number(text, last):
    assert last_number(text) == last


@pytest.mark.parametrize(
    ("reference", "grade", "known"),
    [
        ("18 - 3 = <<18-3=15>>15\n#### 15", "final", "15"),
        (r"thus $\boxed{\dfrac{3}{4}}$", "final", "3/4"),
        (r"\boxed{12\%}", "final", "12%"),
        ("Paris", "final", "Paris"),
        ("An essay on rivers that names 1984 and goes on for many words.", "final", None),
        ("An essay on rivers that names 1984 and goes on.", "number", "1984"),
        ("no number here", "number", None),
        ("", "final", None),
    ],
)
def test_what_can_be_verified(reference, grade, known):
    assert known_answer(reference, grade) == known


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        ("so 9 * 2 = 18, and she makes $18.", "18", True),
        ("#### 18", "18", True),
        ("#### 18\n\nQuestion: what of 5?", "18", True),
        (r"18 is wrong, so \boxed{17}", "18", False),
        (r"\boxed{x = 18}", "18", True),
        (r"$\boxed{\frac{6}{8}}$", "3/4", True),
        ("0.75", "3/4", True),
        ("that is 20%", "20", True),
        ("that is 20%", "0.2", True),
        ("that is 20", "0.2", False),
        ("18 sheep, then 19", "18", False),
        ("I do not know", "18", False),
        ("", "18", False),
        (r"the answer: \boxed{\text{the Paris}}", "Paris", True),
        ("Paris.", "paris", True),
        ("It is Paris, of course", "Paris", False),  # exact, not contained
    ],
)
def test_completions_against_the_known_answer(completion, answer, right):
    assert solves(completion, answer) is right
