"""Repetition: texts that say the same again and again, by Gopher's rules and thresholds.

Rae et al., "Scaling Language Models" (Gopher), arXiv:2112.11446, table A1. They were made for web
documents of at least 50 words, so shorter texts always stay. On worked mathematics they raise false
alarms: `benchmarks/filters.py` counts 9 % of GSM8K's answers, so leave this one out there. Two
departures: shares of n-grams are shares of words, not of characters; and the rules look at one part
of a record.
"""

# L = words of a run, W = n-grams, N = texts

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.clean.text import (
    Hashes,
    Offsets,
    mix,
    ngram_hashes,
    slices,
    word_hashes,
)
from gristmill.pipeline.records.text import Part, texts

Shares = NDArray[np.float64]

TOP = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """Drops texts that say the same again and again: `repetition: 5-gram 0.41`.

    Attributes:
        part: what is looked at, its prose.
        min_words: shorter texts stay.
        top: n -> most that the commonest n-gram may cover.
        repeated: n -> most that n-grams which occurred before may cover.
        lines: most that repeated lines, and repeated paragraphs, may be of all.
    """

    part: Part = "answer"
    min_words: int = 50
    top: Mapping[int, float] = field(default_factory=lambda: dict(TOP))
    repeated: Mapping[int, float] = field(default_factory=lambda: dict(REPEATED))
    lines: float = 0.30

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        text = texts(records, self.part, "prose")
        why: list[str | None] = []
        for run in slices(text):
            why += self._run(text[run])
        return pl.Series("why", why, dtype=pl.String)

    def _run(self, text: pl.Series) -> list[str | None]:
        word_L, begin_N1 = word_hashes(text)
        long_N = np.diff(begin_N1) >= self.min_words
        found: list[tuple[str, Shares, float]] = []
        for name, pattern in (("lines", "\n"), ("paragraphs", "\n\n")):
            found.append((name, _repeated_parts(text, long_N, pattern), self.lines))
        for n, most in self.top.items():
            found.append((f"top {n}-gram", top_share(word_L, begin_N1, n), most))
        for n, most in self.repeated.items():
            found.append((f"{n}-gram", repeated_share(word_L, begin_N1, n), most))
        why: list[str | None] = [None] * len(text)
        for name, share_N, most in reversed(found):
            for i in np.flatnonzero(long_N & (share_N > most)):
                why[i] = f"repetition: {name} {share_N[i]:.2f}"
        return why


def top_share(word_L: Hashes, begin_N1: Offsets, n: int) -> Shares:
    """Share of each text's words that its commonest n-gram covers, if it occurs twice."""
    text_W, gram_W, _ = _grams(word_L, begin_N1, n)
    key_W = gram_W ^ mix(text_W.astype(np.uint64))
    _, first, count = np.unique(key_W, return_index=True, return_counts=True)
    most_N = np.zeros(len(begin_N1) - 1)
    np.maximum.at(most_N, text_W[first], np.where(count > 1, count, 0))
    return np.minimum(1.0, n * most_N / np.maximum(1, np.diff(begin_N1)))


def repeated_share(word_L: Hashes, begin_N1: Offsets, n: int) -> Shares:
    """Share of each text's words that lie in n-grams which occurred before in it."""
    text_W, gram_W, word_W = _grams(word_L, begin_N1, n)
    _, first = np.unique(gram_W ^ mix(text_W.astype(np.uint64)), return_index=True)
    again_W = np.ones(len(gram_W), bool)
    again_W[first] = False
    depth_L1 = np.zeros(len(word_L) + 1, np.int64)
    np.add.at(depth_L1, word_W[again_W], 1)
    np.add.at(depth_L1, word_W[again_W] + n, -1)
    covered_L1 = np.concatenate(([0], np.cumsum(np.cumsum(depth_L1)[:-1] > 0)))
    return np.diff(covered_L1[begin_N1]) / np.maximum(1, np.diff(begin_N1))


def _grams(word_L: Hashes, begin_N1: Offsets, n: int) -> tuple[Offsets, Hashes, Offsets]:
    """Of each n-gram: its text, its hash, and its first word."""
    gram_W, first_N1 = ngram_hashes(word_L, begin_N1, n, whole=False)
    text_W = np.repeat(np.arange(len(begin_N1) - 1), np.diff(first_N1))
    return text_W, gram_W, np.arange(len(gram_W)) - first_N1[text_W] + begin_N1[text_W]


def _repeated_parts(text: pl.Series, long_N: NDArray[np.bool_], separator: str) -> Shares:
    share_N = np.zeros(len(text))
    for i in np.flatnonzero(long_N):
        parts = [p.strip() for p in text[int(i)].split(separator) if p.strip()]
        share_N[i] = 1 - len(set(parts)) / len(parts)
    return share_N
