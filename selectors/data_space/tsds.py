"""TSDS: how much of this row does a mixture take that lies where the target lies?"""

# N = pool rows, M = queries (target rows), K = neighbours of a query, U = rows that are neighbours

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal, View
from gristmill.pipeline.records.schema import KINDS, Kind
from gristmill.pipeline.signals.forward_signals import SentenceEmbedding
from gristmill.pipeline.signals.views import PlainText
from gristmill.selectors.data_space._transport import Floats, probabilities

GRID = 1 << 22  # embeddings are whole numbers of 1 / GRID: sums of their products are exact
TOGETHER = 1 << 23  # distances at once
FETCHED, NEAR = 5_000, 1_000  # neighbours of a query, and those that a density looks at

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Tsds(Scorer):
    """Log of the probability that optimal transport to the target gives a row.

    score(z) = log P(z); P minimises alpha / scale * (cost of moving P onto the M queries, by
    distance) + (1 - alpha) * (distance from the even spread), over the K = min(5000, N / 10)
    nearest rows of each query; near copies share one row's mass: a row of density rho(z) takes
    1 / rho as much, rho(z) = sum_y max(0, 1 - |z - y|^2 / sigma^2) over rows y near it.

    Also called: task-specific data selection by distribution alignment, KNN-KDE. Not a nearest
    neighbour search alone: the spread, and what copies share, come from one optimum.

    Reads: `SentenceEmbedding` of the model in the role "embedder".
    Reference: required; some tens to some thousands of rows of the task, in neither pool nor test
        set.
    Higher means: nearer to more of the target, with fewer copies. The default rule `multinomial`
        draws with replacement, and a row's draws are its weight; `gumbel` draws each row at most
        once. Rows that no query reaches have no score (`no_mass`); `score_probability` is P.
    Cost: 1 forward of the embedder and 4 D bytes a row to observe; O(N M D + U^2 D) to score, with
        16 M K bytes, and 8 U D for the U rows near some query.
    Paper: Liu et al., "TSDS: Data Selection for Task-Specific Model Finetuning", NeurIPS 2024,
        arXiv:2410.11303 (code: ZifanL/TSDS).
    Departures: neighbours are exact (theirs come from an approximate index). A query that has
        spread over all its K rows keeps them all, where the code leaves the last one out.
    Relations: `embedding_similarity` ranks by the nearest target alone and repeats itself;
        `facility_location` with a reference spreads picks without a distribution. `scale` belongs
        to the size of distances: 5 is for vectors like these, of length 1.
    Example: `Tsds(alpha=0.5).score(pool, reference)`
    """

    scope: ClassVar = "pool"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2410.11303"
    cost: ClassVar[str] = "1 fe of the embedder"
    rule: ClassVar[str] = "multinomial"
    alpha: float = 0.5
    scale: float = 5.0  # the paper's C
    sigma: float = 0.75  # how far a near copy may lie; 0: no row shares its mass
    view: View = field(default_factory=PlainText)

    def __post_init__(self) -> None:
        if not (0 <= self.alpha <= 1 and self.scale > 0 and self.sigma >= 0):
            raise ValueError(
                "alpha is from 0 to 1, scale above 0 and sigma at least 0; found "
                f"{self.alpha}, {self.scale} and {self.sigma}."
            )

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (SentenceEmbedding(view=self.view),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        assert reference is not None
        column = self.signals[0].column
        target = reference.frame().sort("id")
        query_MD = _on_grid(target.filter(_seen(target, column))[column].to_numpy())
        if not len(query_MD):
            raise ValueError("no row of the reference set has an embedding: give other targets.")
        rows = _Rows.of(pool, column)
        if not rows.seen:
            nothing = pl.lit(None, pl.Float64)
            return rows.ids.to_frame("id").with_columns(score=nothing, score_probability=nothing)
        square_MK, place_MK = rows.nearest(query_MD, _share(rows.seen, FETCHED))
        near = np.unique(place_MK)
        density_U = np.ones(len(near))
        if self.sigma:
            density_U = _densities(rows.embeddings(near), self.sigma, _share(rows.seen, NEAR))
        at_MK = np.searchsorted(near, place_MK)
        share_MK = probabilities(np.sqrt(square_MK), density_U[at_MK], self.alpha, self.scale)
        mass_U = np.bincount(at_MK.ravel(), share_MK.ravel(), minlength=len(near))
        found = pl.DataFrame({"id": rows.ids.gather(near), "score_probability": mass_U})
        every = pl.DataFrame({"id": rows.ids, "known": rows.known}).join(found, on="id", how="left")
        mass = pl.col("score_probability").fill_null(0.0)
        return every.select(
            "id",
            score=pl.when(mass > 0).then(mass.log()),
            score_probability=pl.when("known").then(mass),
            reason=pl.when(pl.col("known") & (mass == 0)).then(pl.lit("no_mass")),
        )


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The embeddings of a pool, swept block by block; a row's place is that of its id, sorted."""

    pool: Observations
    column: str
    ids: pl.Series  # sorted
    known: pl.Series  # which have an embedding

    @classmethod
    def of(cls, pool: Observations, column: str) -> "_Rows":
        parts = [pl.DataFrame({"id": b["id"], "known": _seen(b, column)}) for b in pool.blocks()]
        every = pl.concat(parts).sort("id")
        return cls(pool=pool, column=column, ids=every["id"], known=every["known"])

    @property
    def seen(self) -> int:
        return int(self.known.sum())

    def blocks(self, rows: int) -> Iterator[tuple[Ints, Floats]]:
        """Places and embeddings, so many rows at a time."""
        places = pl.DataFrame({"id": self.ids}).with_row_index("place")
        for block in self.pool.blocks():
            for part in block.select("id", self.column).iter_slices(rows):
                seen = part.filter(_seen(part, self.column))
                at = seen.select("id").join(places, on="id", how="left", maintain_order="left")
                yield (
                    at["place"].to_numpy().astype(np.int64),
                    _on_grid(seen[self.column].to_numpy()),
                )

    def nearest(self, query_MD: Floats, count: int) -> tuple[Floats, Ints]:
        """Squared distances and places of each query's nearest rows, ascending, ties by id."""
        best = [(np.full(1, np.inf), np.full(1, len(self.ids)))] * len(query_MD)
        for place_B, row_BD in self.blocks(max(1, TOGETHER // len(query_MD))):
            for j, square_B in enumerate(_squares(query_MD, row_BD)):
                square, place = best[j]
                maybe = square_B <= square[-1] if len(square) == count else slice(None)
                square = np.concatenate([square, square_B[maybe]])
                place = np.concatenate([place, place_B[maybe]])
                order = np.lexsort((place, square))[:count]
                best[j] = square[order], place[order]
        squares, places = zip(*best, strict=True)
        return np.stack(squares), np.stack(places)

    def embeddings(self, places: Ints) -> Floats:
        """Of these rows, in order of their places."""
        found, at = [], []
        for place_B, row_BD in self.blocks(max(1, TOGETHER // 1_024)):
            mine = np.isin(place_B, places)
            found.append(row_BD[mine])
            at.append(place_B[mine])
        return np.concatenate(found)[np.argsort(np.concatenate(at))]


def _densities(row_UD: Floats, sigma: float, most: int) -> Floats:
    """How many rows lie near each, itself included: by an Epanechnikov kernel of that width."""
    found = []
    for part in np.array_split(row_UD, -(-(len(row_UD) ** 2) // TOGETHER)):
        near_BU = np.maximum(0, 1 - _squares(part, row_UD) / sigma**2)
        if ((near_BU > 0).sum(axis=1) > most).any():
            near_BU = np.sort(near_BU, axis=1)[:, -most:]
        found.append(near_BU.sum(axis=1))
    return np.concatenate(found)


def _share(rows: int, most: int) -> int:
    """A tenth of the rows, but no more than `most`, and at least one."""
    return min(most, max(1, rows // 10))


def _on_grid(row_ND: npt.NDArray[np.float32]) -> Floats:
    return np.rint(row_ND.astype(np.float64) * GRID)


def _squares(x_AD: Floats, y_BD: Floats) -> Floats:
    """Squared distances of all pairs: of whole numbers, and so the same in any block."""
    norm_A, norm_B = ((z * z).sum(axis=1) for z in (x_AD, y_BD))
    square_AB = norm_A[:, None] + norm_B[None] - 2 * (x_AD @ y_BD.T)
    return np.asarray(np.maximum(square_AB, 0) / GRID**2)


def _seen(rows: pl.DataFrame, column: str) -> npt.NDArray[np.bool_]:
    """Which rows have an embedding, all of it finite."""
    known = rows[column].is_not_null().to_numpy()
    seen = np.zeros(rows.height, dtype=bool)
    seen[known] = np.isfinite(rows[column].drop_nulls().to_numpy()).all(axis=1)
    return seen
