"""Facility location: how much nearer does this row bring the pool to its nearest pick?"""

from dataclasses import dataclass, field
from typing import ClassVar

import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal, View
from gristmill.pipeline.numerics.coverage import cosine, facility_location
from gristmill.pipeline.records.schema import KINDS, Kind
from gristmill.pipeline.selection.picks import number_of
from gristmill.pipeline.signals.forward_signals import SentenceEmbedding
from gristmill.pipeline.signals.views import PlainText
from gristmill.selectors.coverage import embedded, scored


@dataclass(frozen=True, kw_only=True)
class FacilityLocation(Scorer):
    """Greedy maximum of the pool's similarity to the picks: representatives, dense regions first.

    f(S) = sum_i max(0, max_{j in S} e(i) . e(j)) over the rows i of the reference set, or of the
    pool without one; z_k = argmax_z f(S + z) - f(S); score(z_k) = -k. Greedy reaches at least
    1 - 1/e of the best f.

    Also called: submodular coverage, exemplar selection, the objective of k-medoids. It is not a
    nearest-neighbour search: a row like an earlier pick is worth little.

    Reads: `SentenceEmbedding` of the model in the role "embedder".
    Reference: optional; rows to be covered instead of the pool, some hundreds or more, not in the
        pool.
    Higher means: picked earlier, adds more cover. Keep it. Rows never picked have no score
        (`not_reached`); `score_gain` is the cover that a pick added.
    Cost: 1 forward of the embedder and 4 D bytes a row to observe; two sweeps over all pairs,
        O(N M D), at most 2.5e9 pairs (50,000 rows among themselves), and 1 GiB.
    Paper: Minoux, "Accelerated greedy algorithms", 1978; Wei et al., "Submodularity in Data Subset
        Selection and Active Learning", ICML 2015; Schreiber et al., "apricot", arXiv:1906.03543.
    Departures: negative cosines count as 0, which keeps f monotone from the empty set on.
    Relations: `facility_location_knn` takes millions of rows. `kcenter` serves the farthest row,
        this the many: steadier with outliers, costlier. `rds_plus` and `embedding_similarity` rank
        by likeness to a target and repeat themselves; with a reference set this spreads the picks
        over the target.
    Example: `FacilityLocation(picks=0.1).score(pool)`
    """

    scope: ClassVar = "pool"
    greedy: ClassVar[bool] = True
    records: ClassVar[tuple[Kind, ...]] = KINDS
    reference: ClassVar = "optional"
    paper: ClassVar[str] = "arXiv:1906.03543"
    cost: ClassVar[str] = "1 fe of the embedder"
    picks: float | None = None  # share of the rows; from 2, a number of rows; none: the budget's
    view: View = field(default_factory=PlainText)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (SentenceEmbedding(view=self.view),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        column = self.signals[0].column
        ids, unit_ND = embedded(pool, column)
        target_MD = unit_ND if reference is None else embedded(reference, column)[1]
        picks = facility_location(
            cosine(unit_ND, target_MD),
            covered=len(target_MD),
            candidates=len(ids),
            picks=number_of(self.picks, self.given, pool, len(ids)),
        )
        return scored(pool, ids, picks, "score_gain", picks.worth)
