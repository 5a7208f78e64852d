"""Verification: is a generated pair right, grounded, self-contained, and new?

A check is a pure function that returns None or the reason to reject; model-based checks are a pair
of pure functions, prompt and parse, with the completion client between them. Nothing is dropped:
a rejected candidate keeps its reason, a kept one the scores it passed with.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from gristmill.pipeline.clean.text import words as _split
from gristmill.pipeline.numerics.answers import final_answer, key_of, normalised, same


@lru_cache(maxsize=10_000)
def words(text: str) -> tuple[str, ...]:
    """The words of a text; remembered, for every check of a candidate asks for them."""
    return tuple(_split(text))


# ----------------------------------------------------------------------------- are two answers one?


def agrees(expected: str, given: str) -> bool:
    """Does a free answer say the expected one?

    The same answer; or a short expected one (up to 8 words) word for word inside it; or, for a long
    one, half of the words of both in common order (ROUGE-L F of 0.5).
    """
    if same(expected, given):
        return True
    want, got = words(expected), words(final_answer(given))
    if not want or not got:
        return False
    if len(want) <= 8:
        return holds(got, want)
    return rouge_l(want, got) >= 0.5


def holds(text: Sequence[str], part: Sequence[str]) -> bool:
    """Is `part` a run of consecutive words of `text`?"""
    return f" {' '.join(part)} " in f" {' '.join(text)} "  # a word has no space in it


# ------------------------------------------------------------------------------ several opinions


def majority(answers: Sequence[str | None]) -> str | None:
    """The answer that most voters give, or None.

    Null answers do not vote. The winner needs more than half of the votes cast, and at least two:
    a lone voter is no majority, and a tie is none either.
    """
    cast = [a for a in answers if a is not None and a.strip()]
    votes = Counter(key_of(a) for a in cast)
    if not votes:
        return None
    winner, count = max(votes.items(), key=lambda v: (v[1], v[0]))
    if count < 2 or 2 * count <= len(cast):
        return None
    return next(a for a in cast if key_of(a) == winner)


def round_trip(
    answer: str, open_book: Sequence[str | None], closed_book: Sequence[str | None]
) -> str | None:
    """Does the question need its document, and does the document answer it?

    Args:
        answer: of the candidate.
        open_book: answers of a model that sees question and document; most must agree.
        closed_book: answers of the same model that sees the question alone. It must fail, or the
            document must gain at least half of the answers.
    """
    with_text = share(answer, open_book)
    without = share(answer, closed_book)
    if with_text <= 0.5:
        return f"open_book: {with_text:.0%} of {len(open_book)} answers agree"
    if without > 0 and with_text - without < 0.5:
        return f"closed_book: known without the document ({without:.0%} against {with_text:.0%})"
    return None


def share(answer: str, given: Sequence[str | None]) -> float:
    """How many of the given answers agree with the one; a null answer does not."""
    if not given:
        raise ValueError("round_trip got no answers to compare: ask the model at least once")
    return sum(g is not None and agrees(answer, g) for g in given) / len(given)


# ------------------------------------------------------------------------------------- plain checks

_SAY_LITTLE: Final = (
    "the and for are was were not that this with from its his her they yes none null true false "
    "unknown n/a what who when where which how why"
)
_MENTIONS: Final = re.compile(
    r"\b(?:according to|in|from|of|by|based on|mentioned in|does|as)\s+(?:the|this|that|above)\s+"
    r"(?:above\s+|given\s+|provided\s+)?"
    r"(?:text|passage|document|material|article|excerpt|paragraph|context|chapter|section|author)\b"
    r"|</?document",
    re.IGNORECASE,
)


def badly_formed(question: str, answer: str) -> str | None:
    """Empty, an echo of the question, or a question about "the passage", which no reader has."""
    if not words(question) or not words(answer):
        return "form: question or answer is empty"
    if normalised(question) == normalised(answer):
        return "form: the answer repeats the question"
    found = _MENTIONS.search(question)
    if found is not None:
        return f"form: the question speaks of its source ({found[0]!r})"
    return None


def leaked(question: str, answer: str) -> str | None:
    """The question contains its answer (of 3 characters or more; stop words, yes and no aside)."""
    short = normalised(answer)
    if len(short) < 3 or short in _SAY_LITTLE.split():
        return None
    if holds(words(question), words(short)):
        return f"leak: the question contains {short!r}"
    return None


def ungrounded(answer: str, document: str, evidence: str | None = None) -> str | None:
    """A quoted sentence that the document does not contain, or a number it never names.

    Without a quotation the document must hold the answer itself, word for word: to leave the
    evidence out is no way around the check.

    Args:
        answer: of the candidate.
        document: what it was made from.
        evidence: the sentence that the extractor says it rests on, if it named one.
    """
    if evidence is None:
        if not words(answer) or not holds(words(document), words(answer)):
            return "ungrounded: no evidence is quoted and the document does not hold the answer"
    elif not words(evidence) or not holds(words(document), words(evidence)):
        return "ungrounded: the quoted evidence is not in the document"
    known = set(_values(document))
    missing = [text for value, text in _values(answer).items() if value not in known]
    if missing:
        return f"ungrounded: the document has no {missing[0]}"
    return None


def _values(text: str) -> dict[Fraction, str]:
    text = unicodedata.normalize("NFKC", text)
    # "1/2" is two numbers here: a document may name a fraction's parts apart.
    found = re.findall(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?", text)
    return {Fraction(t.replace(",", "")): t for t in found}


# ------------------------------------------------------------------------------------------ novelty


def rouge_l(one: Sequence[str], two: Sequence[str]) -> float:
    """F of the longest common subsequence of two word lists (Lin 2004): 1 = the same words."""
    if not one or not two:
        return 0.0
    return 2.0 * _common(one, two) / (len(one) + len(two))


def _common(one: Sequence[str], two: Sequence[str]) -> int:
    """Length of the longest common subsequence, one machine word of columns at a time.

    Bit i of `row` is 0 where the table grows at column i (Hyyroe 2004); Python's integers are as
    long as the shorter list.
    """
    if len(two) < len(one):
        one, two = two, one
    where: dict[str, int] = defaultdict(int)
    for i, word in enumerate(one):
        where[word] |= 1 << i
    full = (1 << len(one)) - 1
    row = full
    for word in two:
        match = row & where.get(word, 0)
        row = ((row + match) | (row - match)) & full
    return len(one) - row.bit_count()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Texts that a new one must differ from: seeds, published rows, and what was accepted before.

    `nearest` finds the text of highest ROUGE-L among those at or above `limit`. Rare words decide
    which texts are compared at all; none that reaches the limit is missed.
    """

    limit: float = 0.7  # Self-Instruct's
    _texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _holders: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.limit <= 1:
            raise ValueError(f"limit={self.limit} is no ROUGE-L: give a share above 0, at most 1")

    def add(self, ident: str, text: str) -> None:
        """Remember a text; an id that is known already changes nothing."""
        if ident in self._texts:
            return
        split = words(text)
        for word in dict.fromkeys(split):
            self._holders.setdefault(word, []).append(ident)
        self._texts[ident] = split

    def update(self, texts: Iterable[tuple[str, str]]) -> None:
        """Remember many (id, text)."""
        for ident, text in texts:
            self.add(ident, text)

    def nearest(self, text: str) -> tuple[str, float] | None:
        """(id, ROUGE-L) of the nearest text at or above the limit; ties go to the smaller id."""
        split = words(text)
        if not split:
            return None
        # F >= limit with a text of m words needs limit * (n + m) / 2 words in common, and no more
        # than m can be: so at least `need` of our n occur there, and of any n - need + 1 at least
        # one. The rarest are asked.
        need = max(1, math.ceil(self.limit * len(split) / (2.0 - self.limit) - 1e-9))
        rare = sorted(split, key=lambda w: (len(self._holders.get(w, ())), w))
        near = {i for w in rare[: len(split) - need + 1] for i in self._holders.get(w, ())}
        bag = Counter(split)
        best: tuple[float, str] | None = None
        for i in near:
            other = self._texts[i]
            target = self.limit * (len(split) + len(other)) / 2.0
            if min(len(split), len(other)) < target - 1e-9:
                continue
            if sum((bag & Counter(other)).values()) < target - 1e-9:
                continue
            value = rouge_l(split, other)
            if value >= self.limit and (best is None or (-value, i) < best):
                best = (-value, i)
        return None if best is None else (best[1], -best[0])


def repeated(question: str, seen: Seen) -> str | None:
    """The question is too near to a seed, a published row, or an accepted question."""
    near = seen.nearest(question)
    return None if near is None else f"not_novel: ROUGE-L {near[1]:.3f} with {near[0]}"


# -------------------------------------------------------------------------------- a model's opinion

CHECK_PROMPT: Final = """You check one question and answer made from a document.
Say, as JSON with the keys has_context, answer_correct and info_leak, all true or false:
- has_context: the question can be understood without seeing the document;
- answer_correct: the document supports the answer, fully and without error;
- info_leak: the question gives its answer away."""
CHECK_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {k: {"type": "boolean"} for k in ("has_context", "answer_correct", "info_leak")},
    "required": ["has_context", "answer_correct", "info_leak"],
    "additionalProperties": False,
}


def check_verdict(value: Mapping[str, bool]) -> str | None:
    """Accept only: context given, answer correct, nothing leaked."""
    if not value["has_context"]:
        return "check: the question lacks its context"
    if not value["answer_correct"]:
        return "check: the document does not support the answer"
    if value["info_leak"]:
        return "check: the question gives its answer away"
    return None
