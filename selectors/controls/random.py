"""Random: the control that every selection has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal
from gristmill.pipeline.records.schema import KINDS, Kind, uniform


@dataclass(frozen=True, kw_only=True)
class Random(Scorer):
    """A uniform number per record, drawn from its id and a seed.

    score(z) = u(seed, id(z)) in (0, 1).

    Also called: uniform sampling. It is not shuffling: the draw of a record does not depend on
    which other records there are, so a larger pool keeps the order of the smaller one.

    Reads: nothing.
    Reference: none.
    Higher means: nothing; the highest are kept because some have to be.
    Cost: no pass; O(N) to score.
    Paper: none; the mandatory control. See "Random is almost all you need", arXiv:2410.09335.
    Departures: none.
    Relations: under the rule `stratified` it is source-balanced random, the stronger control.
    Example: `Random(seed=1).score(pool)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    paper: ClassVar[str] = "arXiv:2410.09335"
    cost: ClassVar[str] = "0 fe"
    seed: int = 0

    @property
    def signals(self) -> tuple[Signal, ...]:
        return ()

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        ids = pl.concat([b["id"] for b in pool.blocks()])
        draws = [uniform(self.seed, "random", ident) for ident in ids]
        return pl.DataFrame({"id": ids, "score": pl.Series(draws, dtype=pl.Float64)})
