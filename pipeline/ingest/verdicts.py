"""What a row's own label says of its answers: which of two is better, or whether one is good.

Labels come as numbers of every type, as text, as booleans and as names of columns. What cannot be
read is never taken for a verdict: such a row is set aside.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gristmill.pipeline.ingest.columns import folded
from gristmill.pipeline.ingest.raw_rows import BadRow

UNDESIRABLE = "undesirable"  # how the reason of an answer that its label calls bad begins

_FIRST = frozenset(("a", "1", "one", "first", "left", "chosen"))
_SECOND = frozenset(("b", "2", "two", "second", "right", "rejected"))
_NAMED = re.compile(
    r"(?:(?:slightly|clearly|much|significantly|strongly)_)?"
    r"(?:(?:model|response|output|answer|assistant|candidate|completion|option|reply|text)_?)?"
    r"(a|b|0|1|2|one|two|first|second|left|right|chosen|rejected)"
    r"(?:_(?:is|was))?(?:_(?:wins?|won|better|much_better|slightly_better))?"
)
# Columns by which a single answer is judged, and those of them where 1 and 0 are yes and no.
_BINARY = (
    *("label", "labels", "kto_tag", "kto_label", "is_true", "is_correct", "is_desirable"),
    *("desirable", "is_good", "is_preferred", "is_chosen", "accepted", "is_accepted"),
)
_JUDGED = frozenset(
    (
        *_BINARY,
        *("correct", "correctness", "is_safe", "is_response_safe", "verdict", "judgement"),
        *("judgment", "judged", "judge", "grade", "grade_name", "rating", "feedback", "thumbs"),
        *("review_result", "evaluation", "assessment"),
    )
)
_GOOD = frozenset(
    (
        *("true", "desirable", "correct", "right", "good", "chosen", "accepted", "accept"),
        *("acceptable", "thumbs_up", "like", "liked", "preferred", "excellent", "yes", "pass"),
    )
)
_BAD = frozenset(
    (
        *("false", "undesirable", "incorrect", "wrong", "bad", "rejected", "reject", "untrue"),
        *("unacceptable", "thumbs_down", "dislike", "disliked", "dispreferred", "not_correct"),
        *("not_desirable", "no", "fail", "failed"),
    )
)


def first_wins(value: object, verdict: str, first: str, second: str) -> bool:
    """Whether the first of two answers is the better one.

    Args:
        value: what the row says: 1 or 2, "A" or "B", true or false, a column's name, or a sign.
        verdict: the column that says it; `preference_strength` and a few others have their own way.
        first: the column of the first answer.
        second: the column of the second.

    Raises:
        BadRow: it says neither, e.g. null, a tie, or a list.
    """
    read = _WAYS.get(folded(verdict), _side)
    won = read(value, first, second)
    if won is None:
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        raise BadRow(f"no_preference: {shown[:40]}")
    return won


def _side(value: object, first: str, second: str) -> bool | None:
    if isinstance(value, bool):
        return value
    number = number_of(value)
    if number is not None:
        zero_based = (_tail(first, second), _tail(second, first)) == ("0", "1")
        return (_ZERO_BASED if zero_based else _ONE_BASED).get(number)
    if not isinstance(value, str):
        return None
    word = folded(value.strip("[]\"' "))
    if word in ("true", "false"):
        return word == "true"
    for won, name, other in ((True, first, second), (False, second, first)):
        if word == folded(name):
            return won
        tail = _tail(name, other)
        if not tail.isdigit() and word and _bare(word) == tail:
            return won
    bare = _bare(word)
    if number_of(bare) is not None:
        return _side(number_of(bare), first, second)
    return True if bare in _FIRST else False if bare in _SECOND else None


def _strength(value: object, first: str, second: str) -> bool | None:
    """Below zero the first answer is better, above zero the second."""
    number = number_of(value)
    return None if not number else number < 0


def _index(value: object, first: str, second: str) -> bool | None:
    number = number_of(value)
    return None if number is None else _ZERO_BASED.get(number)


def _of_first(value: object, first: str, second: str) -> bool | None:
    """1 where the first answer is better, 0 where the second is."""
    number = number_of(value)
    return None if number is None else {1.0: True, 0.0: False}.get(number)


_ZERO_BASED = {0.0: True, 1.0: False}
_ONE_BASED = {1.0: True, 2.0: False}
_WAYS: Mapping[str, Callable[[object, str, str], bool | None]] = {
    "preference_strength": _strength,
    "overall_preference": _strength,
    "better_response_id": _index,
    "safer_response_id": _index,
    "labels": _of_first,
}


def number_of(value: object) -> float | None:
    """A number, or the number that a text writes; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _bare(word: str) -> str:
    """What a word names: "model_a" is "a", "response_2" is "2"."""
    found = _NAMED.fullmatch(word)
    return found[1] if found else word


def _tail(name: str, other: str) -> str:
    """What tells a column's name from the other one, e.g. the "b" of `answer_b` and `answer_a`."""
    one, two = folded(name), folded(other)
    same = 0
    while one[same : same + 1] == two[same : same + 1] != "":
        same += 1
    return one[same:].strip("_")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A column that calls an answer good or bad.

    Attributes:
        column: its name.
        binary: whether 1 and 0 (or -1) are yes and no in it.
        strict: whether a row without a legible label is set aside too.
    """

    column: str
    binary: bool
    strict: bool

    def check(self, row: Mapping[str, Any]) -> None:
        """Refuse a row whose answer is called bad, or that should be judged and is not.

        Raises:
            BadRow: `undesirable`, or `unjudged`.
        """
        value = row.get(self.column)
        good = desirable(value, binary=self.binary)
        if good is False:
            raise BadRow(f"{UNDESIRABLE}: {self.column}={str(value)[:40]}")
        if good is None and self.strict:
            raise BadRow(f"unjudged: {self.column}={str(value)[:40]}")


def desirable(value: object, *, binary: bool) -> bool | None:
    """What a label says of an answer; None: nothing.

    Args:
        value: the label.
        binary: read 1 as yes and 0 or -1 as no.
    """
    if isinstance(value, bool):
        return value
    number = number_of(value)
    if number is not None:
        return {1.0: True, 0.0: False, -1.0: False}.get(number) if binary else None
    word = folded(value) if isinstance(value, str) else ""
    return True if word in _GOOD else False if word in _BAD else None


def judgements(
    rows: Sequence[Mapping[str, Any]], names: Iterable[str], mapped: str | None
) -> tuple[Judgement, ...]:
    """The columns that judge the answers of these rows.

    Args:
        rows: a sample of a file.
        names: its columns.
        mapped: the column that the user named.
    """
    if mapped is not None:
        return (Judgement(column=mapped, binary=True, strict=True),)
    found = []
    for name in names:
        if folded(name) not in _JUDGED:
            continue
        values = [row[name] for row in rows if row.get(name) is not None]
        numbers = [n for n in map(number_of, values) if n is not None]
        yes_no = sum(n in (0, 1, -1) for n in numbers)
        binary = folded(name) in _BINARY and 4 * yes_no > 3 * len(numbers)
        legible = sum(desirable(v, binary=binary) is not None for v in values)
        if legible:
            whole = folded(name) in _BINARY or legible == len(values)
            strict = whole and 2 * legible > len(rows)
            found.append(Judgement(column=name, binary=binary, strict=strict))
    return tuple(found)
