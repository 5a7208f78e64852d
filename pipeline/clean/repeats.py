"""An index of evaluation items by their words, and the records that repeat them.

Long items are met by shared n-grams, short ones by fuzzy match, the tiniest as a whole prompt; the
rules are those of `decontaminate`. Memory: 24 bytes an item's word, and 16 MiB for each of three
bitmaps that turn away most of what a pool says before it is looked up.
"""

# N = rows of a block, W = n-grams of a block, P = pairs of an n-gram and an item, M = items

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.clean.text import (
    Hashes,
    Offsets,
    ngram_hashes,
    slices,
    window_hashes,
    word_hashes,
)
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.text import texts

Integers = NDArray[np.int64]

FEW = 5  # items of fewer words must be the whole prompt
_ANCHOR = 3  # words of an n-gram by which a short item is looked up
_BITS = 24
HITS: dict[str, Any] = {
    "id": pl.String,
    "source": pl.String,
    "row": pl.Int64,
    "benchmark": pl.String,
    "item": pl.String,
    "method": pl.String,
    "overlap": pl.Float64,
}


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """Pairs (hash, item, place), sorted by hash, with a bitmap that turns most hashes away."""

    hash_P: Hashes
    item_P: Integers
    place_P: Integers
    bitmap: NDArray[np.bool_]

    @staticmethod
    def of(hash_P: Hashes, item_P: Integers, place_P: Integers) -> "Lookup":
        order_P = np.lexsort((place_P, item_P, hash_P))
        bitmap = np.zeros(1 << _BITS, bool)
        bitmap[hash_P >> np.uint64(64 - _BITS)] = True
        return Lookup(
            hash_P=hash_P[order_P],
            item_P=item_P[order_P],
            place_P=place_P[order_P],
            bitmap=bitmap,
        )

    def find(self, hash_W: Hashes) -> tuple[Integers, Integers]:
        """Where in `hash_W` something is known, and the pair it meets: one entry per pair."""
        at = np.flatnonzero(self.bitmap[hash_W >> np.uint64(64 - _BITS)])
        first = np.searchsorted(self.hash_P, hash_W[at])
        count = np.searchsorted(self.hash_P, hash_W[at], "right") - first
        start = np.cumsum(count) - count
        pair = np.arange(count.sum()) - np.repeat(start, count) + np.repeat(first, count)
        return np.repeat(at, count), pair


@dataclass(frozen=True, kw_only=True)
class Index:
    """The items of the evaluation sets, ready to be met."""

    n: int
    fuzzy: float
    items: pl.DataFrame
    word_L: Hashes
    begin_M1: Offsets
    grams_M: Integers  # distinct n-grams of each item
    long: Lookup
    short: Lookup
    tiny: Lookup

    def hits(self, records: pl.DataFrame) -> pl.DataFrame:
        """The hits of a block of records by n-grams, fuzzy match and whole prompt: `HITS`."""
        said = texts(records, "all")
        found = [
            frame.with_columns(pl.col("at") + run.start)
            for run in slices(said)
            for frame in self._repeats(*word_hashes(said[run]))
        ]
        asked = texts(records, "prompt", "content")
        for run in slices(asked):
            word_L, begin_N1 = word_hashes(asked[run])
            found.append(self._whole(word_L, begin_N1).with_columns(pl.col("at") + run.start))
        if not found:
            return pl.DataFrame(schema=HITS)
        best = pl.concat(found).group_by("at", "item", "method").agg(pl.col("overlap").max())
        return named(records, self.items, best)

    def _repeats(self, word_L: Hashes, begin_N1: Offsets) -> list[pl.DataFrame]:
        gram_W, first_N1 = ngram_hashes(word_L, begin_N1, self.n, whole=False)
        at_P, pair_P = self.long.find(gram_W)
        row_P = np.searchsorted(first_N1, at_P, "right") - 1
        met = pl.DataFrame({"at": row_P, "item": self.long.item_P[pair_P], "gram": gram_W[at_P]})
        counts = met.unique().group_by("at", "item").agg(pl.len())
        share = counts["len"].to_numpy() / self.grams_M[counts["item"].to_numpy()]
        long = meetings(counts["at"].to_numpy(), counts["item"].to_numpy(), "ngram", share)
        return [long, self._short(word_L, begin_N1)]

    def _short(self, word_L: Hashes, begin_N1: Offsets) -> pl.DataFrame:
        anchor_W, first_N1 = ngram_hashes(word_L, begin_N1, _ANCHOR, whole=False)
        at_P, pair_P = self.short.find(anchor_W)
        row_P = np.searchsorted(first_N1, at_P, "right") - 1
        word_P = at_P - first_N1[row_P] + begin_N1[row_P]
        rows, items, shares = [], [], []
        for row, item, word, place in zip(
            row_P.tolist(),
            self.short.item_P[pair_P].tolist(),
            word_P.tolist(),
            self.short.place_P[pair_P].tolist(),
            strict=True,
        ):
            item_L = self.word_L[self.begin_M1[item] : self.begin_M1[item + 1]]
            edits = _edits(len(item_L), self.fuzzy)
            low = max(word - place - edits, int(begin_N1[row]))
            high = min(word - place + len(item_L) + edits, int(begin_N1[row + 1]))
            apart = distance(item_L.tolist(), word_L[low:high].tolist())
            if apart <= edits:
                rows.append(row)
                items.append(item)
                shares.append(1 - apart / len(item_L))
        return meetings(np.array(rows, int), np.array(items, int), "short", np.array(shares, float))

    def _whole(self, word_L: Hashes, begin_N1: Offsets) -> pl.DataFrame:
        filled = np.flatnonzero(np.diff(begin_N1))
        at_P, pair_P = self.tiny.find(
            window_hashes(word_L, begin_N1[:-1][filled], begin_N1[1:][filled])
        )
        return meetings(filled[at_P], self.tiny.item_P[pair_P], "short", np.ones(len(at_P)))


