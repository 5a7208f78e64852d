"""Edit distance against the table that defines it."""

import random

import pytest

from gristmill.pipeline.numerics.edit_distance import distance, similarity


def table(one: str, two: str) -> int:
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(two, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def test_it_is_the_table():
    draw = random.Random(0)
    for _ in range(300):
        one, two = ("".join(draw.choices("abc", k=draw.randrange(90))) for _ in range(2))
        assert distance(one, two) == distance(two, one) == table(one, two)
    assert distance("kitten", "sitting") == 3


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [("", "", 1.0), ("a b", " a \n b ", 1.0), ("abcd", "", 0.0), ("abcde", "abxde", 0.8)],
)
def test_similarity_is_of_the_longer_text(one, two, expected):
    assert similarity(one, two) == pytest.approx(expected)
