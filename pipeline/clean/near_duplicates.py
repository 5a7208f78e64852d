"""Near duplicates: texts that share most of their word n-grams.

Two texts are near duplicates if the Jaccard index of their sets of word n-grams (5 by default)
reaches a threshold. MinHash and banding find the candidates (Broder 1997; Leskovec, Rajaraman and
Ullman, ch. 3): a pair of Jaccard index J shares one of b bands of r rows with probability
1 - (1 - J^r)^b. Every candidate is confirmed by the exact index of the two n-gram sets.

**What stays.** Rows are visited from the best (score, else source and row) to the worst; a row is
dropped if a row that *stays* is within the threshold, and that row is its `duplicate_of` and its
`cluster`. So no row falls because of one that fell itself, every dropped row really resembles the
kept one, and no two kept rows resemble each other (but for what banding misses).

**Incremental.** A sketch depends on one shard's content alone and is kept by the store (step
`minhash`); a new shard costs its own sketch. Sketches of what was published before take part as
rows that always stay.

Memory: 8 bytes a band and about 80 bytes of key a row, and 8 bytes a word of those rows that are a
candidate of any other. Disk: 8 bytes a band and 8 bytes a word for each row.
"""

# N = texts, W = n-grams, b = bands, r = rows of a band

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from gristmill.pipeline.clean.drops import Progress, by_priority, drops, nobody
from gristmill.pipeline.clean.text import (
    Hashes,
    Offsets,
    distinct,
    mix,
    ngram_hashes,
    slices,
    word_hashes,
)
from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.store import Step, Store, sha256, table
from gristmill.pipeline.records.text import Part, texts

RECALL = 0.99  # promised for pairs that exceed the threshold by MARGIN
MARGIN = 0.1
_TOLD = 1_000  # rows between two tellings of progress


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

    def sketch(self, records: pl.DataFrame) -> pl.DataFrame:
        """`KEY`, `bands` (array of b hashes) and `ngrams` (list of hashes) of each record.

        A record without words has neither, and duplicates nobody.
        """
        text = texts(records, self.part)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy works outside the lock
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


def sketches(
    store: Store, shards: Sequence[Path], settings: MinHash, progress: Progress = nobody
) -> list[Path]:
    """The sketch of each Parquet shard of records, made once for its content and settings."""
    found = []
    for number, shard in enumerate(shards):
        progress(number, len(shards))
        step = Step(
            name="minhash",
            version=2,
            settings=settings_of(dataclasses.replace(settings, threshold=1.0)),
            inputs={"shard": sha256(shard)},
        )
        found += store.run(step, [table("part-00000", partial(_sketch_of, shard, settings))]).shards
    progress(len(shards), len(shards))
    return found


def _sketch_of(shard: Path, settings: MinHash) -> pl.DataFrame:
    return settings.sketch(pl.read_parquet(shard))


