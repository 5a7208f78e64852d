"""Near duplicates: texts that share most of their word n-grams.

Two texts are near duplicates if the Jaccard index of their sets of word n-grams (5 by default)
reaches a threshold. MinHash and banding find the candidates (Broder 1997; Leskovec, Rajaraman and
Ullman, ch. 3): a pair of Jaccard index J shares one of b bands of r rows with probability
1 - (1 - J^r)^b. Every candidate is confirmed by the exact index of the two n-gram sets.

**What stays.** Rows are visited from the best (score, else source and row) to the worst; a row is
dropped if a row that *stays* is within the threshold, and that row is its `duplicate_of` and its
`cluster`. So no row falls because of one that fell itself, every dropped row really resembles the
kept one, and no two kept rows resemble each other (but for what banding misses).

**Incremental.** A sketch depends on one shard's content alone and is kept (`sketching`). Sketches
of what was published before take part as rows that always stay.

Memory: about 150 bytes of key a row, 50 bytes for each distinct group of candidates that a row is
in, and one shard's sketch; hashes of bands and n-grams wait on disk. Disk: 8 bytes a band and 8
bytes a word for each row, kept, and while rows are compared 16 bytes a band for each row and 8
bytes a word for those that are a candidate of any other.
"""

# N = texts, W = n-grams, b = bands, r = rows of a band

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from gristmill.pipeline.clean.banding import banded
from gristmill.pipeline.clean.candidates import Sets, Sketched, height, read, settled
from gristmill.pipeline.clean.drops import Progress, by_priority, drops, nobody
from gristmill.pipeline.clean.text import (
    Hashes,
    Offsets,
    mix,
    ngram_hashes,
    slices,
    word_hashes,
)
from gristmill.pipeline.numerics.spill import lists
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.text import Part, texts

RECALL = 0.99  # promised for pairs that exceed the threshold by MARGIN
MARGIN = 0.1


@dataclass(frozen=True, kw_only=True)
class MinHash:
    """How texts are sketched and compared. The defaults miss 0.04 % of pairs with J = 0.9.

    Attributes:
        threshold: Jaccard index from which two texts are near duplicates.
        ngram: words in an n-gram; a shorter text is one n-gram.
        bands: bands of the signature.
        rows: minima in a band.
        part: what of a record is compared.
        seed: draws the hash functions.
    """

    threshold: float = 0.8
    ngram: int = 5
    bands: int = 14
    rows: int = 8
    part: Part = "dialogue"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is a share above 0 and at most 1; found {self.threshold}.")
        likeness = min(1.0, self.threshold + MARGIN)
        if self.recall(likeness) < RECALL:
            enough = math.ceil(math.log1p(-RECALL) / math.log1p(-(likeness**self.rows)))
            raise ValueError(
                f"{self.bands} bands of {self.rows} rows find only {self.recall(likeness):.1%} of "
                f"the pairs that exceed the threshold {self.threshold} by {MARGIN}; give at least "
                f"{enough} bands, or fewer rows."
            )

    def recall(self, jaccard: float) -> float:
        """Probability that a pair of this Jaccard index becomes a candidate."""
        return 1.0 - float((1.0 - jaccard**self.rows) ** self.bands)

    def sketch(self, records: pl.DataFrame, threads: int | None = None) -> pl.DataFrame:
        """`KEY`, `bands` (array of b hashes) and `ngrams` (list of hashes) of each record.

        A record without words has neither, and duplicates nobody. `threads` work on it; None: one
        a core.
        """
        text = texts(records, self.part)
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:  # numpy works outside the lock
            parts = list(pool.map(lambda run: self._sketch(text[run]), slices(text)))
        parts = parts or [self._sketch(text)]
        return records.select(KEY).hstack(pl.concat(parts))

    def _sketch(self, text: pl.Series) -> pl.DataFrame:
        ngram_W, begin_N1 = ngram_hashes(*word_hashes(text), self.ngram, whole=True)
        filled_N = np.diff(begin_N1) > 0
        band_Nb = np.zeros((len(text), self.bands), np.uint64)
        band_Nb[filled_N] = self._bands(ngram_W, begin_N1[:-1][filled_N])
        bands = pl.Series(band_Nb, dtype=pl.Array(pl.UInt64, self.bands))
        lists = pa.LargeListArray.from_arrays(pa.array(begin_N1), pa.array(ngram_W))
        return pl.select(
            bands=pl.when(pl.Series(filled_N)).then(bands), ngrams=pl.Series(pl.from_arrow(lists))
        )

    def _bands(self, ngram_W: Hashes, begin_N: Offsets) -> Hashes:
        """Hash of the minima of each band.

        A row's function multiplies, shifts and multiplies again: a multiplication alone is cheaper,
        but then the rows of a band depend on one another and recall wanders with the seed.
        """
        value_W = (ngram_W >> np.uint64(32)).astype(np.uint32)
        first = self.seed * 2**32
        draw = mix(mix(np.arange(first, first + self.bands * self.rows, dtype=np.uint64)))
        band_Nb = np.zeros((len(begin_N), self.bands), np.uint64)
        if not len(begin_N):
            return band_Nb
        hash_W, shifted_W = np.empty_like(value_W), np.empty_like(value_W)
        for band, draw_r in enumerate(draw.reshape(self.bands, self.rows)):
            for key in draw_r:
                np.bitwise_xor(value_W, np.uint32(key & np.uint64(0xFFFFFFFF)), out=hash_W)
                np.multiply(hash_W, np.uint32(key >> np.uint64(32)) | np.uint32(1), out=hash_W)
                np.right_shift(hash_W, np.uint32(15), out=shifted_W)
                np.bitwise_xor(hash_W, shifted_W, out=hash_W)
                np.multiply(hash_W, np.uint32(0x85EBCA6B), out=hash_W)
                minimum_N = np.minimum.reduceat(hash_W, begin_N)
                band_Nb[:, band] = mix(band_Nb[:, band] + minimum_N + np.uint64(1))
        return band_Nb


