"""Semantic duplicates (SemDeDup): rows whose sentence embeddings almost agree.

Spherical k-means cuts the pool into clusters; within a cluster, rows are taken one after the other,
and row i is a duplicate if max_j cos(i, j) > 1 - epsilon over the rows j before it. One function,
`similarities`, serves two masters that differ in two settings:

| | `semantic_duplicates` (cleaning) | the method `semdedup` |
|---|---|---|
| order in a cluster | as a row deserves to stay | farthest from the centroid first |
| compared with | the rows that stay | all rows before, dropped ones too |

Abbas et al., "SemDeDup", arXiv:2303.09540, implemented from the equations. Duplicates that fall in
different clusters survive: drop exact and near duplicates first.

Time O(N K D) for the clusters and O(N^2 D / K) within them. Memory: about 250 bytes a row, the
vectors of the k-means sample (at most 256 a cluster) and those of one cluster; the pool is read
three times. Disk: meanwhile, 4 D bytes a row, by cluster.
"""

# N = rows, K = clusters, D = dimensions, B = rows compared at a time

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.clean.drops import Progress, by_priority, drops, nobody
from gristmill.pipeline.contracts import Observations
from gristmill.pipeline.numerics.kmeans import kmeans
from gristmill.pipeline.numerics.similarity import unit
from gristmill.pipeline.numerics.spill import Buckets, buckets
from gristmill.pipeline.records.schema import KEY, uniform

Vectors = NDArray[np.floating[Any]]

_SAMPLE = 256  # rows a cluster from which k-means learns, as in faiss
_BLOCK = 1_024  # rows compared at a time
_COSINES = 2**23  # and cosines at most
ROUNDING = 4e-6  # of the cosine of a vector with itself, whatever its size


@dataclass(frozen=True, kw_only=True)
class SemDeDup:
    """How rows are clustered and compared.

    Attributes:
        epsilon: rows with a cosine above 1 - epsilon are duplicates; the paper tunes it per data
            set.
        clusters: how many; None takes one for each thousand rows.
        iterations: of k-means.
        order: who comes first in a cluster: "hard" the farthest from the centroid, "easy" the
            nearest, "random" by a draw keyed by id.
        vs_kept: compare with the rows that stay; else with all rows before (the authors' code).
        seed: draws the sample, the first centroids and the random order.
    """

    epsilon: float = 0.05
    clusters: int | None = None
    iterations: int = 100
    order: Literal["hard", "easy", "random"] = "hard"
    vs_kept: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"epsilon lies from 0 to below 1; found {self.epsilon}.")
        if self.clusters is not None and self.clusters < 1:
            raise ValueError(f"clusters must be at least 1; found {self.clusters}.")


def semantic_duplicates(
    keys: pl.DataFrame,
    pool: Observations,
    column: str,
    *,
    settings: SemDeDup | None = None,
    scores: pl.DataFrame | None = None,
    published: Sequence[Observations] = (),
    standing: pl.Series | None = None,
    scratch: Path | None = None,
    progress: Progress = nobody,
) -> pl.DataFrame:
    """Drops frame of the rows that almost agree with a row that stays: `semantic_duplicate`.

    Args:
        keys: `schema.KEY` of the rows in question; copies of an id share its fate.
        pool: unit vectors of the records in `column`; a row without one duplicates nobody.
        column: the column of the embedding signal.
        settings: epsilon and clusters; `order` and `vs_kept` have no say here (see the table).
        scores: which row stays: the best score, else the first by source and row.
        published: vectors of rows published before; they always stay.
        standing: ids of rows that stay before others, whatever their score and place.
        scratch: a folder for what waits on disk; the system's by default.
        progress: called with (rows compared, rows to compare).
    """
    settings = dataclasses.replace(settings or SemDeDup(), vs_kept=True)
    order = by_priority(keys.select(KEY), scores, standing)
    order = order.unique("id", keep="first", maintain_order=True)
    rank = order.select("id", rank=pl.int_range(pl.len(), dtype=pl.Int64))
    found = similarities(
        pool,
        column,
        settings,
        rank=rank,
        published=published,
        scratch=scratch,
        progress=progress,
    )
    pairs = found.filter("duplicate").select("id", stay="rival", overlap="similarity")
    return drops(
        keys.select(KEY).join(pairs, on="id"),
        duplicate_of=pl.col("stay"),
        cluster=pl.col("stay"),
        overlap=pl.col("overlap"),
        reason="semantic_duplicate",
    )


