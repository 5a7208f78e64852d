"""Curriculum: what `top` keeps, in ascending order of a column."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.blocks import (
    ID,
    Blocks,
    Preference,
    Resorted,
    Running,
    Walk,
    group,
    measure,
)
from gristmill.pipeline.numerics.keys import ordered
from gristmill.pipeline.numerics.ordering import answer, best_first, fitting


@dataclass(frozen=True, kw_only=True)
class Curriculum(Rule):
    """The rows that `top` keeps, in ascending order of `by`: easy first, or poor quality first.

    The ledger's `order` carries the place of each kept row.

    Attributes:
        by: column to ascend in, e.g. "score", "tokens" or a score part; nulls come first.
        within: sort within the groups of this column and interleave them evenly, so that a source
            whose level is high does not end up last as one block.
    """

    by: str = "score"
    within: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,) if self.within is None else (self.by, self.within)

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        at = best_first(scores)
        at = at[fitting(scores["cost"].to_numpy()[at], remaining)]
        frame = scores.select("id", *dict.fromkeys(self.needs)).with_row_index("index")
        frame = frame[at].sort(self.by, "id", nulls_last=False)
        if self.within is not None:
            place = (pl.int_range(pl.len()).over(self.within) + 0.5) / pl.len().over(self.within)
            frame = frame.with_columns(place=place).sort("place", self.by, "id")
        return answer(frame["index"].to_numpy().astype(np.int64))

    @property
    def measures(self) -> tuple[str, ...]:
        return (self.by,)

    @property
    def groups(self) -> tuple[str, ...]:
        return () if self.within is None else (self.within,)

    def streamed(self, rows: Blocks, remaining: float) -> Preference:
        ascending = rows.resorted(self._kept(rows, Walk(remaining)))
        if self.within is None:
            return Preference(rows=ascending)
        return Preference(rows=ascending.resorted(self._interleaved(ascending, self.within)))

    def _kept(self, rows: Blocks, walk: Walk) -> Iterator[Resorted]:
        carried = [*ID, measure(self.by), *map(group, self.groups)]
        for block in rows:
            yield Resorted(
                keys=(block.columns[measure(self.by)], *block.id_keys),
                taken_N=walk.fitting(block.cost_N),
                columns={name: block.columns[name] for name in carried},
            )

    def _interleaved(self, rows: Blocks, within: str) -> Iterator[Resorted]:
        sizes = np.zeros(len(rows.names(within)), np.int64)
        for part in rows.unordered([group(within)]):
            sizes += np.bincount(part[group(within)], minlength=len(sizes))
        running = Running(len(sizes))
        for block in rows:
            code_N = block.columns[group(within)]
            place_N = (running.add(code_N, np.ones(len(block), np.int64)) - 0.5) / sizes[code_N]
            by_N = block.columns[measure(self.by)]
            yield Resorted(keys=(ordered(place_N), by_N, *block.id_keys))
