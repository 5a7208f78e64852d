"""DSIR: do this row's n-grams stand in the target more often than in the pool?"""

# B = buckets, G = n-grams of a row

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.records.schema import CONTENT, KINDS, Kind, kind_of
from gristmill.pipeline.signals.views import plain_text
from gristmill.selectors.data_space._ngrams import NgramCounts, ngrams

TINY = 1e-8  # the authors' addition to a share: a bucket may be empty


@dataclass(frozen=True, kw_only=True)
class Dsir(Scorer):
    """Log importance weight of a row's hashed n-grams, the target's against the pool's.

    score(z) = sum_g log(p_target(h(g)) + 1e-8) - log(p_pool(h(g)) + 1e-8) over the n-grams g of z,
    h(g) = SHA-256(g) mod buckets, p the shares of the buckets among all n-grams of a set; n-grams
    are of 1 to n lower-case words or runs of punctuation, joined by spaces.

    Also called: data selection via importance resampling. A ratio of two bags of words, not a
    classifier: nothing is trained.

    Reads: the bare text of all turns; no model.
    Reference: required; hundreds of rows or more of the task, in neither pool nor test set. The
        counts of several tasks (`task` of a row, else its source) add up, so that the longer texts
        count for more. by_task=True scores each by itself too, as `score_target_<task>`: the rule
        `round_robin` splits a budget between them, by the sizes that the run tells if these are its
        `shares`.
    Higher means: likelier in the target than in the pool. The default rule `gumbel` draws rows in
        proportion to exp(score), without replacement, as the paper does. `score_words` is the
        row's length in words.
    Cost: the text is read twice, to count and to score, O(words); 80 kB of counts a shard.
    Paper: Xie et al., "Data Selection for Language Models via Importance Resampling", NeurIPS 2023,
        arXiv:2302.03169 (code: p-lambda/dsir).
    Departures: no row is too short by default (least_words=100 is the authors', for pages of the
        web). Scores are those of the authors' package to 1e-6 where it runs on nltk 3.10 or newer;
        older ones tear words at combining marks.
    Relations: the cheapest method with a target; `embedding_similarity` and `rds_plus` read
        meaning, this words. The sum grows with the length of a row: a draw hardly differs from the
        top, and long rows lead; per_ngram=True compares rows of unlike lengths.
    Example: `Dsir().score(pool, reference)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2302.03169"
    cost: ClassVar[str] = "0 fe"
    rule: ClassVar[str] = "gumbel"
    n: int = 2
    buckets: int = 10_000
    least_words: int = 0
    per_ngram: bool = False  # the mean over the n-grams, in the place of the sum
    by_task: bool = False  # a score for each task of the reference set beside that for all

    def __post_init__(self) -> None:
        if self.n < 1 or self.buckets < 1:
            raise ValueError(f"n and buckets are at least 1; found {self.n} and {self.buckets}.")

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (NgramCounts(n=self.n, buckets=self.buckets, by_task=self.by_task),)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("*content",)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        counts = self.given.artifacts[NgramCounts.artifact]
        names, ratio_SB = _log_ratios(counts.path)
        return pl.concat([self._block(b, names, ratio_SB) for b in pool.blocks()])

    def _block(
        self, block: pl.DataFrame, names: list[str], ratio_SB: npt.NDArray[np.float64]
    ) -> pl.DataFrame:
        columns = list(CONTENT[kind_of(block.columns)])
        found: list[tuple[float | str | None, ...]] = []
        for row in block.select(columns).iter_rows(named=True):
            words, bucket_G = ngrams(plain_text(row), self.n, self.buckets)
            if words < max(1, self.least_words):
                reason = "too_few_words" if words else "empty_text"
                found.append((*(None for _ in names), words, reason))
                continue
            size = len(bucket_G) if self.per_ngram else 1
            found.append((*(float(r_B[bucket_G].sum()) / size for r_B in ratio_SB), words, None))
        schema: Any = dict.fromkeys((*names, "score_words"), pl.Float64) | {"reason": pl.String}
        scored = pl.DataFrame(found, schema=schema, orient="row")
        return block.select("id").hstack(scored)


@lru_cache(maxsize=4)
def _log_ratios(path: Path) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The columns of scores, all targets first, and the log ratio of every bucket for each."""
    counts = pl.read_parquet(path).sort("bucket")
    sides = ["target", *sorted(c for c in counts.columns if c.startswith("target_"))]

    def log_share(side: str) -> npt.NDArray[np.float64]:
        none = pl.zeros(counts.height, dtype=pl.Int64, eager=True)  # a pool of no rows
        number_B = counts.get_column(side, default=none).to_numpy()
        return np.asarray(np.log(number_B / max(1, number_B.sum()) + TINY))

    pool_B = log_share("pool")
    names = ["score", *(f"score_{side}" for side in sides[1:])]
    return names, np.stack([log_share(side) - pool_B for side in sides])
