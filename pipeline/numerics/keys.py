"""Keys: values as unsigned integers that sort as the values do, so that any order is a radix order.

A float64 becomes the 64 bits that compare like it; a content id (32 hex digits) becomes two words.
"""

# N = rows

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.pipeline.numerics.ordering import Floats, floats, tied

Keys = NDArray[np.uint64]
NULL = np.uint64(0)  # below minus infinity
NAN = np.uint64(2**64 - 1)  # above infinity
_SIGN = np.uint64(1 << 63)
_ID_LENGTH = 32
_WORDS = _ID_LENGTH // 8  # of eight digits
_CHUNK = 8_192  # rows that are packed together, so that what they take stays in the cache
_U = [np.uint64(i) for i in range(17)]
_ONES = np.uint64(0x0101010101010101)
_DIGITS, _BYTES = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x00FF00FF00FF00FF)
_PAIRS, _LOW, _HALF = np.uint64(0x0000FFFF0000FFFF), np.uint64(0xFFFFFFFF), np.uint64(32)


def ordered(value_N: NDArray[Any]) -> Keys:
    """Numbers as keys in the same order; both zeros are one, NaN comes last."""
    if value_N.dtype.kind in "iu":
        return value_N.astype(np.int64).view(np.uint64) ^ _SIGN
    value_N = value_N.astype(np.float64) + 0.0
    bits = value_N.view(np.uint64)
    keys = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    keys[np.isnan(value_N)] = NAN
    return keys


def values(key_N: Keys) -> Floats:
    """The floats behind keys; NaN for a null."""
    bits = np.where(key_N & _SIGN, key_N ^ _SIGN, ~key_N)
    return bits.view(np.float64)


def column_keys(column: pl.Series) -> Keys:
    """A numeric column as keys; nulls come first."""
    keys = ordered(floats(column))
    if column.null_count():
        keys[column.is_null().to_numpy()] = NULL
    return keys


def sorted_by(keys: "tuple[Keys, ...]") -> NDArray[np.int64]:
    """Positions of the rows in the order of several keys, the first one foremost."""
    first, *rest = keys
    at = np.argsort(first)
    if rest:
        tied_N = tied(first[at])
        rows = at[tied_N]
        rows = rows[sorted_by(tuple(k[rows] for k in rest))]
        at[tied_N] = rows[np.argsort(first[rows], kind="stable")]
    return at


def packed(ids: pl.Series) -> tuple[Keys, Keys] | None:
    """Content ids as two keys; None if one of them is no content id (32 lower-case hex digits)."""
    if ids.null_count() or not (ids.str.len_bytes() == _ID_LENGTH).all():
        return None
    text = ids.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    start = int(np.frombuffer(text.buffers()[1], np.int64)[text.offset]) if len(ids) else 0
    raw = np.frombuffer(text.buffers()[2] or b"", np.uint8)[start:][: len(ids) * _ID_LENGTH]
    char_NW = raw.view(np.uint64).reshape(-1, _WORDS)
    high_N, low_N = np.empty(len(ids), np.uint64), np.empty(len(ids), np.uint64)
    for at in range(0, len(ids), _CHUNK):
        here = slice(at, at + _CHUNK)
        digit_NW = _digits(char_NW[here])
        if digit_NW is None:
            return None
        word_NW = _closed(digit_NW.byteswap())  # the first digit is the highest
        high_N[here] = word_NW[:, 0] << _HALF | word_NW[:, 1]
        low_N[here] = word_NW[:, 2] << _HALF | word_NW[:, 3]
    return high_N, low_N


def unpacked(high_N: Keys, low_N: Keys) -> pl.Series:
    """The content ids of two keys each."""
    char_NW = np.empty((len(high_N), _WORDS), np.uint64)
    for at in range(0, len(high_N), _CHUNK):
        here = slice(at, at + _CHUNK)
        high, low = high_N[here], low_N[here]
        word_NW = np.stack([high >> _HALF, high & _LOW, low >> _HALF, low & _LOW], axis=1)
        char_NW[here] = _characters(_opened(word_NW).byteswap())
    offsets = np.arange(len(high_N) + 1, dtype=np.int64) * _ID_LENGTH
    raw = [pa.py_buffer(offsets), pa.py_buffer(char_NW)]
    return pl.Series("id", pa.LargeStringArray.from_buffers(len(high_N), *raw), pl.String)


def _digits(char_NW: Keys) -> Keys | None:
    """Text as hex digits, one a byte."""
    digit_NW = (char_NW & _DIGITS) + (char_NW >> _U[6] & _ONES) * _U[9]
    if (digit_NW & ~_DIGITS).any() or not np.array_equal(_characters(digit_NW), char_NW):
        return None
    return digit_NW


def _characters(digit_NW: Keys) -> Keys:
    """Hex digits, one a byte, as text."""
    letter_NW = (digit_NW + _ONES * _U[6]) >> _U[4] & _ONES
    return digit_NW + _ONES * np.uint64(ord("0")) + letter_NW * np.uint64(ord("a") - ord("0") - 10)


def _closed(digit_NW: Keys) -> Keys:
    """Eight digits of a byte each as 32 bits."""
    for shift, mask in zip((4, 8, 16), (_BYTES, _PAIRS, _LOW), strict=True):
        digit_NW = (digit_NW | digit_NW >> _U[shift]) & mask
    return digit_NW


def _opened(word_NW: Keys) -> Keys:
    """32 bits as eight digits of a byte each."""
    for shift, mask in zip((16, 8, 4), (_PAIRS, _BYTES, _DIGITS), strict=True):
        word_NW = (word_NW | word_NW << _U[shift]) & mask
    return word_NW
