"""Candidates of near duplicates: rows whose signatures agree in some band.

The hashes of all bands wait on disk, dealt out by band and hash, so that no more than one bucket is
ever sorted; what stays in memory are the groups of two rows or more.
"""

# N = rows, b = bands, P = pairs of a row and a group, C = rows of any group, G = groups

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.clean.text import Hashes, mix
from gristmill.pipeline.numerics.spill import Buckets, Ints, buckets

BUCKET = 1 << 22  # entries of a bucket that are sorted at a time
ENTRY = [("hash", np.uint64), ("row", np.int64)]


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The rows that agree with any other, and their groups.

    Attributes:
        row_C: their numbers, ascending.
        begin_C1: where the groups of each begin in `group_P`.
        group_P: groups, row by row.
        begin_G1: where each group begins among all members of all groups.
    """

    row_C: Ints
    begin_C1: Ints
    group_P: Ints
    begin_G1: Ints


@dataclass(frozen=True, kw_only=True)
class Bands:
    """The band hashes of rows, one block after the other."""

    bands: int
    split: int  # buckets of a band
    held: Buckets

    def append(self, band_Nb: Hashes, first: int) -> None:
        """Add rows, numbered from `first` on."""
        entry_bN = np.empty((self.bands, len(band_Nb)), ENTRY)
        entry_bN["hash"] = band_Nb.T
        entry_bN["row"] = first + np.arange(len(band_Nb))
        within_bN = (entry_bN["hash"] % np.uint64(self.split)).astype(np.int64)
        bucket_bN = within_bN + np.arange(self.bands)[:, None] * self.split
        self.held.append(bucket_bN.ravel(), entry_bN.ravel())

    def groups(self, rank_N: Ints) -> Groups:
        """The groups, with every row named by its rank, and in order of it within a group.

        Rows that are alike agree in many bands, and in each with the same others: equal groups are
        kept once, as they make the same candidates.
        """
        members = [np.zeros(0, np.int64)]
        sizes = [np.zeros(0, np.int64)]
        known = np.zeros(0, np.uint64)
        for bucket in range(self.held.number):
            member_P, begin_G = _shared(self.held.read(bucket), rank_N)
            if not len(begin_G):
                continue
            size_G = np.diff(begin_G, append=len(member_P))
            # a sum of well mixed hashes tells sets apart as surely as any hash of 64 bits
            name_G = np.add.reduceat(mix(member_P.astype(np.uint64) + np.uint64(1)), begin_G)
            fresh_G = ~np.isin(name_G, known)
            known = np.union1d(known, name_G)
            members.append(member_P[np.repeat(fresh_G, size_G)])
            sizes.append(size_G[fresh_G])
        size_G, member_P = np.concatenate(sizes), np.concatenate(members)
        group_P = np.repeat(np.arange(len(size_G)), size_G)
        order_P = np.argsort(member_P, kind="stable")
        row_C, begin_C = np.unique(member_P[order_P], return_index=True)
        return Groups(
            row_C=row_C,
            begin_C1=np.append(begin_C, len(order_P)),
            group_P=group_P[order_P],
            begin_G1=np.concatenate(([0], np.cumsum(size_G))),
        )


@contextmanager
def banded(bands: int, rows: int, scratch: Path | None = None) -> Iterator[Bands]:
    """Room for the bands of at most so many rows, in a file of a folder."""
    split = max(1, -(-rows // BUCKET))
    with buckets(bands * split, ENTRY, scratch) as held:
        yield Bands(bands=bands, split=split, held=held)


def _shared(entries: NDArray[Any], rank_N: Ints) -> tuple[Ints, Ints]:
    """Members of all groups of one bucket, group by group and by rank, and where each begins."""
    order_P = np.argsort(entries["hash"])
    hash_P = entries["hash"][order_P]
    again_P = np.zeros(len(hash_P) + 1, bool)  # the same hash as the one before
    np.equal(hash_P[1:], hash_P[:-1], out=again_P[1:-1])
    shared_P = again_P[1:] | again_P[:-1]
    group_P = np.cumsum(~again_P[:-1][shared_P])
    member_P = rank_N[entries["row"][order_P[shared_P]]]
    by_P = np.lexsort((member_P, group_P))
    return member_P[by_P], np.flatnonzero(np.diff(group_P, prepend=0))
