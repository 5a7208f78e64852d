"""Solve-rate filter: tasks that the model to be trained solves sometimes, and that make sense."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.signals.next_token import YES_NO, NextTokenProbs
from gristmill.pipeline.signals.rollouts import given_outcomes
from gristmill.selectors.judged import blocks_of, only_column, probabilities
from gristmill.selectors.judged._judge import Judge
from gristmill.selectors.judged._rollouts import Tries

QUESTION = """Problem:
{prompt}

Is this problem complete and clear: does it give all that is needed to find one answer, and is \
there exactly one right answer that can be checked?
Options: Yes, No
Answer with one word."""


@dataclass(frozen=True, kw_only=True)
class SolveRateFilter(Scorer):
    """Variance of the outcome over rollouts, for tasks solved at times and voted valid.

    s of n rollouts are right, p = s / n; score = 4 p (1 - p).
    Null: s = n (`always_right`), s = 0 (`always_wrong`), and fewer than 9 of 32 votes for
    "valid" (`voted_invalid`). A task that is solved with probability q stays with probability
    1 - q^n - (1 - q)^n.

    Also called: offline difficulty filtering of Skywork-OR1. Not a measure of difficulty alone:
    tasks too hard and too easy both go, since neither gives a policy gradient.

    Reads: `Rollouts` of the model in the role "target", 16 a row, or outcomes that are in `meta`
        (setting `outcomes`: flags, or failures and n); `NextTokenProbs` of yes and no by each
        model in the role "judge" (none with `votes=0`).
    Reference: none. Each row needs an answer that can be verified (`rollouts.grade`,
        `rollouts.answer`).
    Higher means: solved about half of the time. Keep it.
    Cost: 16 generations and 16 forwards a row, 1 forward of each judge; the texts (up to
        16 * max_tokens tokens) are kept. O(N n) to score.
    Paper: He et al., "Skywork Open Reasoner 1 Technical Report", arXiv:2505.22312.
    Departures: the paper keeps or drops; 4 p (1 - p) orders what is kept. A judge's votes are
        drawn from its probability of "yes" against "no", which is how one-word answers sampled at
        temperature 1 fall; 16 cost one pass. Rollouts end at `rollouts.max_tokens`, not at 32K.
        Failures and n are both kept (`score_failures`, `score_rollouts`). Filtering again at each
        stage of training is another run of this method on the newer model; dropping groups without
        advantage within a batch belongs to the trainer.
    Relations: `uncertainty_consistency` asks where the errors are, from the same rollouts if the
        settings agree. Broken tasks survive rollouts, as models guess: hence the votes.
    Example: `SolveRateFilter(outcomes="right", votes=0).score(pool)`
    """

    scope: ClassVar = "row"
    paper: ClassVar[str] = "arXiv:2505.22312"
    cost: ClassVar[str] = "16 generations + 16 fe + 1 fe of each judge"
    multi_model: ClassVar[bool] = True
    # 16 samples at temperature 1 are the paper's, for mathematics
    rollouts: Tries = field(default_factory=Tries)
    votes: int = 16  # of each judge; the paper's
    least_votes: float = 9 / 32  # share of the votes; the paper's
    outcomes: str = ""  # path in meta of outcomes; then no rollouts are made
    judge: Judge = field(default_factory=lambda: Judge(cue="Answer:"))
    seed: int = 0

    def __post_init__(self) -> None:
        if self.votes < 0 or not 0 <= self.least_votes <= 1:
            raise ValueError(
                "votes is 0 or more and least_votes a share from 0 to 1; found "
                f"{self.votes} and {self.least_votes}."
            )

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (*self._rollouts, *self._judged)

    @property
    def _rollouts(self) -> tuple[Signal, ...]:
        if self.outcomes:
            return ()
        return (self.rollouts.signal(self.seed),)

    @property
    def _judged(self) -> tuple[Signal, ...]:
        if not self.votes:
            return ()
        asked = self.judge.prompt("solve_rate_1", QUESTION)
        return (NextTokenProbs(view=asked, answers=YES_NO),)

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("meta",) if self.outcomes else ("messages", "meta")

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        column = "".join(only_column(pool, s) for s in self._rollouts)
        judges = [c for s in self._judged for c, _ in pool.columns(s)]
        rows = []
        for block in blocks_of(pool):
            belief = [self.judge.answered(probabilities(block, c))[0][:, 0] for c in judges]
            yes_NS = np.stack(belief, axis=1) if belief else np.zeros((block.height, 0))
            for row, yes_S in zip(block.iter_rows(named=True), yes_NS, strict=True):
                rows.append((row["id"], *self._one(row, column, yes_S.tolist())))
        return pl.DataFrame(
            rows,
            orient="row",
            schema={
                "id": pl.String,
                "score": pl.Float64,
                "score_failures": pl.Int64,
                "score_rollouts": pl.Int64,
                "score_valid_votes": pl.Int64,
                "score_votes": pl.Int64,
                "reason": pl.String,
            },
        )

    def _one(self, row: Mapping[str, Any], column: str, yes_S: list[float]) -> tuple[Any, ...]:
        """Score, failures, rollouts, votes for "valid", votes and reason of a row."""
        if self.outcomes:
            right, reason = given_outcomes(row["meta"], self.outcomes)
        else:
            right, reason = self.rollouts.graded(row, column)
        valid, cast = self._vote(row["id"], yes_S)
        if right is None:
            return None, None, None, valid, cast, reason
        solved, n = sum(right), len(right)
        if solved in (0, n):
            reason = "always_right" if solved else "always_wrong"
        elif self.votes and not cast:
            reason = "neither_yes_nor_no"
        elif cast and valid < self.least_votes * cast:
            reason = "voted_invalid"
        score = None if reason else 4 * solved * (n - solved) / n**2
        return score, n - solved, n, valid, cast, reason

    def _vote(self, ident: str, yes_S: list[float]) -> tuple[int, int]:
        """Votes for "valid", and votes, of the judges that answered at all."""
        cast = valid = 0
        for judge, yes in enumerate(yes_S):
            if not np.isnan(yes):
                draws = (uniform(self.seed, f"vote {judge} {v}", ident) for v in range(self.votes))
                valid += sum(u < yes for u in draws)
                cast += self.votes
        return valid, cast
