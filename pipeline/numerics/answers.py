r"""Answers: are two of them one, and does a worked solution reach the one that is known?

Exact after normalisation, numbers by value ("1,234.50", "-3/4", "12 %", "1e3"), simple LaTeX as
plain text. What a solution ends in is its last `\boxed{...}`, or "#### ..." at its end.
"""

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from typing import Final, Literal

Grade = Literal["final", "number"]

# White space only behind a sign that is there, and possessive: no text makes the search slow.
_NUMBER: Final = re.compile(
    r"(?:[$\u20ac\u00a3\u00a5]\s*+)?(?:(?P<sign>[-+\u2212])\s*+)?(?:[$\u20ac\u00a3\u00a5]\s*+)?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?:\.(?P<part>\d+))?"
    r"(?:[eE](?P<power>[-+]?\d{1,3}))?(?:\s*+/\s*+(?P<under>\d+))?"
    r"(?:\s*+(?P<percent>%|percent|per cent))?"
)
_DIGITS: Final = 4_000  # a number of more is no number: Python reads no more of them at once
_MARK: Final = "####"
_SPACE: Final = re.compile(r"\s*")
_FRACTION: Final = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_WRAPPED: Final = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SPACING: Final = re.compile(r"\\(?:left|right|[!,;: ])|\^\s*(?:\\circ|\{\\circ\})|\$")
_PERCENT: Final = ("%", "percent", "per cent")
SHORT = 8  # words of an answer that can be matched as a whole


def normalised(text: str) -> str:
    """NFKC, case folded, white space collapsed, without marks and articles at the ends."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return re.sub(r"^(?:the|a|an)\s+(?=\S)", "", text.strip(" .,;:!?\"'`\u2018\u2019\u201c\u201d"))


def number(text: str) -> Fraction | None:
    """The value of a text that is one number: "1,234.50", "-3/4", "$5", "12 %", "1e3"."""
    found = _NUMBER.fullmatch(unicodedata.normalize("NFKC", text).strip().rstrip(".").rstrip())
    return None if found is None else _value(found)


def _value(found: re.Match[str]) -> Fraction | None:
    whole, part = (found["whole"] or "0").replace(",", ""), found["part"] or ""
    if max(len(whole) + len(part), len(found["under"] or "")) > _DIGITS:
        return None
    value = Fraction(int(whole + part), 10 ** len(part))
    if found["power"]:
        value *= Fraction(10) ** int(found["power"])
    if found["under"]:
        if int(found["under"]) == 0:
            return None
        value /= int(found["under"])
    if found["percent"]:
        value /= 100
    return -value if found["sign"] in ("-", "\u2212") else value


def last_number(text: str) -> str | None:
    """The last number that a text names, as it is written there."""
    every = list(_NUMBER.finditer(unicodedata.normalize("NFKC", text)))
    if not every:
        return None
    found = every[-1]
    written = found[0].strip()
    if found["sign"]:  # in "7 - 3" and "x-3" it subtracts
        before = found.string[: found.start("sign")]
        if before[-1:].isalnum() or before.rstrip()[-1:].isdigit():
            return written.lstrip("-+\u2212").strip()
    return written


def boxed(text: str) -> tuple[int, str] | None:
    r"""Place and content of the last `\boxed{...}` whose braces close."""
    opened: list[int] = []
    at, end = -1, -1
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            first = opened.pop()
            start = first - len("\\boxed")
            if start > at and text.startswith("\\boxed", start):
                at, end = start, brace.start()
    return None if at < 0 else (at, text[at + len("\\boxed{") : end])


def hashed(text: str) -> tuple[int, str] | None:
    """Place and content of the "#### ..." that a text without white space at its ends ends with."""
    head, _, last = text.rpartition("\n")
    before = head.rstrip()
    if before.endswith(_MARK):  # the mark stands alone on a line before
        return len(before) - len(_MARK), last.lstrip()
    at = last.find(_MARK)
    answer = last[at + len(_MARK) :].lstrip()
    return (len(text) - len(last) + at, answer) if at >= 0 and answer else None


def _hashed_lines(text: str) -> Iterator[str]:
    """What stands behind "####", up to the end of the line."""
    at = 0
    while (at := text.find(_MARK, at)) >= 0:
        first = _SPACE.match(text, at + len(_MARK)).end()  # type: ignore[union-attr]
        at = text.find("\n", first)
        at = len(text) if at < 0 else at
        yield text[first:at].rstrip()


def marked_answer(text: str) -> str | None:
    r"""What a worked solution marks as its end: its last "\boxed{...}" or closing "#### ..."."""
    text = text.strip()
    end, box = hashed(text), boxed(text)
    if end is not None and (box is None or box[0] < end[0]):
        return end[1]
    return None if box is None else box[1]


def final_answer(text: str) -> str:
    r"""What a worked solution ends in: its last "\boxed{...}" or "#### ...", else the text."""
    marked = marked_answer(text)
    return text if marked is None else marked


def key_of(answer: str) -> str:
    """Equal for equal answers: numbers by value, words by their normalised form."""
    answer = final_answer(answer)
    value = number(answer)
    return f"={value}" if value is not None else normalised(answer)


def same(one: str, two: str) -> bool:
    """Exact match after normalisation; numbers by value."""
    return key_of(one) == key_of(two)


def known_answer(reference: str, grade: Grade = "final") -> str | None:
    """The answer in a record's reference solution that a completion can be held against.

    Args:
        reference: the solution.
        grade: "final" takes what the solution marks as its end, or the whole of a reference that
            is a number or at most 8 words; "number" its last number.

    Returns:
        None if there is nothing of the kind: an essay cannot be verified.
    """
    if grade == "number":
        return last_number(_plain(final_answer(reference)))
    marked = marked_answer(reference)
    if marked is not None:
        return _plain(marked).strip() or None
    whole = _plain(reference).strip()
    short = 0 < len(whole.split()) <= SHORT
    return whole if short or number(whole) is not None else None


def solves(completion: str, answer: str) -> bool:
    """Does a completion reach the known answer?

    The completion's marked end counts, else its whole text; where the answer is a number, the last
    number in that. "20 %" reaches 20 as well as 0.2.
    """
    wanted = number(answer)
    marked = marked_answer(completion)
    if wanted is None:
        return normalised(_plain(completion if marked is None else marked)) == normalised(answer)
    if marked is None:
        lines = [a for a in _hashed_lines(completion) if number(_plain(a)) is not None]
        marked = lines[-1] if lines else completion
    given = last_number(_plain(marked))
    if given is None:
        return False
    reached = {number(given), number(_bare(given))} - {None}
    return bool({wanted, number(_bare(answer))} & reached)


def _bare(text: str) -> str:
    """A text without a sign for "per cent" at its end."""
    text = text.rstrip()
    unit = next((u for u in _PERCENT if text.endswith(u)), "")
    return text.removesuffix(unit).rstrip()


def _plain(text: str) -> str:
    """LaTeX of simple answers as text: fractions with a slash, no wrappers, no spacing."""
    if "\\" not in text and "$" not in text:
        return text
    text = _SPACING.sub("", text.replace("\\%", "%").replace("\\$", ""))
    text = _WRAPPED.sub(r"\1", text)
    return _FRACTION.sub(lambda f: f"{f[1] or f[2]}/{f[3] or f[4]}", text)