def near_duplicates(
    sketched: Sequence[Sketched],
    *,
    settings: MinHash,
    scores: pl.DataFrame | None = None,
    published: Sequence[Sketched] = (),
    counts: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    standing: pl.Series | None = None,
    left: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    scratch: Path | None = None,
    progress: Progress = nobody,
) -> pl.DataFrame:
    """Drops frame of the rows that resemble a row that stays; reason `near_duplicate`.

    Args:
        sketched: `MinHash.sketch` of the records, as frames or Parquet files; read twice.
        settings: the settings they were sketched with.
        scores: which row stays: the best score, else the first by source and row.
        published: sketches of rows published before; they always stay.
        counts: of these, those that count; all by default.
        standing: ids of sketched rows that stay before others, whatever their score and place.
        left: of sketched rows, those that are in question; all by default.
        scratch: a folder for what waits on disk; the system's by default.
        progress: called with (rows compared, rows to compare).
    """
    tables = [*published, *sketched]
    if not tables:
        return drops(pl.DataFrame(schema=dict.fromkeys(KEY, pl.String)))
    keys: list[pl.DataFrame] = []
    seen = 0
    with banded(settings.bands, sum(map(height, tables)), scratch) as bands:
        for number, part in enumerate(tables):
            rows = read(part, [*KEY, "bands"]).with_row_index("at")
            asked = left if number >= len(published) else counts
            if asked is not None:
                rows = asked(rows)
            rows = rows.drop_nulls("bands")
            bands.append(rows["bands"].to_numpy(), seen)
            keys.append(rows.select(*KEY, "at", table=pl.lit(number)))
            seen += rows.height
        old = sum(k.height for k in keys[: len(published)])
        rows = _ranked(pl.concat(keys), old, scores, standing)
        keys.clear()
        rank_N = np.empty(seen, np.int64)
        rank_N[rows["number"].to_numpy()] = np.arange(seen)
        groups = bands.groups(rank_N)
    rows = rows.gather(groups.row_C)  # from here on a row is its place among the candidates
    fixed = int(np.searchsorted(groups.row_C, old))
    with lists(np.uint64, scratch) as held:
        sets = Sets.of(tables, rows, held)
        found = settled(groups, sets, fixed, settings.threshold, progress)
    stay = rows["id"].gather(np.asarray(found.stays, dtype=np.int64))
    return drops(
        rows.gather(np.asarray(found.dropped, dtype=np.int64)).select(KEY),
        duplicate_of=stay,
        cluster=stay,
        overlap=pl.Series(found.overlaps, dtype=pl.Float64),
        reason="near_duplicate",
    )


def _ranked(
    keys: pl.DataFrame, old: int, scores: pl.DataFrame | None, standing: pl.Series | None
) -> pl.DataFrame:
    """Rows from the one that most deserves to stay on: published ones, then by priority."""
    keys = keys.with_row_index("number")
    return pl.concat([keys[:old], by_priority(keys[old:], scores, standing)])
