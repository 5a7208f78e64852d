"""DEITA: complex, well answered, and unlike anything better that was kept."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import EncodingFacts, Observations, Scorer, Signal
from gristmill.pipeline.numerics.similarity import unit
from gristmill.pipeline.signals.forward_signals import HiddenState, SentenceEmbedding
from gristmill.pipeline.signals.next_token import NextTokenProbs, digits
from gristmill.pipeline.signals.views import Dialogue, PlainText
from gristmill.selectors.judged import (
    Floats,
    blocks_of,
    column_of,
    probabilities,
)
from gristmill.selectors.judged._judge import Judge

# N = rows, T = turns, D = embedding size

COMPLEXITY = """How demanding is the request below? Count what has to be known, kept in mind \
and reasoned through to meet it: 1 is trivial, 6 is very demanding.

Request:
{prompt}

Reply with one digit from 1 to 6."""
QUALITY = """How good is the answer to the request below? Count helpfulness, correctness, depth \
and clarity: 1 is poor, 6 is excellent.

Request:
{prompt}

Answer:
{answer}

Reply with one digit from 1 to 6."""
BLOCK = 512  # rows compared with the kept ones together


@dataclass(frozen=True, kw_only=True)
class Deita(Scorer):
    """Complexity times quality, summed over turns, for rows that no better kept row resembles.

    c_t, q_t = sum_{i=1..6} i p_i, p the judge's belief in the digits 1 to 6 about turn t's request
    (c) and about request and answer (q); score(z) = sum_t c_t q_t.
    Rows are taken by falling score; one whose cosine to a kept row exceeds `threshold` is null,
    `near_a_better_row`. The rule `top` over the rest is the paper's selection at any budget.

    Also called: evol score with repr filter. Novelty is a filter here, not a factor.

    Reads: `NextTokenProbs` of the digits 1 to 6 for each turn, of complexity by the model in the
        role "judge" and of quality by that in `quality_role`; `SentenceEmbedding` of the role
        "embedder" (embedding="last_token": the last token's state of the role "target").
    Reference: none.
    Higher means: hard requests, well answered, nothing better like it. Keep it.
    Cost: 2 forwards of a judge for each turn, 1 of the embedder, and 56 + 4 D bytes a
        row to observe; O(N K D) to score, K the rows kept, and N D floats in memory.
    Paper: Liu et al., "What Makes Good Data for Alignment?", ICLR 2024, arXiv:2312.15685.
    Departures: any judge under our wording, in its own template; the authors' trained scorers, one
        in the role "judge" and one in `quality_role="reward"`, need their model cards' formats as
        `complexity_question` and `quality_question` with `rendered="plain"`. All spellings of a
        digit count. A judge that gives no digit makes the row null, `no_rating` (the original
        takes 3.0). Turns after the first `turns` are not judged (`score_turns` says how many
        were). The paper's embedding, the last token's state, is an option: in small chat models
        any two rows exceed a cosine of 0.9 (0.88 to 0.99 between unrelated ones in
        SmolLM2-135M), and almost nothing would be kept.
    Relations: the sum favours rows of many turns (`over_turns="mean"` does not). `kcenter` and
        `facility_location` spread picks without a score. Barely above random in a re-test (MIG).
    Example: `Deita(threshold=0.9).score(pool)`
    """

    version: ClassVar[int] = 2
    scope: ClassVar = "pool"
    paper: ClassVar[str] = "arXiv:2312.15685"
    cost: ClassVar[str] = "2 fe of the judge a turn + 1 fe of the embedder"
    threshold: float = 0.9  # the paper's
    over_turns: Literal["sum", "mean"] = "sum"  # the paper's
    turns: int = 4
    embedding: Literal["sentence", "last_token"] = "sentence"
    quality_role: Literal["judge", "reward"] = "judge"
    complexity_question: str = COMPLEXITY
    quality_question: str = QUALITY
    judge: Judge = field(default_factory=Judge)  # of both roles
    rendered: Literal["chat", "plain"] = "chat"

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise ValueError(f"turns is at least 1; found {self.turns}.")
        if not -1 < self.threshold <= 1:
            raise ValueError(f"threshold is a cosine above -1, up to 1; found {self.threshold}.")

    @property
    def signals(self) -> tuple[Signal, ...]:
        embedding: Signal = (
            HiddenState(view=Dialogue(), pool="last")
            if self.embedding == "last_token"
            else SentenceEmbedding(view=PlainText())
        )
        return (embedding, *self._asked("complexity"), *self._asked("quality"))

    def _asked(self, what: str) -> tuple[Signal, ...]:
        question = self.complexity_question if what == "complexity" else self.quality_question
        return tuple(
            NextTokenProbs(
                role="judge" if what == "complexity" else self.quality_role,
                view=self.judge.prompt(
                    f"deita_{what}_1_{turn}", question, turn=turn, rendered=self.rendered
                ),
                answers=digits(6),
            )
            for turn in range(self.turns)
        )

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        rated = pl.concat([self._rated(block) for block in blocks_of(pool)])
        unread = pl.concat([self._unread(block) for block in blocks_of(pool)])
        column = self.signals[0].column
        vectors = pl.concat([b.select("id", column).drop_nulls(column) for b in blocks_of(pool)])
        ranked = rated.drop_nulls("evol").sort(-pl.col("evol"), "id").join(vectors, on="id")
        near = pl.DataFrame(schema={"id": pl.String, "near": pl.Float64})
        if ranked.height:
            ranked = ranked.sort(-pl.col("evol"), "id")  # a join promises no order
            near_N = nearest_kept(unit(ranked[column].to_numpy()), self.threshold)
            near = ranked.select("id", near=pl.Series(near_N))
        joined = rated.join(near, on="id", how="left", maintain_order="left")
        found, novel = pl.col("near").is_not_null(), pl.col("near") <= self.threshold
        joined = joined.join(unread, on="id", how="left", maintain_order="left")
        unlike = pl.when(~novel).then(pl.lit("near_a_better_row"))
        lost = pl.coalesce("not_embedded", pl.lit("no_embedding"))
        judged = pl.when(~found).then(lost).otherwise(unlike)
        return joined.select(
            "id",
            score=pl.when(novel).then("evol"),
            score_evol="evol",
            score_complexity="complexity",
            score_quality="quality",
            score_turns="turns",
            score_near=pl.when(pl.col("near").is_finite()).then("near"),
            reason=pl.when(pl.col("evol").is_not_null())
            .then(judged)
            .otherwise(pl.coalesce("reason", "not_judged")),
        )

    def _unread(self, block: pl.DataFrame) -> pl.DataFrame:
        """Why a row was shown to no embedder, and to no judge; that it lacks a turn is no cause."""
        embedding, *asked = self.signals
        facts = [EncodingFacts(role=s.role, view=s.view).column for s in asked]
        why = [pl.col(c).struct.field("reason") for c in facts if c in block.columns]
        nothing = pl.lit(None, dtype=pl.String)
        turns = [pl.when(w != "no_such_turn").then(w) for w in why]
        seen = EncodingFacts(role=embedding.role, view=embedding.view).column
        shown = pl.col(seen).struct.field("reason") if seen in block.columns else nothing
        return block.select(
            "id",
            not_embedded=pl.lit("no_embedding: ") + shown,
            not_judged=pl.coalesce(*turns, *why, nothing),
        )

    def _rated(self, block: pl.DataFrame) -> pl.DataFrame:
        """Evol scores of a block: `evol`, its parts (means over turns), `turns`, `reason`."""
        c_NT, asked_NT = self._expected(block, "complexity")
        q_NT, given_NT = self._expected(block, "quality")
        said_N = (asked_NT & given_NT).all(axis=1)
        there_NT = ~np.isnan(c_NT * q_NT)
        turns_N = there_NT.sum(axis=1)
        ok_N = said_N & (turns_N > 0)
        evol_N = np.where(there_NT, c_NT * q_NT, 0).sum(axis=1)
        if self.over_turns == "mean":
            evol_N = evol_N / np.maximum(turns_N, 1)
        mean = {
            name: np.where(there_NT, x_NT, 0).sum(axis=1) / np.maximum(turns_N, 1)
            for name, x_NT in (("complexity", c_NT), ("quality", q_NT))
        }
        return block.select("id").with_columns(
            evol=column_of(np.where(ok_N, evol_N, np.nan)),
            **{n: column_of(np.where(ok_N, x_N, np.nan)) for n, x_N in mean.items()},
            turns=pl.Series(turns_N, dtype=pl.Int64),
            reason=pl.when(pl.Series(~said_N)).then(pl.lit("no_rating")),
        )

    def _expected(self, block: pl.DataFrame, what: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Expected digit of each turn, N x T (NaN = no such turn), and whether one was given."""
        pairs = [
            self.judge.answered(probabilities(block, signal.column)) for signal in self._asked(what)
        ]
        digit_6 = np.arange(1.0, 7.0)
        return np.stack([p @ digit_6 for p, _ in pairs], 1), np.stack([s for _, s in pairs], 1)


def nearest_kept(unit_ND: Floats, threshold: float) -> Floats:
    """Highest cosine of each row to the rows kept before it; -inf where none was.

    A row is kept unless that exceeds `threshold`. Rows come best first; one that was dropped drops
    no other.
    """
    near_N = np.full(len(unit_ND), -np.inf)
    kept: list[int] = []
    for start in range(0, len(unit_ND), BLOCK):
        block_BD = unit_ND[start : start + BLOCK]
        best_B = near_N[start : start + BLOCK]  # a view
        for a in range(0, len(kept), 8 * BLOCK):
            pairs_BK = block_BD @ unit_ND[kept[a : a + 8 * BLOCK]].T
            np.maximum(best_B, pairs_BK.max(axis=1), out=best_B)
        pairs_BB = block_BD @ block_BD.T
        for b in range(len(block_BD)):
            if best_B[b] <= threshold:
                kept.append(start + b)
                later = slice(b + 1, None)
                best_B[later] = np.maximum(best_B[later], pairs_BB[b, later])
    return near_N