def near_duplicates(
    sketched: Sequence[pl.DataFrame | Path],
    *,
    settings: MinHash,
    scores: pl.DataFrame | None = None,
    published: Sequence[pl.DataFrame | Path] = (),
    progress: Progress = nobody,
) -> pl.DataFrame:
    """Drops frame of the rows that resemble a row that stays; reason `near_duplicate`.

    Args:
        sketched: `MinHash.sketch` of the records, as frames or Parquet files; read twice.
        settings: the settings they were sketched with.
        scores: which row stays: the best score, else the first by source and row.
        published: sketches of rows published before; they always stay.
        progress: called with (rows compared, rows to compare).
    """
    tables = [*published, *sketched]
    if not tables:
        return drops(pl.DataFrame(schema=dict.fromkeys(KEY, pl.String)))
    rows = pl.concat(
        [_read(t, [*KEY, "bands"]).with_columns(table=pl.lit(i)) for i, t in enumerate(tables)]
    ).with_row_index("at")
    rows = rows.drop_nulls("bands")
    old = rows.filter(pl.col("table") < len(published))
    rows = pl.concat([old, by_priority(rows.filter(pl.col("table") >= len(published)), scores)])
    band_Nb = rows["bands"].to_numpy()
    rows = rows.drop("bands")  # from here on a row is its place in the order of priority
    groups = _groups(band_Nb)
    sets = _sets(tables, rows, list(groups))
    dropped: list[int] = []
    stays: list[int] = []
    overlaps: list[float] = []
    kept: dict[int, list[int]] = {}
    for number, (row, own) in enumerate(groups.items()):
        if number % _TOLD == 0:
            progress(number, len(groups))
        found = None
        if row >= old.height:
            rivals = sorted({k for g in own for k in kept.get(g, ())})
            found = _first_near(sets, row, rivals, settings.threshold)
        if found is None:
            for group in own:
                kept.setdefault(group, []).append(row)
        else:
            dropped.append(row)
            stays.append(found[0])
            overlaps.append(found[1])
    progress(len(groups), len(groups))
    stay = rows["id"].gather(stays)
    return drops(
        rows[dropped],
        duplicate_of=stay,
        cluster=stay,
        overlap=pl.Series(overlaps, dtype=pl.Float64),
        reason="near_duplicate",
    )


def jaccard(a: Hashes, b: Hashes) -> float:
    """Jaccard index of two sets, given as sorted arrays without repeats."""
    if len(a) > len(b):
        a, b = b, a
    at = np.minimum(np.searchsorted(b, a), len(b) - 1)
    shared = int(np.count_nonzero(b[at] == a))
    return shared / (len(a) + len(b) - shared)


def _first_near(
    sets: Mapping[int, Hashes], row: int, rivals: Sequence[int], threshold: float
) -> tuple[int, float] | None:
    for rival in rivals:
        few, many = sorted((len(sets[row]), len(sets[rival])))
        if few >= threshold * many:  # else the index cannot reach it
            overlap = jaccard(sets[row], sets[rival])
            if overlap >= threshold:
                return rival, overlap
    return None


def _groups(band_Nb: Hashes) -> dict[int, list[int]]:
    """Row -> the groups of rows that agree in some band, for rows that agree with any; in order."""
    members, names = [], []
    first = 0
    for band_N in band_Nb.T:
        order_N = np.argsort(band_N, kind="stable")
        fresh_N = np.diff(band_N[order_N], prepend=band_N[order_N[:1]] + np.uint64(1)) != 0
        group_N = np.cumsum(fresh_N) - 1
        shared_N = np.bincount(group_N, minlength=1)[group_N] > 1
        members.append(order_N[shared_N])
        names.append(group_N[shared_N] + first)
        first += len(band_N)
    member_P, name_P = np.concatenate(members), np.concatenate(names)
    if not len(member_P):
        return {}
    order_P = np.argsort(member_P, kind="stable")
    row_P, begin_P = np.unique(member_P[order_P], return_index=True)
    parts = np.split(name_P[order_P], begin_P[1:])
    return {row: part.tolist() for row, part in zip(row_P.tolist(), parts, strict=True)}


def _sets(
    tables: Sequence[pl.DataFrame | Path], rows: pl.DataFrame, wanted: Sequence[int]
) -> dict[int, Hashes]:
    """The n-gram sets of the wanted rows, as sorted arrays."""
    places = rows.select("at", "table", row=pl.int_range(pl.len())).gather(wanted)
    first, sets = 0, {}
    for number, part in enumerate(tables):
        ngrams = _read(part, ["ngrams"])["ngrams"]
        here = places.filter(table=number)
        for row, value in zip(here["row"], ngrams.gather(here["at"] - first), strict=True):
            sets[row] = distinct(value.to_numpy())
        first += len(ngrams)
    return sets


def _read(part: pl.DataFrame | Path, columns: Sequence[str]) -> pl.DataFrame:
    return (
        part.select(columns)
        if isinstance(part, pl.DataFrame)
        else pl.read_parquet(part, columns=list(columns))
    )
