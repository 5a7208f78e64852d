"""Texts as words: the one implementation behind every cleaner (`record_text` has the texts).

Words are runs of letters, digits and combining marks after NFKC and lower case. Scripts written
without spaces (Han, kana, Thai, Lao, Khmer, Burmese) count one word a character, so that n-grams
exist there too. Words and word n-grams are compared by 64-bit hashes, computed with numpy for a
whole block of texts at a time: two different ones among a billion agree with probability 3 %,
two different ones of the same pair of texts practically never.
"""

# L = bytes or words of a block, W = windows (words or n-grams), N = texts

import functools
import itertools
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

T = TypeVar("T", bound=np.integer[Any])
Hashes = NDArray[np.uint64]
Offsets = NDArray[np.int64]

_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2**64
_GAP = ord(" ")


def spaced(text: pl.Series) -> pl.Series:
    """The words of each text, in order, with spaces between them."""
    return _folded(text).str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}\p{M}]+", " ")


def words(text: str) -> list[str]:
    """The words of one text."""
    return str(spaced(pl.Series([text], dtype=pl.String))[0]).split()


def word_counts(text: pl.Series) -> pl.Series:
    """Number of words of each text."""
    return pl.Series([len(t.split()) for t in spaced(text)], dtype=pl.Int64)


def slices(text: pl.Series, size: int = 1_000_000) -> list[slice]:
    """Cut texts into runs of about `size` bytes (or one longer text), to work in the cache."""
    size_N = text.str.len_bytes().fill_null(0).to_numpy().astype(np.int64)
    run_N = np.cumsum(size_N) // size
    starts = np.flatnonzero(np.diff(run_N, prepend=-1, append=-1))
    return [slice(start, stop) for start, stop in itertools.pairwise(starts.tolist())]


def word_hashes(text: pl.Series) -> tuple[Hashes, Offsets]:
    """Hashes of the words of all texts, and N+1 offsets: text i has words offsets[i:i+2]."""
    folded = _folded(text)
    # One byte between texts keeps the last word of one apart from the first of the next.
    first_N = _offsets(folded.str.len_bytes().to_numpy().astype(np.int64) + 1)[:-1]
    byte_L = _plain()[np.frombuffer("\n".join(folded).encode(), np.uint8)]
    inside_L = np.zeros(len(byte_L) + 2, bool)
    np.not_equal(byte_L, _GAP, out=inside_L[1:-1])
    edges_L = np.flatnonzero(inside_L[1:] != inside_L[:-1])
    begin_W, end_W = edges_L[::2], edges_L[1::2]
    offsets_N1 = np.append(np.searchsorted(begin_W, first_N), len(begin_W))
    return window_hashes(_alphabet()[byte_L], begin_W, end_W), offsets_N1


def _folded(text: pl.Series) -> pl.Series:
    """Texts whose words are separated by ASCII characters alone; pure ASCII is left as it is."""
    text = text.fill_null("")
    foreign = text.str.len_bytes() != text.str.len_chars()
    if not foreign.any():
        return text
    clean = (
        text.filter(foreign)
        .str.normalize("NFKC")
        .str.to_lowercase()
        .str.replace_all(rf"([{_SPACELESS}])", " $1 ")
        .str.replace_all(r"[^\p{L}\p{N}\p{M}]+", " ")
    )
    return text.scatter(foreign.arg_true(), clean)


def ngram_hashes(
    word_L: Hashes, offsets_N1: Offsets, n: int, *, whole: bool
) -> tuple[Hashes, Offsets]:
    """Hashes of the word n-grams of each text, in order and with repeats, and their offsets.

    Args:
        word_L: hashes of the words, text after text.
        offsets_N1: where each text begins.
        n: words in an n-gram.
        whole: whether a text of fewer than n words counts as one n-gram (else it has none).
    """
    length_N = np.diff(offsets_N1)
    count_N = np.maximum(length_N - n + 1, 0)
    if whole:
        count_N = np.where((length_N > 0) & (length_N < n), 1, count_N)
    out_N1 = _offsets(count_N)
    within_W = np.arange(out_N1[-1]) - np.repeat(out_N1[:-1], count_N)
    begin_W = within_W + np.repeat(offsets_N1[:-1], count_N)
    end_W = np.minimum(begin_W + n, np.repeat(offsets_N1[1:], count_N))
    return window_hashes(word_L, begin_W, end_W), out_N1


def window_hashes(value_L: Hashes, begin_W: Offsets, end_W: Offsets) -> Hashes:
    """Hash of every window value_L[begin:end], in constant time a window.

    The windows are read off one running sum of value[i] * base**i; multiplying by the inverse of
    base**begin makes the result independent of where the window lies.
    """
    power_L, inverse_L = _powers(1 << len(value_L).bit_length())
    sum_L1 = np.zeros(len(value_L) + 1, np.uint64)
    np.cumsum(value_L * power_L[: len(value_L)], out=sum_L1[1:])
    return mix((sum_L1[end_W] - sum_L1[begin_W]) * inverse_L[begin_W])


def distinct(value: NDArray[T]) -> NDArray[T]:
    """The values in order without repeats; several times as fast as `np.unique` on hashes."""
    ordered = np.sort(value)
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    found: NDArray[T] = ordered[first]
    return found


def mix(value: Hashes) -> Hashes:
    """Spread the bits of 64-bit numbers evenly (the finaliser of splitmix64)."""
    value = value ^ (value >> np.uint64(30))
    value = value * np.uint64(0xBF58476D1CE4E5B9)
    value = value ^ (value >> np.uint64(27))
    value = value * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@functools.cache
def _alphabet() -> Hashes:
    return mix(np.arange(1, 257, dtype=np.uint64) * np.uint64(_BASE))


@functools.cache
def _plain() -> NDArray[np.uint8]:
    """Lower case of ASCII letters, digits and all foreign bytes as they are, the rest a gap."""
    kept = [chr(i).lower() if i < 128 and chr(i).isalnum() else chr(_GAP) for i in range(128)]
    return np.array([*map(ord, kept), *range(128, 256)], np.uint8)


@functools.cache  # a handful of powers of two
def _powers(size: int) -> tuple[Hashes, Hashes]:
    power = np.full(size, _BASE, np.uint64)
    inverse = np.full(size, pow(_BASE, -1, 2**64), np.uint64)
    power[0] = inverse[0] = 1
    return np.multiply.accumulate(power), np.multiply.accumulate(inverse)


def _offsets(count_N: Offsets) -> Offsets:
    return np.concatenate(([0], np.cumsum(count_N, dtype=np.int64)))
