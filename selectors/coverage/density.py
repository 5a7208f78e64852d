"""Density: how many rows of the pool say nearly what this one says?"""

# N = rows, D = embedding size, R = hashes, C = hashes joined into one, B = buckets

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal, View
from gristmill.pipeline.models.gradients.random_bits import random_words
from gristmill.pipeline.numerics.coverage import Floats, Ints, Matrix
from gristmill.pipeline.records.schema import KINDS, Kind, uniform
from gristmill.pipeline.signals.forward_signals import SentenceEmbedding
from gristmill.pipeline.signals.views import PlainText

LOG = logging.getLogger(__name__)

GRID = 1 << 22  # embeddings and projections are whole numbers of 1 / GRID
TOGETHER = 1 << 22  # projections computed at once
UNIFORM = 1.5  # a spread below this leaves nothing to flatten
CROWDED = 10  # strangers in a bucket that drown most of what is near
SAMPLE = 1_000  # rows whose distances `details` looks at
NEAR = (0.05, 0.1, 0.2, 0.4)  # distances of near-duplicates, from a typo to a paraphrase


@dataclass(frozen=True, kw_only=True)
class Density(Scorer):
    """Minus the log of the row's kernel density in embedding space, from hashed counters.

    score(x) = -log s(x), s(x) = 1/R * sum_r C_r[h_r(x)], C_r[b] = #{y: h_r(y) = b},
    h_r(x) = sum_c a_rc floor((w_rc . e(x) + t_rc) / bandwidth) mod buckets, with w_rc normal, t_rc
    uniform below the bandwidth, a_rc below `buckets`, a_r1 = 1. In expectation s(x) is the sum over
    all rows y of p(|e(x) - e(y)| / bandwidth)^concat, and of what collides by chance (`collision`).

    Also called: inverse propensity sampling, a RACE or locality-sensitive density sketch. It is
    not deduplication: nothing is dropped, crowded regions are drawn from less often.

    Reads: `SentenceEmbedding` of the model in the role "embedder".
    Reference: none.
    Higher means: fewer rows near it. The default rule `gumbel` draws rows in proportion to
        exp(score) = 1 / s, which flattens the pool; `top` would take the outliers alone.
        `score_density` is s: about 1 for a row without neighbours, n for each of n copies.
    Cost: 1 forward of the embedder and 4 D bytes a row to observe; two sweeps of O(N R concat D)
        to score, with 4 R buckets bytes of counters (80 MB) and 8 D R concat of projections (49 MB
        at D = 768), whatever the size of the pool.
    Paper: Sachdeva et al., "How to Train Data-Efficient LLMs", arXiv:2402.09668.
    Departures: 8 hashes are joined and the bandwidth is 0.5, since one projection of a unit vector
        tells few rows apart: strangers then count as neighbours, and s is nearly the same for all.
        `concat=1, bandwidth=0.05` is the printed form. The weight is 1/s as in the paper's theorem
        (one version prints s). Projections are rounded to a grid on which their sums are exact, so
        a row meets the same bucket in any block, on any processor.
    Relations: `semdedup` drops what this draws less often, and needs clusters for it; `kcenter`
        and `facility_location` pick greedily and see pairs of rows. This is the one for pools that
        fit no memory, and it still keeps some of every crowd.
    Example: `Density(bandwidth=0.5, concat=8).score(pool)`
    """

    scope: ClassVar = "pool"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    paper: ClassVar[str] = "arXiv:2402.09668"
    cost: ClassVar[str] = "1 fe of the embedder"
    rule: ClassVar[str] = "gumbel"
    hashes: int = 1_000  # the paper's
    buckets: int = 20_000  # the paper's
    bandwidth: float = 0.5  # of unit vectors
    concat: int = 8
    seed: int = 0
    view: View = field(default_factory=PlainText)

    def __post_init__(self) -> None:
        if min(self.hashes, self.buckets, self.concat) < 1 or not self.bandwidth > 0:
            raise ValueError(
                f"hashes, buckets and concat are at least 1 and the bandwidth is above 0; found "
                f"{self.hashes}, {self.buckets}, {self.concat} and {self.bandwidth}."
            )

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (SentenceEmbedding(view=self.view),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        count = np.zeros(self.hashes * self.buckets, dtype=np.int32)
        for _, _, cell_NR in self._hashed(pool):
            np.add.at(count, cell_NR.ravel(), np.int32(1))
        parts = []
        for ids, seen, cell_NR in self._hashed(pool):
            s_N = count[cell_NR].sum(axis=1, dtype=np.int64) / self.hashes
            found = pl.DataFrame({"id": seen, "score_density": s_N})
            parts.append(ids.to_frame().join(found, on="id", how="left", maintain_order="left"))
        scored = pl.concat(parts)
        self._log_fit(scored["score_density"].drop_nulls().to_numpy())
        return scored.select("id", -pl.col("score_density").log().alias("score"), "score_density")

    def details(self, pool: Observations) -> pl.DataFrame:
        """Do `bandwidth` and `concat` fit this embedder?

        A row each for some distances of near-duplicates and for the median distance of the pool:
        `which`, `distance`, `collision` in one hash, `kernel` (in all that are joined), `rows` (s
        if the whole pool lay there) and `concat` (the least that brings it to 1). The median
        should say at most one row, and the near ones a kernel that is not small.
        """
        column = self.signals[0].column
        drawn = pl.DataFrame()
        for block in pool.blocks():
            seen = _seen(block, column)
            keys = [uniform(self.seed, "density", i) for i in seen["id"]]
            keyed = seen.with_columns(key=pl.Series(keys, dtype=pl.Float64))
            drawn = pl.concat([drawn, keyed] if drawn.width else [keyed]).sort("key").head(SAMPLE)
        if drawn.height < 2:
            raise ValueError(
                f"{drawn.height} rows have an embedding; a distance takes two: observe more rows."
            )
        unit_ND = drawn[column].to_numpy().astype(np.float64)
        cosines = (unit_ND @ unit_ND.T)[np.triu_indices(len(unit_ND), 1)]
        median = float(np.median(np.sqrt(np.maximum(2 - 2 * cosines, 0))))
        at = pl.DataFrame({"which": ["near"] * len(NEAR) + ["median"], "distance": [*NEAR, median]})
        p = pl.Series("p", [collision(d / self.bandwidth) for d in at["distance"]])
        least = (math.log(pool.rows) / -p.log()).ceil()
        return at.with_columns(
            collision=p,
            kernel=p**self.concat,
            rows=pool.rows * p**self.concat,
            concat=pl.when(p < 1).then(least.clip(1)),
        )

    def _hashed(self, pool: Observations) -> Iterator[tuple[pl.Series, pl.Series, Ints]]:
        """Part by part: all ids, the ids with an embedding, and the counters that these meet."""
        column = self.signals[0].column
        hashing: _Hashing | None = None
        for block in pool.blocks():
            part = block.select("id", column)
            for rows in part.iter_slices(max(1, TOGETHER // (self.hashes * self.concat))):
                seen = _seen(rows, column)
                unit_ND = seen[column].to_numpy()
                hashing = hashing or _Hashing.draw(self, unit_ND.shape[1])
                yield rows["id"], seen["id"], hashing(unit_ND)

    def _log_fit(self, s_N: Floats) -> None:
        """Warn where the settings tell rows apart badly."""
        if len(s_N) < 2:
            return
        spread = float(s_N.max() / s_N.min())
        LOG.info("density: the largest is %.3g times the smallest.", spread)
        if spread < UNIFORM:
            LOG.warning(
                "density is effectively uniform (max/min = %.2f): a draw by it is a random one. "
                "Raise concat or change the bandwidth if the pool has dense regions.",
                spread,
            )
        if self.concat > 1 and len(s_N) > CROWDED * self.buckets:
            LOG.warning(
                "each bucket holds %.0f strangers of %s rows, which hide what is near: set buckets "
                "to %s or more (%s bytes of counters).",
                len(s_N) / self.buckets,
                f"{len(s_N):,}",
                f"{-(-len(s_N) // CROWDED):,}",
                f"{4 * self.hashes * -(-len(s_N) // CROWDED):,}",
            )


def collision(distance: float) -> float:
    """Chance that one hash takes two points for one, at a distance in units of the bandwidth.

    p(c) = 1 - 2 Phi(-1/c) - 2c / sqrt(2 pi) * (1 - exp(-1 / (2 c^2)))  (Datar et al., 2004).
    """
    if distance == 0:
        return 1.0
    apart = math.sqrt(2 / math.pi) * distance * -math.expm1(-0.5 / distance**2)
    return max(0.0, math.erf(1 / (math.sqrt(2) * distance)) - apart)


@dataclass(frozen=True, kw_only=True)
class _Hashing:
    """The drawn hashes. A call gives the counter that each row meets in each hash, N x R."""

    bandwidth: float
    buckets: int
    normal_DRC: Floats  # whole numbers, as are the embeddings: see GRID
    shift_RC: Floats
    factor_RC: Ints

    @staticmethod
    def draw(of: Density, size: int) -> "_Hashing":
        """For embeddings of that size."""
        draw = np.random.default_rng(random_words(4, "density", of.seed))
        normal_DRC = draw.standard_normal((size, of.hashes, of.concat))
        factor_RC = draw.integers(0, of.buckets, (of.hashes, of.concat))
        factor_RC[:, 0] = 1
        return _Hashing(
            bandwidth=of.bandwidth,
            buckets=of.buckets,
            normal_DRC=np.rint(normal_DRC * GRID),
            shift_RC=draw.uniform(0, of.bandwidth, (of.hashes, of.concat)),
            factor_RC=factor_RC,
        )

    def __call__(self, unit_ND: Matrix) -> Ints:
        # products of whole numbers, whose sums stay below 2^53: exact in whatever order
        grid_ND = np.rint(unit_ND.astype(np.float64) * GRID)
        at_NRC = np.tensordot(grid_ND, self.normal_DRC, 1) / GRID**2
        whole_NRC = np.floor((at_NRC + self.shift_RC) / self.bandwidth).astype(np.int64)
        bucket_NR: Ints = (whole_NRC * self.factor_RC).sum(axis=2) % self.buckets  # floored: >= 0
        return bucket_NR + np.arange(len(self.factor_RC)) * self.buckets


def _seen(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """The rows with an embedding, all of it finite."""
    seen = rows.select("id", column).drop_nulls(column)
    return seen.filter(np.isfinite(seen[column].to_numpy()).all(axis=1))
