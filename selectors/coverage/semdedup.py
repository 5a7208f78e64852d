"""SemDeDup: is this record something the pool has not said already?"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import polars as pl

from gristmill.pipeline.clean.semantic_duplicates import SemDeDup, similarities
from gristmill.pipeline.contracts import Observations, Scorer, Signal, View
from gristmill.pipeline.records.schema import KINDS, Kind
from gristmill.pipeline.signals.forward_signals import SentenceEmbedding
from gristmill.pipeline.signals.views import PlainText


@dataclass(frozen=True, kw_only=True)
class Semdedup(Scorer):
    """One minus the highest cosine to the rows before it in its k-means cluster.

    score(i) = 1 - max_{j < i} cos(e(i), e(j)) within the cluster of i, rows taken farthest from
    the centroid first; the first row of a cluster scores 1. Rows that score below epsilon are
    semantic duplicates: their score is null, their reason `semantic_duplicate`; epsilon 0 drops
    none, not even copies.

    Also called: semantic deduplication. Not a measure of quality: of two alike it keeps the odder.

    Reads: `SentenceEmbedding` of the model in the role "embedder".
    Reference: none.
    Higher means: nothing before it in its cluster says nearly the same. Keep it.
    Cost: 1 forward of the embedder and 4 D bytes a row to observe; O(N K D + N^2 D / K) to score,
        with one cluster for each thousand rows unless `clusters` says otherwise.
    Paper: Abbas et al., "SemDeDup", arXiv:2303.09540.
    Departures: epsilon 0.05 for every data set (the paper tunes it); N / 1000 clusters, not 50,000.
        `vs_kept` compares with rows that stay, as the cleaning step does; the default compares
        with all rows before, so that a chain of near-equals vanishes but for its first.
    Relations: `kcenter` and `facility_location` choose what to keep, this only what to drop. Run
        near-duplicate removal first: it is cheaper, and duplicates across clusters survive here.
    Example: `Semdedup(epsilon=0.05).score(pool)`
    """

    version: ClassVar[int] = 2
    scope: ClassVar = "pool"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    reference: ClassVar = "none"
    paper: ClassVar[str] = "arXiv:2303.09540"
    cost: ClassVar[str] = "1 fe of the embedder"
    epsilon: float = 0.05
    clusters: int | None = None
    iterations: int = 100  # the paper's
    order: Literal["hard", "easy", "random"] = "hard"  # the paper's
    vs_kept: bool = False
    seed: int = 0
    view: View = field(default_factory=PlainText)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (SentenceEmbedding(view=self.view),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        settings = SemDeDup(
            epsilon=self.epsilon,
            clusters=self.clusters,
            iterations=self.iterations,
            order=self.order,
            vs_kept=self.vs_kept,
            seed=self.seed,
        )
        found = similarities(pool, self.signals[0].column, settings)
        scored = found.select(
            "id",
            score=pl.when(~pl.col("duplicate")).then(1 - pl.col("similarity")),
            score_similarity="similarity",
            reason=pl.when("duplicate").then(pl.lit("semantic_duplicate")),
        )
        ids = pl.concat([block.select("id") for block in pool.blocks()])
        return ids.join(scored, on="id", how="left", maintain_order="left")
