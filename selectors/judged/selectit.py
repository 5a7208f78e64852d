"""SelectIT: a rating, weighed by how sure the judge is of it, over wordings and over models."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import (
    Need,
    Observations,
    PassSignal,
    Scorer,
    Signal,
    View,
    of_role,
)
from gristmill.pipeline.models.forward import Batch
from gristmill.pipeline.models.load import LoadedModel
from gristmill.pipeline.signals.next_token import NextTokenProbs, digits
from gristmill.selectors.judged import (
    Floats,
    blocks_of,
    column_of,
    probabilities,
)
from gristmill.selectors.judged._judge import Judge

# N = rows, K = ratings (and wordings, by default), S = models

# the record comes first: the judge reads it once for all wordings
SHOWN = "Instruction:\n{prompt}\n\nResponse:\n{answer}\n\n"
REPLY = " Reply with one digit from 1 to 5."
WORDINGS = (
    "Rate how well the response serves the instruction, from 1 (not at all) to 5 (fully).",
    "From 1 to 5, how good is this pair of instruction and response as training data? 5 is best.",
    "You check data for teaching a language model. Give this example a mark: 1 is poor, 5 is "
    "excellent.",
    "How correct, complete and clear is the response? 1 means useless, 5 means nothing is missing.",
    "A careful reader grades this answer to this instruction from 1 (bad) to 5 (perfect). Which "
    "grade is it?",
)


@dataclass(frozen=True, kw_only=True)
class ModelSize(PassSignal):
    """Number of parameters of the model that is asked, beside each row: the model's weight."""

    role: str = "judge"
    view: View

    @property
    def column(self) -> str:
        return f"{of_role(self.role)}size.{self.view.name}"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"last_hidden"})  # of the pass that its siblings need anyway

    def dtype(self, model: LoadedModel) -> pl.DataType:
        return pl.Int64()

    def read(self, batch: Batch) -> Sequence[Any]:
        assert batch.model is not None
        return [sum(p.numel() for p in batch.model.model.parameters())] * batch.rows


@dataclass(frozen=True, kw_only=True)
class Selectit(Scorer):
    """Self-rating with its uncertainty at the level of tokens, wordings and models.

    token:    q = softmax(p / sum p) over the ratings 1..K, b the likeliest;
              t = b * sum_i (q_b - q_i) / (K - 1)
    sentence: s = mean(t) / (1 + alpha * std(t)) over the wordings, population std
    model:    score = sum_m w_m s_m, w_m the share of judge m in the parameters of all judges.

    Also called: Selective Alpaca's score. Not an expected rating: flat beliefs score near 0.
    `prompts=1` is the token level alone, one judge the sentence level.

    Reads: `NextTokenProbs` of the digits 1 to 5 for each wording, by each model in the role
        "judge" (the paper: the model to be trained, in several sizes).
    Reference: none.
    Higher means: rated high, surely and whatever the wording. Keep it.
    Cost: 1 forward of each judge over the row, 5 over a wording, and 120 bytes a row and judge to
        observe; O(N) to score.
    Paper: Liu et al., "SelectIT: Selective Instruction Tuning for LLMs via Uncertainty-Aware
        Self-Reflection", NeurIPS 2024, arXiv:2402.16705.
    Departures: own wordings, in the judge's chat template, with a cue before the digit; all
        spellings of a digit count; model weights are parameter shares (the original's 7/20,
        13/20, 70/90 do not sum to 1); a judge that gives no digit (less than `judge.least_mass`
        for all five, under any wording) makes the row null, `no_rating`, so that rows keep their
        places.
    Relations: `ask_llm` costs one pass; `deita` takes the expected rating, which moves with every
        digit. The second softmax compresses: the highest score is 1.278810.
    Example: `Selectit().score(pool)`
    """

    scope: ClassVar = "row"
    paper: ClassVar[str] = "arXiv:2402.16705"
    cost: ClassVar[str] = "1 fe of each judge, and 5 wordings"
    multi_model: ClassVar[bool] = True
    prompts: int = 5  # wordings; the paper's
    alpha: float = 0.2  # the paper's
    judge: Judge = field(default_factory=Judge)
    wordings: tuple[str, ...] = field(default=WORDINGS)

    def __post_init__(self) -> None:
        if not 1 <= self.prompts <= len(self.wordings):
            raise ValueError(
                f"prompts is a number of wordings from 1 to {len(self.wordings)}; found "
                f"{self.prompts}."
            )

    @property
    def signals(self) -> tuple[Signal, ...]:
        views = [
            self.judge.prompt(f"selectit_2_{k}", SHOWN + wording + REPLY)
            for k, wording in enumerate(self.wordings[: self.prompts])
        ]
        ratings = (NextTokenProbs(view=v, answers=digits(5)) for v in views)
        return (ModelSize(view=views[0]), *ratings)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        size, *ratings = self.signals
        sizes = [column for column, _ in pool.columns(size)]
        judges = list(zip(*(pool.columns(r) for r in ratings), strict=True))
        parts = []
        for block in blocks_of(pool):
            counts_NS = block.select(pl.col(sizes).cast(pl.Float64)).to_numpy()
            weight_NS = counts_NS / counts_NS.sum(axis=1, keepdims=True)
            sentence_NS, rated_N = np.zeros_like(weight_NS), np.ones(block.height, dtype=bool)
            for s, columns in enumerate(judges):
                token_NK = np.empty((block.height, len(columns)))
                for k, (column, _) in enumerate(columns):
                    share_NK, said_N = self.judge.answered(probabilities(block, column))
                    token_NK[:, k] = token_scores(share_NK)
                    rated_N &= said_N
                sentence_NS[:, s] = sentence_scores(token_NK, self.alpha)
            shown = {f"score_judge_{s}": column_of(sentence_NS[:, s]) for s in range(len(judges))}
            parts.append(
                block.select("id").with_columns(
                    score=column_of((weight_NS * sentence_NS).sum(axis=1)),
                    **(shown if len(judges) > 1 else {}),
                    reason=pl.when(pl.Series(~rated_N)).then(pl.lit("no_rating")),
                )
            )
        return pl.concat(parts)


def token_scores(share_NK: Floats) -> Floats:
    """The likeliest rating times its lead: `b * sum_i (q_b - q_i) / (K - 1)`, q the softmax."""
    q_NK = np.exp(share_NK)
    q_NK /= q_NK.sum(axis=1, keepdims=True)
    best_N = q_NK.max(axis=1)
    rating_N = 1 + np.where(np.isnan(best_N), 0, np.argmax(q_NK, axis=1))
    lead_N: Floats = (best_N[:, None] - q_NK).sum(axis=1) / (q_NK.shape[1] - 1)
    return rating_N * lead_N


def sentence_scores(token_NK: Floats, alpha: float) -> Floats:
    """Mean over the wordings, lowered by their population standard deviation."""
    scores: Floats = token_NK.mean(axis=1) / (1 + alpha * token_NK.std(axis=1))
    return scores
