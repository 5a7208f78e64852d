"""The keys of all rows of a run, in eight bytes each: no two rows may share (id, source, row)."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Keys:
    """A growing set of hashed keys.

    Attributes:
        runs: sorted hashes, each run more than twice as long as the next: a look-up takes a few
            searches, and adding copies each hash a few times in all.
        numbers: of a key that was met again, the next number to try, so that the thousandth copy of
            a row does not try the names of the 998 before it.
    """

    runs: list[Hashes] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)

    def add(self, keys: Iterable[tuple[str, str, int]]) -> None:
        """Take in keys: id, source, row."""
        self._add([_hash(*key) for key in keys])

    def tell_apart(self, records: list[dict[str, Any]]) -> None:
        """Rename the source of each record whose key is taken (s, s#2, s#3 ...); take in the keys.

        Later records give way to earlier ones, so the result does not depend on how the records
        of a run are divided among calls.
        """
        hashes = hashed(records)
        taken = self._held(hashes)
        mine: set[int] = set()
        for record, key, clash in zip(records, hashes.tolist(), taken.tolist(), strict=True):
            if clash or key in mine:
                mine.add(self._rename(record, key, mine))
            else:
                mine.add(key)
        self._add(list(mine))

    def take(self, hashes: Hashes) -> bool:
        """Take in the hashed keys of records, if no two of them and of those here are equal."""
        if len(np.unique(hashes)) < len(hashes) or self._held(hashes).any():
            return False
        self._add(hashes.tolist())
        return True

    def _rename(self, record: dict[str, Any], key: int, mine: set[int]) -> int:
        for number in itertools.count(self.numbers.get(key, 2)):
            source = f"{record['source']}#{number}"
            other = _hash(record["id"], source, record["row"])
            if other not in mine and not self._held(np.array([other], np.uint64))[0]:
                self.numbers[key] = number + 1
                record["source"] = source
                return other
        raise AssertionError("numbers do not end")

    def _held(self, hashes: Hashes) -> NDArray[np.bool_]:
        found = np.zeros(len(hashes), bool)
        for run in self.runs:
            place = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            found |= run[place] == hashes
        return found

    def _add(self, hashes: list[int]) -> None:
        if not hashes:
            return
        run = np.sort(np.array(hashes, np.uint64))
        while self.runs and len(self.runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self.runs.pop(), run]))
        self.runs.append(run)


def hashed(records: Iterable[Mapping[str, Any]]) -> Hashes:
    """The hashed keys of records."""
    return np.array([_hash(r["id"], r["source"], r["row"]) for r in records], np.uint64)


def _hash(ident: str, source: str, row: int) -> int:
    data = f"{ident}\0{row}\0{source}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
