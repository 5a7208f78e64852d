"""Round robin: targets take turns."""

from dataclasses import dataclass
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

    Attributes:
        prefix: of the score columns, one per target.
    """

    by_target: ClassVar[bool] = True
    in_memory: ClassVar[str] = "each target takes turns from an order of its own of the whole pool"
    prefix: str = "score_target_"

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        targets = [c for c in scores.columns if c.startswith(self.prefix)]
        if not targets:
            raise ValueError(
                f"round robin needs one score column per target, named {self.prefix}<j>; found "
                f"{[c for c in scores.columns if c.startswith('score')]}: set prefix, or score "
                "with a method that has tasks (methods keep the scores of at most 1,024)."
            )
        queues = []
        for name in targets:
            known = np.flatnonzero(scores[name].is_finite().fill_null(False))
            part = pl.DataFrame({"id": scores["id"].gather(known), "score": scores[name][known]})
            queues.append(iter(known[best_first(part)].tolist()))
        free = bytearray(b"\1") * scores.height
        picked: list[int] = []
        while queues:
            waiting = []
            for queue in queues:
                row = next((i for i in queue if free[i]), None)
                if row is not None:
                    free[row] = 0
                    picked.append(row)
                    waiting.append(queue)
            queues = waiting
        return answer(np.array(picked, np.int64))
