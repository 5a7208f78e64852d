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
        counts of several tasks add up, so that the longer texts count for more.
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

    def __post_init__(self) -> None:
        if self.n < 1 or self.buckets < 1:
            raise ValueError(f"n and buckets are at least 1; found {self.n} and {self.buckets}.")

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (NgramCounts(n=self.n, buckets=self.buckets),)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("*content",)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        counts = self.given.artifacts[NgramCounts.artifact]
        ratio_B = _log_ratio(counts.path)
        return pl.concat([self._block(b, ratio_B) for b in pool.blocks()])

    def _block(self, block: pl.DataFrame, ratio_B: npt.NDArray[np.float64]) -> pl.DataFrame:
        columns = list(CONTENT[kind_of(block.columns)])
        found: list[tuple[float | None, float, str | None]] = []
        for row in block.select(columns).iter_rows(named=True):
            words, bucket_G = ngrams(plain_text(row), self.n, self.buckets)
            if words < max(1, self.least_words):
                found.append((None, words, "too_few_words" if words else "empty_text"))
                continue
            weight = float(ratio_B[bucket_G].sum())
            found.append((weight / len(bucket_G) if self.per_ngram else weight, words, None))
        schema: Any = {"score": pl.Float64, "score_words": pl.Float64, "reason": pl.String}
        scored = pl.DataFrame(found, schema=schema, orient="row")
        return block.select("id").hstack(scored)


@lru_cache(maxsize=4)
def _log_ratio(path: Path) -> npt.NDArray[np.float64]:
    counts = pl.read_parquet(path).sort("bucket")
    target_B, pool_B = (
        np.log(counts[side].to_numpy() / max(1, counts[side].sum()) + TINY)
        for side in ("target", "pool")
    )
    return np.asarray(target_B - pool_B)
