"""Arrays that wait on disk: written once, block by block, and read back a piece at a time.

The files have no name: they are gone with the process that made them, however it ends. What is read
back lies in ordinary memory, which a memory map would also fill page by page.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Rows dealt out to numbered buckets, of which one is read at a time.

    Attributes:
        number: how many buckets there are.
        dtype: of a row; a row may be an array.
        file: where they lie, one block of rows after the other, each sorted by bucket.
        starts: of each block, the place in the file at which each bucket begins, and its end.
    """

    number: int
    dtype: np.dtype[Any]
    file: int
    starts: list[Ints] = field(default_factory=list)

    def append(self, bucket_N: Ints, row_N: Array) -> None:
        """Add rows; those of one bucket stay in order."""
        # small numbers are sorted by radix
        small_N: Array = bucket_N.astype(np.uint16) if self.number <= 1 << 16 else bucket_N
        order_N = np.argsort(small_N, kind="stable")
        count_K = np.bincount(bucket_N, minlength=self.number)
        first = self.starts[-1][-1] if self.starts else 0
        self.starts.append(first + np.concatenate(([0], np.cumsum(count_K))) * self.dtype.itemsize)
        _write(self.file, row_N[order_N])

    def read(self, bucket: int) -> Array:
        """The rows of one bucket, in the order in which they came."""
        bounds = [(int(s[bucket]), int(s[bucket + 1])) for s in self.starts]
        raw = np.empty(sum(end - begin for begin, end in bounds), np.uint8)
        at = 0
        for begin, end in bounds:
            _read(self.file, raw[at : at + end - begin], begin)
            at += end - begin
        return np.frombuffer(raw, self.dtype)


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Lists of various lengths, read one at a time by their number.

    Attributes:
        dtype: of an element.
        file: where they lie, one after the other.
        lengths: elements of each list, block by block.
    """

    dtype: np.dtype[Any]
    file: int
    lengths: list[Ints] = field(default_factory=list)

    def append(self, value_L: Array, length_N: Ints) -> None:
        """Add lists, given end to end."""
        assert len(value_L) == length_N.sum()
        self.lengths.append(length_N)
        _write(self.file, value_L)

    def begins(self) -> Ints:
        """Where each list begins, in elements, and where the last one ends."""
        return np.concatenate(([0], *self.lengths)).cumsum(dtype=np.int64)

    def read(self, begin: int, end: int) -> Array:
        """The elements between two places of `begins`."""
        found = np.empty(end - begin, self.dtype)
        _read(self.file, found.view(np.uint8), begin * self.dtype.itemsize)
        return found


@contextmanager
def buckets(number: int, dtype: DTypeLike, folder: Path | None = None) -> Iterator[Buckets]:
    """Empty buckets in a file of a folder (the system's for temporary files by default)."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        yield Buckets(number=number, dtype=np.dtype(dtype), file=file.fileno())


@contextmanager
def lists(dtype: DTypeLike, folder: Path | None = None) -> Iterator[Lists]:
    """No lists yet, in a file of a folder (the system's for temporary files by default)."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        yield Lists(dtype=np.dtype(dtype), file=file.fileno())


def _write(file: int, rows: Array) -> None:
    left = memoryview(np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data)
    while left:
        left = left[os.write(file, left) :]


def _read(file: int, into: NDArray[np.uint8], begin: int) -> None:
    left = memoryview(into.data)
    while left:
        count = os.preadv(file, [left], begin)
        assert count, "a file of this process became shorter"
        left, begin = left[count:], begin + count
