"""Prior filter: are this row's tokens about as common as those of other rows?"""

# N = rows that have both statistics

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.numerics.ordering import best_first
from gristmill.pipeline.numerics.ranks import place
from gristmill.pipeline.records.schema import KINDS, Kind
from gristmill.selectors.data_space._token_prior import PriorMoments, TokenPrior, Weight

Floats = npt.NDArray[np.float64]
LEAST_BLOCK = 8
_DIGITS = 6  # of a block's number in its row


@dataclass(frozen=True, kw_only=True)
class PriorFilter(Scorer):
    """How far one must go in from the ends of two statistics of token priors to meet the row.

    p(x) = tf(x) / sum tf over the pool, mu(z) = mean_t log p(z_t), sigma(z) = std_t p(z_t) with one
    degree of freedom less; a row's places are its ranks by |mu - median| and by |sigma - median|,
    the farthest first, and score(z) = min(place_mu, place_sigma) / N. The paper drops the union of
    the m farthest rows by either, with the smallest m that leaves no more than `keep` rows, and
    takes the last one back if that was one too many: the best `keep` rows by this score.

    Also called: prior-based data filtering. A stand-in for perplexity without a model: noise is
    rare tokens or few different ones. It sees no order: shuffled words score alike.

    Reads: the tokenizer of the model in the role "target"; no weights.
    Reference: none.
    Higher means: nearer the middle of the pool by both statistics. Keep it. The paper keeps 50 %.
        `score_mean` and `score_std` are mu and sigma. Rows of fewer than two tokens have no sigma
        (`too_few_tokens`).
    Cost: tokens of 1 % of the rows (20,000 at least) to count, of all rows to observe, and 8 bytes
        a row; no text is read to score, O(N log N).
    Paper: Seo et al., "Prior-based Noisy Text Data Filtering: Fast and Strong Alternative For
        Perplexity", arXiv:2509.18577 (code: ybseo-ac/prior_filter).
    Departures: none by default. The authors' code weighs a token by count times rows
        (prior="tfdf"), and keeps the rows whose ranks by both values lie in a window around the
        middle (window="rank": score = min of 1 - |2 q - 1| over both, q the share of rows below).
        Its rows are blocks of 512 tokens: block=512 ranks even blocks of about so many among those
        of all rows, and a row's score is the mean of its blocks'.
    Relations: `perplexity` costs a forward pass and reads order. The rare is not always noise: a
        language below about 1 % of a pool goes, from 20 % on it stays, so run it a language at a
        time. Nor is the common always sound: markup full of numbers passes in a pool that is
        largely sums, and is found beside prose. `dsir` asks for likeness to a target instead.
    Example: `PriorFilter().score(pool)`
    """

    scope: ClassVar = "pool"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    paper: ClassVar[str] = "arXiv:2509.18577"
    cost: ClassVar[str] = "0 fe"
    prior: Weight = "tf"
    window: Literal["value", "rank"] = "value"
    share: float = 0.01  # of the rows whose tokens are counted
    seed: int = 0
    block: int = 0  # tokens of the blocks that are ranked; 0: rows are

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is above 0 and at most 1; found {self.share}.")
        if self.block and self.block < LEAST_BLOCK:
            raise ValueError(
                f"block is 0 (whole rows) or at least {LEAST_BLOCK} tokens; found {self.block}."
            )

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (TokenPrior(share=self.share, seed=self.seed, block=self.block),)

    @property
    def signals(self) -> tuple[Signal, ...]:
        counts = self.given.artifacts.get(TokenPrior.artifact)
        return (PriorMoments(prior=counts, weight=self.prior, block=self.block),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        ((column, _),) = pool.columns(self.signals[0])
        moments = (b.select("id", at=column) for b in pool.blocks())
        if self.block:
            moments = (m.explode("at") for m in moments)
        at = pl.col("at").struct
        rows = pl.concat(
            [
                m.select("id", score_mean=at.field("mean"), score_std=at.field("std"))
                for m in moments
            ]
        ).with_columns(pl.col("score_mean", "score_std").cast(pl.Float64))
        known = _numbered(rows.drop_nulls()) if self.block else rows.drop_nulls()
        score_N = _by_value(known) if self.window == "value" else _by_rank(known)
        scored = known.select(
            pl.col("id").str.head(-_DIGITS) if self.block else "id",
            score=pl.Series(score_N, dtype=pl.Float64),
        )
        if self.block:
            rows, scored = (f.group_by("id", maintain_order=True).mean() for f in (rows, scored))
        short = pl.col("score_mean").is_not_null() & pl.col("score_std").is_null()
        return rows.join(scored, on="id", how="left", maintain_order="left").select(
            "id",
            "score",
            "score_mean",
            "score_std",
            reason=pl.when(short).then(pl.lit("too_few_tokens")),
        )


def _numbered(blocks: pl.DataFrame) -> pl.DataFrame:
    """Blocks with ids of their own: the row's, and their number in it."""
    number = pl.int_range(pl.len()).over("id").cast(pl.String).str.zfill(_DIGITS)
    return blocks.with_columns(id=pl.col("id") + number)


def _by_value(rows: pl.DataFrame) -> Floats:
    """At which m of N a row enters the union of the m farthest by either statistic, over N."""
    enters_N = np.full(rows.height, rows.height, dtype=np.int64)
    for column in ("score_mean", "score_std"):
        distance = (pl.col(column) - pl.col(column).median()).abs()
        order = best_first(rows.select("id", score=distance))
        place_N = np.empty_like(order)
        place_N[order] = np.arange(1, len(order) + 1)
        np.minimum(enters_N, place_N, out=enters_N)
    # two rows may enter at one m; the one of the higher id entered last, and is taken back first
    at = rows.select("id", enters=pl.Series(enters_N))
    last = at.select((pl.col("id") > pl.col("id").min().over("enters")).cast(pl.Float64) / 2)
    return np.asarray((enters_N + last.to_series().to_numpy()) / max(1, rows.height))


def _by_rank(rows: pl.DataFrame) -> Floats:
    """Near 1: both of a row's ranks by value are near the middle; 0: one of them is at an end."""
    off = [1 - (2 * place(pl.col(c)) - 1).abs() for c in ("score_mean", "score_std")]
    return rows.select(pl.min_horizontal(off)).to_series().to_numpy()
