"""Gumbel: a weighted draw without replacement."""

# N = candidates

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.blocks import Blocks, Preference, Resorted
from gristmill.pipeline.numerics.keys import ordered
from gristmill.pipeline.numerics.ordering import Floats, answer, best_first
from gristmill.pipeline.records.schema import uniform


@dataclass(frozen=True, kw_only=True)
class Gumbel(Rule):
    """Weighted sampling without replacement: the top of score / temperature + Gumbel noise.

    A row is drawn in proportion to exp(score / temperature); the noise is keyed by (seed, id).
    """

    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"the temperature must be above 0; found {self.temperature} "
                f"(towards 0 the rule becomes top, towards infinity a random draw)."
            )

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        noisy_N = self._noisy(scores["score"].to_numpy(), scores["id"])
        return answer(best_first(pl.DataFrame({"id": scores["id"], "score": noisy_N})))

    def streamed(self, rows: Blocks, remaining: float) -> Preference:
        noisy = (
            Resorted(keys=(ordered(-self._noisy(b.score_N, b.ids())), *b.id_keys)) for b in rows
        )
        return Preference(rows=rows.resorted(noisy))

    def _noisy(self, score_N: Floats, ids: Iterable[str]) -> Floats:
        u_N = np.fromiter((uniform(self.seed, "gumbel", i) for i in ids), float)
        noisy_N: Floats = score_N / self.temperature - np.log(-np.log(u_N))
        return noisy_N