def index_of(items: pl.DataFrame, *, n: int, fuzzy: float) -> Index:
    """Build the index of a table of items (`benchmark`, `item`, `text`)."""
    word_L, begin_M1 = word_hashes(items["text"])
    length_M = np.diff(begin_M1)
    gram_W, first_M1 = ngram_hashes(word_L, begin_M1, n, whole=False)
    owner_W = np.repeat(np.arange(len(length_M)), np.diff(first_M1))
    pairs = pl.DataFrame({"gram": gram_W, "item": owner_W}).unique()
    grams_M = np.bincount(pairs["item"].to_numpy(), minlength=len(length_M))
    tiny = np.flatnonzero((length_M > 0) & (length_M < FEW))
    return Index(
        n=n,
        fuzzy=fuzzy,
        items=items,
        word_L=word_L,
        begin_M1=begin_M1,
        grams_M=grams_M,
        long=_plain(pairs["gram"].to_numpy(), pairs["item"].to_numpy()),
        short=_anchors(word_L, begin_M1, n, fuzzy),
        tiny=_plain(window_hashes(word_L, begin_M1[:-1][tiny], begin_M1[1:][tiny]), tiny),
    )


def distance(item: Sequence[int], window: Sequence[int]) -> int:
    """Fewest words to change, put in or leave out so that `item` is in `window` (Sellers)."""
    row = [0] * (len(window) + 1)  # an occurrence may begin anywhere
    for i, word in enumerate(item, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(window, 1):
            before, row[j] = row[j], min(before + (word != other), row[j] + 1, row[j - 1] + 1)
    return min(row)  # and end anywhere


def _edits(words: int, fuzzy: float) -> int:
    return math.floor((1 - fuzzy) * words + 1e-9)


def _anchors(word_L: Hashes, begin_M1: Offsets, n: int, fuzzy: float) -> Lookup:
    """The n-grams by which a short item is found.

    e edits spoil at most 3 e of an item's 3-grams, so of any 3 e + 1 one survives: the rarest will
    do, and they keep "how many are there" from calling every sum to mind.
    """
    anchor_W, first_M1 = ngram_hashes(word_L, begin_M1, _ANCHOR, whole=False)
    length_M = np.diff(begin_M1)
    grams = pl.DataFrame(
        {
            "gram": anchor_W,
            "item": np.repeat(np.arange(len(length_M)), np.diff(first_M1)),
            "place": np.arange(len(anchor_W)) - np.repeat(first_M1[:-1], np.diff(first_M1)),
        }
    ).with_columns(often=pl.len().over("gram"))
    wanted_M = np.array([_ANCHOR * _edits(m, fuzzy) + 1 for m in length_M.tolist()], int)
    short_M = (length_M >= FEW) & (length_M < n)
    chosen = (
        grams.filter(pl.Series(short_M[grams["item"].to_numpy()]))
        .sort("item", "often", "gram", "place")
        .with_columns(nth=pl.int_range(pl.len()).over("item"))
    )
    chosen = chosen.filter(pl.col("nth") < pl.Series(wanted_M[chosen["item"].to_numpy()]))
    return Lookup.of(*(chosen[c].to_numpy() for c in ("gram", "item", "place")))


def _plain(hash_P: Hashes, item_P: Integers) -> Lookup:
    return Lookup.of(hash_P, item_P, np.zeros(len(item_P), int))


def meetings(
    at: Integers, item: Integers, method: str, overlap: NDArray[np.floating[Any]]
) -> pl.DataFrame:
    """Meetings of rows, by their place in the block, and items, by their number."""
    frame = {"at": at.astype(np.int64), "item": item.astype(np.int64)}
    return pl.DataFrame(frame).with_columns(
        method=pl.lit(method), overlap=pl.Series(overlap.astype(np.float64))
    )


def named(records: pl.DataFrame, items: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """The table `HITS` of meetings between a block of records and the items."""
    hits = records.select(KEY)[found["at"]].hstack(items.select("benchmark", "item")[found["item"]])
    hits = hits.hstack(found.select("method", "overlap"))
    return hits.select(*HITS).sort(*HITS)
