"""Ask-LLM: would a judge say that a model should be trained on this?"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal
from gristmill.pipeline.records.schema import KINDS, Kind
from gristmill.pipeline.signals.next_token import YES_NO, NextTokenProbs
from gristmill.selectors.judged import blocks_of, column_of, probabilities
from gristmill.selectors.judged._judge import Judge

QUESTION = """###
{text}
###

Should a language model be trained on the text between the two ### lines? It should if the text \
is well formed, holds knowledge of use about the world, and nothing harmful.
Options: Yes, No
Answer with one word."""


@dataclass(frozen=True, kw_only=True)
class AskLlm(Scorer):
    """Probability that a judge, asked whether the text is worth training on, begins with "yes".

    score(z) = sum_v p(v | question about z), v over the spellings of "yes" (case, leading space),
    p the softmax over the whole vocabulary; normalise="answers": yes / (yes + no).
    mass = p(yes) + p(no); below `judge.least_mass` the score is null, `neither_yes_nor_no`.

    Also called: the Ask-LLM sampler. It asks about worth, not about difficulty or novelty.

    Reads: `NextTokenProbs` of "yes" and "no" by the model in the role "judge".
    Reference: none.
    Higher means: the judge would train on it. Keep it. `score_mass` below 0.5 (counted in
        `score_unsure`) says that the judge had rather answered something else.
    Cost: 1 forward of the judge over at most 512 tokens of text and 8 bytes a row to observe;
        O(N) to score.
    Paper: Sachdeva et al., "How to Train Data-Efficient LLMs", arXiv:2402.09668.
    Departures: own wording (version `ask_llm_1`), in the judge's chat template, with the cue
        "Answer:" before its first token; all spellings of "yes" count, as decoder models split
        what T5 has in one token; "no" is read too, for the mass. A chat is shown as a transcript.
        The choice of a judge is yours (paper: Flan-T5).
    Relations: `selectit` asks for a rating in five wordings, `deita` for two; a judge too small to
        judge ranks like a coin, so look at `score_mass` and at `length` beside it.
    Example: `AskLlm().score(pool)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    paper: ClassVar[str] = "arXiv:2402.09668"
    cost: ClassVar[str] = "1 fe of the judge"
    normalise: Literal["vocabulary", "answers"] = "vocabulary"  # the paper's
    question: str = QUESTION
    # 512 tokens are the paper's
    judge: Judge = field(default_factory=lambda: Judge(cue="Answer:", part_tokens=512))

    @property
    def signals(self) -> tuple[Signal, ...]:
        asked = self.judge.prompt("ask_llm_1", self.question)
        return (NextTokenProbs(view=asked, answers=YES_NO),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        parts = []
        for block in blocks_of(pool):
            p_NA = probabilities(block, self.signals[0].column)
            share_NA, said_N = self.judge.answered(p_NA)
            yes_N = share_NA[:, 0] if self.normalise == "answers" else p_NA[:, 0]
            mass_N = p_NA.sum(axis=1)
            parts.append(
                block.select("id").with_columns(
                    score=column_of(np.where(said_N, yes_N, np.nan)),
                    score_mass=column_of(mass_N),
                    score_unsure=column_of(np.where(np.isnan(mass_N), np.nan, mass_N < 0.5)),
                    reason=pl.when(pl.Series(~said_N)).then(pl.lit("neither_yes_nor_no")),
                )
            )
        return pl.concat(parts)