def similarities(
    pool: Observations,
    column: str,
    settings: SemDeDup,
    *,
    rank: pl.DataFrame | None = None,
    published: Sequence[Observations] = (),
    scratch: Path | None = None,
    progress: Progress = nobody,
) -> pl.DataFrame:
    """Each row of the pool against the rows before it in its cluster.

    Args:
        pool: `id` and the vectors.
        column: the column of the vectors.
        settings: clusters, order, epsilon.
        rank: `id` and `rank`, lowest first, in place of the order that `settings` names.
        published: rows that come before all others and are never duplicates themselves.
        scratch: a folder for what waits on disk; the system's by default.
        progress: called with (rows compared, rows to compare).

    Returns:
        `id` (sorted), `cluster` (number), `similarity` (0 for the first row of a cluster), `rival`
        (id of the most similar row before, or null) and `duplicate`. Rows without a vector are
        left out.
    """
    sources = [*published, pool]
    ids = pl.concat([b.select("id") for b in _blocks(sources, column)] or [_NO_IDS]).to_series()
    if ids.is_empty():
        return pl.DataFrame(schema=_FOUND)
    old = sum(b.height for b in _blocks(published, column))
    rows = pl.DataFrame({"id": ids, "new": np.arange(len(ids)) >= old})
    rows = rows.with_columns(
        draw=pl.Series([uniform(settings.seed, "semdedup", i) for i in ids], dtype=pl.Float64)
    )
    clusters = settings.clusters or max(1, len(ids) // 1_000)
    centroid_KD = _centroids(sources, column, rows, clusters, settings)
    size, dims = centroid_KD.shape
    parts: list[pl.DataFrame] = []
    with buckets(size, (np.float32, dims), scratch) as held:
        rows = rows.with_columns(_assigned(sources, column, centroid_KD, held))
        rows = _ordered(rows.with_row_index("at"), settings.order, rank)
        for begin, end in pairwise([*_starts(rows["cluster"]), rows.height]):
            part = rows[begin:end]
            at_N = part["at"].to_numpy()
            place_N = np.searchsorted(np.sort(at_N), at_N)  # a bucket is in order of the pool
            best_N, rival_N, duplicate_N = compare(
                held.read(part["cluster"][0])[place_N],
                settings.epsilon,
                vs_kept=settings.vs_kept,
                fixed=part.height - int(part["new"].sum()),
            )
            at = pl.select(pl.when(pl.Series(rival_N >= 0)).then(pl.Series(rival_N))).to_series()
            parts.append(
                part.select("id", "new", "cluster").with_columns(
                    similarity=pl.Series(best_N, dtype=pl.Float64),
                    rival=part["id"].gather(at),
                    duplicate=pl.Series(duplicate_N),
                )
            )
            progress(end, rows.height)
    return pl.concat(parts).filter("new").select(*_FOUND).sort("id")


def compare(
    vector_ND: Vectors, epsilon: float, *, vs_kept: bool, fixed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Each unit vector against those before it: highest cosine, whose it is, duplicate or not.

    Args:
        vector_ND: the rows of one cluster, in order.
        epsilon: a duplicate's cosine is above 1 - epsilon; at 0 there is none.
        vs_kept: look only at rows before that are no duplicates.
        fixed: the first so many rows are no duplicates whatever they resemble.
    """
    best_N = np.zeros(len(vector_ND))
    rival_N = np.full(len(vector_ND), -1)
    kept_N = np.ones(len(vector_ND), bool)
    together = max(1, min(_BLOCK, _COSINES // max(1, len(vector_ND))))
    for start in range(0, len(vector_ND), together):
        block_BD = vector_ND[start : start + together]
        cosine_BN = _rounded(block_BD @ vector_ND[: start + len(block_BD)].T)
        for i, cosine_N in enumerate(cosine_BN, start):
            before_N = np.where(kept_N[:i], cosine_N[:i], -np.inf) if vs_kept else cosine_N[:i]
            if i:
                rival_N[i] = before_N.argmax()
                best_N[i] = before_N[rival_N[i]]
                kept_N[i] = i < fixed or best_N[i] <= 1 - epsilon
    return best_N, rival_N, ~kept_N


def _rounded(cosine_BN: Vectors) -> NDArray[np.float64]:
    """Cosines of which those that are 1 but for the rounding of a long float32 sum are 1."""
    wide_BN = cosine_BN.astype(np.float64)
    return np.where(wide_BN > 1 - ROUNDING, 1.0, wide_BN)


_NO_IDS = pl.DataFrame(schema={"id": pl.String})
_FOUND = {
    "id": pl.String,
    "cluster": pl.Int64,
    "similarity": pl.Float64,
    "rival": pl.String,
    "duplicate": pl.Boolean,
}


def _blocks(sources: Iterable[Observations], column: str) -> Iterator[pl.DataFrame]:
    for block in chain.from_iterable(s.blocks() for s in sources):
        seen = block.select("id", column).drop_nulls(column)
        if seen.height:
            yield seen


def _centroids(
    sources: list[Observations], column: str, rows: pl.DataFrame, clusters: int, settings: SemDeDup
) -> Vectors:
    """Spherical k-means on the rows with the lowest draws, in order of their draw."""
    chosen = rows.with_row_index("at").sort("draw", "id").head(_SAMPLE * clusters)
    place = chosen.select("at", place=pl.int_range(pl.len()))
    sample_ND: Vectors | None = None
    for start, vector_BD in _vectors(sources, column):
        if sample_ND is None:
            sample_ND = np.zeros((chosen.height, vector_BD.shape[1]), np.float32)
        here = place.filter(pl.col("at").is_between(start, start + len(vector_BD) - 1))
        sample_ND[here["place"]] = vector_BD[here["at"].to_numpy() - start]
    assert sample_ND is not None, "there are rows"
    clusters = min(clusters, len(sample_ND))
    return kmeans(
        sample_ND,
        clusters,
        seed=settings.seed + 1,
        iterations=settings.iterations,
        spherical=True,
    )[0]


def _assigned(
    sources: list[Observations], column: str, centroid_KD: Vectors, held: Buckets
) -> list[pl.Series]:
    """Cluster of each row, which gets its vector, and its cosine, rounded so that copies tie."""
    numbers, cosines = [], []
    for _, vector_BD in _vectors(sources, column):
        number_B = (vector_BD @ centroid_KD.T).argmax(axis=1)
        held.append(number_B, vector_BD)
        numbers.append(number_B)
        cosines.append((vector_BD * centroid_KD[number_B]).sum(axis=1, dtype=np.float64).round(6))
    return [
        pl.Series("cluster", np.concatenate(numbers)),
        pl.Series("cosine", np.concatenate(cosines)),
    ]


def _ordered(rows: pl.DataFrame, order: str, rank: pl.DataFrame | None) -> pl.DataFrame:
    """Rows by cluster, published ones first, then as ordered; ties by id."""
    if rank is not None:
        rows = rows.join(rank, on="id", how="left", validate="m:1")
        return rows.sort("cluster", "new", "rank", "id", nulls_last=True)
    key = {"hard": pl.col("cosine"), "easy": -pl.col("cosine"), "random": pl.col("draw")}[order]
    return rows.sort(pl.col("cluster"), pl.col("new"), key, pl.col("id"))


def _starts(cluster: pl.Series) -> list[int]:
    return np.flatnonzero(np.diff(cluster.to_numpy(), prepend=-1)).tolist()


def _vectors(sources: list[Observations], column: str) -> Iterator[tuple[int, Vectors]]:
    start = 0
    for block in _blocks(sources, column):
        vector_BD = unit(block[column].to_numpy().astype(np.float32))
        yield start, vector_BD
        start += len(vector_BD)
