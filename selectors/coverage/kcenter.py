"""k-center: is this row far from everything that was picked before it?"""

# N = pool rows

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal, View
from gristmill.pipeline.numerics.coverage import cosine, k_center
from gristmill.pipeline.records.schema import KINDS, Kind, uniform
from gristmill.pipeline.selection.picks import number_of
from gristmill.pipeline.signals.forward_signals import SentenceEmbedding
from gristmill.pipeline.signals.views import PlainText
from gristmill.selectors.coverage import embedded, scored


@dataclass(frozen=True, kw_only=True)
class KCenter(Scorer):
    """Farthest-first traversal: each pick is the row farthest from all picks before it.

    z_1 is drawn at random; z_k = argmax_z min_{j<k} |e(z) - e(z_j)|; score(z_k) = -k. The radius,
    the distance of the farthest row to its nearest pick, is at most twice the best possible.

    Also called: greedy k-center, core-set selection, Gonzalez' algorithm. It is not k-means: picks
    are rows, and the worst row counts, not the average one.

    Reads: `SentenceEmbedding` of the model in the role "embedder".
    Reference: none.
    Higher means: picked earlier, farther from what is already there. Keep it. Rows never picked
        have no score (`not_reached`); `score_distance` is the distance to the picks at the time.
    Cost: 1 forward of the embedder and 4 D bytes a row to observe; O(N k D) to score at worst,
        with 4 D + 100 bytes a row in memory.
    Paper: Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985; Sener and
        Savarese, "Active Learning for CNNs: A Core-Set Approach", ICLR 2018, arXiv:1708.00489.
    Departures: no integer program that swaps picks afterwards; bounds spare most distances, and
        the picks stay those of the plain algorithm, for millions of rows.
    Relations: cheaper than `facility_location`, which covers the many instead of the worst. This
        one runs after outliers: remove duplicates and poor rows first.
    Example: `KCenter(picks=0.1).score(pool)`
    """

    scope: ClassVar = "pool"
    greedy: ClassVar[bool] = True
    records: ClassVar[tuple[Kind, ...]] = KINDS
    paper: ClassVar[str] = "arXiv:1708.00489"
    cost: ClassVar[str] = "1 fe of the embedder"
    picks: float | None = None  # share of the rows; from 2, a number of rows; none: the budget's
    seed: int = 0
    view: View = field(default_factory=PlainText)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (SentenceEmbedding(view=self.view),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        ids, unit_ND = embedded(pool, self.signals[0].column)
        draw_N = [uniform(self.seed, "kcenter", i) for i in ids]
        picks = k_center(
            cosine(unit_ND),
            candidates=len(ids),
            picks=number_of(self.picks, self.given, pool, len(ids)),
            start=int(np.argmin(draw_N)),
        )
        # |x - y|^2 = 2 - 2 x . y for unit vectors; the first pick has nothing to be far from
        far = np.sqrt(np.maximum(2 - 2 * picks.worth, 0))
        return scored(pool, ids, picks, "score_distance", np.where(np.isinf(far), np.nan, far))
