"""Round robin: targets take turns."""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.ordering import answer, best_first


@dataclass(frozen=True, kw_only=True)
class RoundRobin(Rule):
    """Targets take turns: each takes its best row that is still free, in column order.

    A target whose best row is taken goes on to its next one, it does not lose its turn. Rows that
    no target scored are left out.

    With shares the next turn is always of the target that has the least for its share, so that of
    any budget each has its part to within a few rows.

    Attributes:
        prefix: of the score columns, one per target.
        shares: target -> part of the picks; relative, so 3 and 1 mean 75 and 25 %; none: equal.
    """

    by_target: ClassVar[bool] = True
    in_memory: ClassVar[str] = "each target takes turns from an order of its own of the whole pool"
    prefix: str = "score_target_"
    shares: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(0 < share < math.inf for share in self.shares.values()):
            raise ValueError(f"shares must be above 0; found {dict(self.shares)}.")

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        targets = [c for c in scores.columns if c.startswith(self.prefix)]
        if not targets:
            raise ValueError(
                f"round robin needs one score column per target, named {self.prefix}<j>; found "
                f"{[c for c in scores.columns if c.startswith('score')]}: set prefix, or score "
                "with a method that has tasks (methods keep the scores of at most 1,024)."
            )
        names = [name.removeprefix(self.prefix) for name in targets]
        if self.shares and set(self.shares) != set(names):
            raise ValueError(
                f"shares name {', '.join(self.shares)}, and the scores have the targets "
                f"{', '.join(names)}: give each of these its share."
            )
        queues = []
        for name in targets:
            known = np.flatnonzero(scores[name].is_finite().fill_null(False))
            part = pl.DataFrame({"id": scores["id"].gather(known), "score": scores[name][known]})
            queues.append(iter(known[best_first(part)].tolist()))
        share_S = [self.shares.get(name, 1.0) for name in names]
        free = bytearray(b"\1") * scores.height
        picked: list[int] = []
        # what a target will have for its share; of equals the first column's turn comes first
        turns = [(1 / share, target, 1) for target, share in enumerate(share_S)]
        heapq.heapify(turns)
        while turns:
            _, target, number = heapq.heappop(turns)
            row = next((i for i in queues[target] if free[i]), None)
            if row is not None:
                free[row] = 0
                picked.append(row)
                number += 1
                heapq.heappush(turns, (number / share_S[target], target, number))
        return answer(np.array(picked, np.int64))
