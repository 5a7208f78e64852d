"""Hashed n-grams of words: which buckets a text falls into, and how often a dataset does."""

# N = rows, B = buckets, G = n-grams of a row

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import regex

from gristmill.pipeline.contracts import Context, Prepared, Recipe
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.store import Entry, Step, Store
from gristmill.pipeline.records.tasks import TASK_COLUMNS, tasks_of
from gristmill.pipeline.signals.views import plain_text
from gristmill.selectors.data_space import Rows, counted, summed

VERSION = 2
KNOWN = 1 << 20  # n-grams whose bucket is remembered
# `re` would tear a word at its combining marks, so that Hindi falls into letters
WORD = regex.compile(r"\w+|[^\w\s]+")

Ints = npt.NDArray[np.int64]


class Buckets(dict[str, int]):
    """The bucket of each n-gram: its SHA-256 as a number, modulo the buckets."""

    def __init__(self, buckets: int) -> None:
        super().__init__()
        self.buckets = buckets

    def __missing__(self, ngram: str) -> int:
        if len(self) >= KNOWN:
            self.clear()
        raw = hashlib.sha256(ngram.encode()).digest()
        found = self[ngram] = int.from_bytes(raw, "big") % self.buckets
        return found


@lru_cache(maxsize=2)
def buckets_of(buckets: int) -> Buckets:
    """The same ones for all texts of a process."""
    return Buckets(buckets)


def ngrams(text: str, n: int, buckets: int) -> tuple[int, Ints]:
    """How many words a text has, and the bucket of each n-gram of 1 to n of them."""
    words = WORD.findall(text.lower())
    bucket = buckets_of(buckets).__getitem__
    found = list(map(bucket, words))
    for size in range(2, n + 1):
        runs = zip(*(words[k:] for k in range(size)), strict=False)
        found += map(bucket, map(" ".join, runs))
    return len(words), np.array(found, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class NgramCounts(Recipe):
    """Count the hashed n-grams of the pool and of the reference set, shard by shard.

    It makes the artifact "ngram_counts": `bucket`, and its number in the `pool` and the `target`;
    by task in each `target_<task>` too.

    Attributes:
        n: words of the longest n-grams.
        buckets: of the hash.
        by_task: the tasks of the reference set are also counted one by one.
    """

    artifact: ClassVar[str] = "ngram_counts"
    reads_weights: ClassVar[bool] = False
    base: str = ""
    n: int = 2
    buckets: int = 10_000
    by_task: bool = False

    def make(self, context: Context) -> Prepared:
        assert context.reference is not None, "the method requires a reference set"
        store, target = context.models.store, context.reference
        entries = [*self._of(store, context.pool, "pool"), *self._of(store, target, "target")]
        notes = []
        if self.by_task:
            sizes = {}
            tasks = tasks_of(target.frame(["id", *TASK_COLUMNS]))
            for (task,), rows in tasks.group_by("task", maintain_order=True):
                found = self._of(store, target, f"target_{task}", rows["id"])
                sizes[str(task)] = sum(e.frame()[f"target_{task}"].sum() for e in found)
                entries += found
            told = ", ".join(f"{task} {n:,}" for task, n in sorted(sizes.items()))
            notes.append(f"n-grams of the target's tasks, by which to share a budget: {told}.")
            context.log_all(notes)
        made = summed(store, self.artifact, VERSION, entries, "bucket")
        return Prepared(artifact=made, notes=tuple(notes))

    def _of(
        self, store: Store, data: Dataset, side: str, rows: pl.Series | None = None
    ) -> list[Entry]:
        settings = {"n": self.n, "buckets": self.buckets, "of": side}
        step = Step(name="ngram-counts", version=VERSION, settings=settings)
        count = partial(self._count, side)
        if rows is None:
            return counted(store, data, step, count)
        return counted(store, data, step, count, lambda i: i.filter(i.is_in(rows.implode())))

    def _count(self, side: str, some: Iterator[Rows]) -> pl.DataFrame:
        number_B = np.zeros(self.buckets, dtype=np.int64)
        for rows in some:
            found = [ngrams(plain_text(row), self.n, self.buckets)[1] for row in rows]
            number_B += np.bincount(np.concatenate(found), minlength=self.buckets)
        return pl.DataFrame({"bucket": np.arange(self.buckets), side: number_B})
