"""Facility location over a graph of nearest neighbours: the same cover, for pools of millions."""

# N = pool rows, L = neighbours of a row

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal, View
from gristmill.pipeline.numerics.coverage import Ints, Matrix, cosine, facility_location
from gristmill.pipeline.numerics.neighbours import neighbours
from gristmill.pipeline.numerics.sparse_cover import cover_graph, covers
from gristmill.pipeline.records.schema import KINDS, Kind, uniform
from gristmill.pipeline.selection.picks import number_of
from gristmill.pipeline.signals.forward_signals import SentenceEmbedding
from gristmill.pipeline.signals.views import PlainText
from gristmill.selectors.coverage import embedded, scored

SAMPLE = 5_000  # rows on which `details` runs the exact greedy


@dataclass(frozen=True, kw_only=True)
class FacilityLocationKnn(Scorer):
    """Greedy maximum of the pool's similarity to the picks, gains counted among near neighbours.

    f(S) = sum_i max(0, max_{j in S} e(i) . e(j)) over the rows i of the pool, as in
    `facility_location`; z_k = argmax_z sum_{i: z in L(i)} max(0, e(i) . e(z) - c_k(i)), with L(i)
    the `neighbours` rows nearest to i and c_k(i) the similarity of i to the picks before;
    score(z_k) = -k.

    Also called: sparse facility location, lazy greedy on a k-nearest-neighbour graph. It is not a
    clustering: cells only say which rows are compared.

    Reads: `SentenceEmbedding` of the model in the role "embedder".
    Reference: none; `facility_location` takes a reference set of hundreds for millions of rows.
    Higher means: picked earlier, adds more cover. Keep it. Rows never picked have no score
        (`not_reached`); `score_gain` is the cover that a pick added among its neighbours.
    Cost: 1 forward of the embedder and 4 D bytes a row to observe; O(N (10,000 + k) D) to score,
        with about 4 D + 20 L bytes a row in memory.
    Paper: Minoux, "Accelerated greedy algorithms", 1978; Wei, Iyer and Bilmes, "Fast Multi-Stage
        Submodular Maximization", ICML 2014; Johnson, Douze and Jegou, "Billion-scale similarity
        search with GPUs", arXiv:1702.08734 (faiss).
    Departures: neighbours beyond the 10,000 rows of the nearest cells are not looked for; the
        cover of all rows is brought up to date every 256 picks (more often at first), also
        beyond the graph, so that an early pick far away is not taken for none.
    Relations: `facility_location` is exact and takes 50,000 rows; up to `neighbours` rows both pick
        the same. `details` gives the ratio of the two objectives on 5,000 rows of the pool.
        `kcenter` serves the farthest row and takes millions as it is.
    Example: `FacilityLocationKnn(picks=0.005).score(pool)`
    """

    scope: ClassVar = "pool"
    greedy: ClassVar[bool] = True
    records: ClassVar[tuple[Kind, ...]] = KINDS
    paper: ClassVar[str] = "arXiv:1702.08734"
    cost: ClassVar[str] = "1 fe of the embedder"
    picks: float | None = None  # share of the rows; from 2, a number of rows; none: the budget's
    neighbours: int = 64
    view: View = field(default_factory=PlainText)

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1; found {self.neighbours}.")

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (SentenceEmbedding(view=self.view),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        ids, unit_ND = embedded(pool, self.signals[0].column)
        asked = number_of(self.picks, self.given, pool, len(ids))
        picks = cover_graph(unit_ND, neighbours(unit_ND, self.neighbours), asked)
        return scored(pool, ids, picks, "score_gain", picks.worth)

    def details(self, pool: Observations) -> pl.DataFrame:
        """The exact greedy beside this one on at most 5,000 rows of the pool, drawn by id.

        One row: `rows`, `picks` (the same share as of the pool), `objective` and `exact` (the mean
        similarity of a row to its nearest pick), and `ratio` of the two.
        """
        ids, unit_ND = embedded(pool, self.signals[0].column)
        asked = number_of(self.picks, self.given, pool, len(ids))
        draws = [uniform(0, "facility_location_knn", i) for i in ids]
        unit_ND = unit_ND[np.sort(np.argsort(draws, kind="stable")[:SAMPLE])]
        rows = len(unit_ND)
        picks = max(1, round(asked * rows / len(ids)))
        exact = facility_location(cosine(unit_ND), covered=rows, candidates=rows, picks=picks)
        here = cover_graph(unit_ND, neighbours(unit_ND, self.neighbours), picks)
        objective, best = (_objective(unit_ND, p.rows) for p in (here, exact))
        ratio = objective / best
        told = {"rows": rows, "picks": picks, "objective": objective, "exact": best, "ratio": ratio}
        return pl.DataFrame([told])


def _objective(unit_ND: Matrix, picked: Ints) -> float:
    return float(covers(unit_ND, picked).mean(dtype=np.float64))
