"""NUGGETS: on how many tasks does this record help as the one example shown?"""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal
from gristmill.pipeline.records.schema import content_id
from gristmill.selectors.judged import blocks_of, only_column
from gristmill.selectors.judged._one_shot import Exemplar, OneShotGains


@dataclass(frozen=True, kw_only=True)
class Nuggets(Scorer):
    """Share of anchor tasks whose answer becomes more probable behind the record.

    score(z) = |{a : log p(answer_a | z, task_a) > log p(answer_a | task_a)}| / |anchors|, sums over
    the answer's tokens, strictly greater; an anchor that is z itself does not count.

    Also called: golden score, one-shot learning score. Not a similarity: a record may help
    many tasks that look unlike it.

    Reads: `OneShotGains` of the model in the role "target".
    Reference: required; the anchors: 100 or more examples of the task, in neither pool nor test
        set, of at most `anchor_tokens` tokens each. Longer ones do not serve; of more than
        `anchors`, those nearest to k-means centroids do.
    Higher means: the record teaches the task by example. Keep it; the paper keeps scores above
        0.85, or the top 1%.
    Cost: 1 forward over the row, whose keys and values all anchors share, and 1 over each anchor's
        own tokens behind it: at 100 anchors of 100 tokens, about 10,000 tokens a row. 20 bytes an
        anchor and row to keep; O(N A) to score.
    Paper: Li et al., "One-Shot Learning as Instruction Data Prospector for Large Language Models",
        ACL 2024, arXiv:2312.10302.
    Departures: a start token on both sides and a blank line between example and task; the original
        has the token on the one-shot side alone and no line (`parity=True`), so that part of every
        win is the token's. `score_floor` is the share that an empty example wins. An anchor over
        the limit is dropped, not cut in its answer; a row whose own answer is cut away altogether
        is no example, and null. Requests are shown whole, without a block of
        their own for inputs.
    Relations: the same question as gradient methods (`less`), asked of in-context learning: no
        backward pass, far more tokens. `rds_plus` is a hundred times cheaper.
    Example: `Nuggets(anchors=100).score(pool, reference)`
    """

    scope: ClassVar = "row"
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2312.10302"
    cost: ClassVar[str] = "1 fe + 1 fe of each anchor behind it"
    reads_reference: ClassVar[bool] = True
    anchors: int = 100  # the paper's
    anchor_tokens: int = 200  # the paper's limit
    parity: bool = False
    exclude_self: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.anchors < 1 or self.anchor_tokens < 2:
            raise ValueError(
                "anchors is at least 1 and anchor_tokens at least 2; found "
                f"{self.anchors} and {self.anchor_tokens}."
            )

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (
            OneShotGains(
                view=Exemplar(task_tokens=self.anchor_tokens, parity=self.parity),
                records=self.given.reference,
                anchors=self.anchors,
                seed=self.seed,
            ),
        )

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return ()

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        column = only_column(pool, self.signals[0])
        known = np.array([content_id("example", json.loads(r)) for r in self.given.reference])
        rows: list[tuple[Any, ...]] = []
        for block in blocks_of(pool):
            for ident, seen in block.select("id", column).iter_rows():
                if seen is None:
                    rows.append((ident, None, None, None, None))
                    continue
                other = np.ones(len(seen["anchor"]), dtype=bool)
                if self.exclude_self:
                    other = known[seen["anchor"]] != ident
                if not other.any():
                    rows.append((ident, None, None, None, "no_other_anchor"))
                    continue
                gain_A, floor_A = (np.asarray(seen[name])[other] for name in ("gain", "floor"))
                wins, floor = float((gain_A > 0).mean()), float((floor_A > 0).mean())
                rows.append((ident, wins, floor, float(gain_A.mean()), None))
        return pl.DataFrame(
            rows,
            orient="row",
            schema={
                "id": pl.String,
                "score": pl.Float64,
                "score_floor": pl.Float64,
                "score_gain": pl.Float64,
                "reason": pl.String,
            },
        )
