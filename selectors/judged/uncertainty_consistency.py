"""Uncertainty consistency: is the model wrong where it is unsure, and right where it is sure?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal
from gristmill.pipeline.signals.rollouts import from_meta, given_outcomes
from gristmill.selectors.judged import blocks_of, only_column
from gristmill.selectors.judged._rollouts import Tries

# K = rollouts of a row


@dataclass(frozen=True, kw_only=True)
class UncertaintyConsistency(Scorer):
    """Minus the correlation of right answers with uncertainty, over a query's rollouts.

    U_k = exp(-mean log p) of rollout k, R_k = 1 if it is right, else 0; K1 right and K0 wrong ones.
    form="offline": score = -r_pb, r_pb = (mean U of right - mean U of wrong) / s * sqrt(K0 K1) / K,
        s the population std of U: Pearson's correlation of U and R.
    form="online":  score = (1/K) (sum_{A>0} A / U + gamma * sum_{A<0} A / U), A = (R - mean) / std.

    Also called: point-biserial query selection for RLVR. Not difficulty: a query that is solved
    half of the time may score high or low.

    Reads: `Rollouts` of the model in the role "target", 8 a row; or outcomes and perplexities that
        are in `meta` (settings `outcomes`, `perplexities`), and then no model.
    Reference: none. Each row needs an answer that can be verified (`rollouts.grade`,
        `rollouts.answer`).
    Higher means: the model's doubt is where its errors are, so that the gradient of a policy step
        is steady. Keep it; the paper keeps 30%.
    Cost: 8 generations and 8 forwards a row; their texts (up to 8 * max_tokens tokens) are kept.
        O(N K) to score.
    Paper: "Learn More with Less: Uncertainty Consistency Guided Query Selection for RLVR",
        arXiv:2601.22595.
    Departures: perplexities are those of the model itself (temperature 1, end marker included),
        whatever the draws were. Queries whose rollouts are all right or all wrong are null,
        `one_sided`, as r_pb is not defined; equal perplexities are null, `no_spread`. The online
        form is computed once, for a frozen model; in training it belongs into each step.
    Relations: `solve_rate_filter` keeps what is sometimes solved, from the same rollouts if the
        settings agree.
    Example: `UncertaintyConsistency(outcomes="right", perplexities="ppl").score(pool)`
    """

    scope: ClassVar = "row"
    paper: ClassVar[str] = "arXiv:2601.22595"
    cost: ClassVar[str] = "8 generations + 8 fe"
    form: Literal["offline", "online"] = "offline"
    gamma: float = 0.1  # the paper's best
    rollouts: Tries = field(default_factory=lambda: Tries(samples=8))  # the paper's
    outcomes: str = ""  # path in meta of flags, one a rollout; then no model is read
    perplexities: str = ""  # path in meta of as many numbers
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.outcomes) != bool(self.perplexities):
            raise ValueError(
                "outcomes and perplexities come together: name the fields of meta for both, or "
                "for neither."
            )

    @property
    def signals(self) -> tuple[Signal, ...]:
        if self.outcomes:
            return ()
        return (self.rollouts.signal(self.seed),)

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("meta",) if self.outcomes else ("messages", "meta")

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        column = only_column(pool, self.signals[0]) if self.signals else ""
        rows = []
        for block in blocks_of(pool):
            for row in block.iter_rows(named=True):
                right, doubt, reason = self._tried(row, column)
                value = None
                if right is not None and reason is None:
                    value = (
                        point_biserial(doubt, right)
                        if self.form == "offline"
                        else online(doubt, right, self.gamma)
                    )
                    one_sided = len(set(right)) < 2
                    if value is None:
                        reason = "one_sided" if one_sided else "no_spread"
                    elif self.form == "offline":
                        value = -value
                solved = None if right is None else sum(right) / len(right)
                mean = float(np.mean(doubt)) if len(doubt) else None
                rows.append((row["id"], value, solved, mean, reason))
        return pl.DataFrame(
            rows,
            orient="row",
            schema={
                "id": pl.String,
                "score": pl.Float64,
                "score_solved": pl.Float64,
                "score_perplexity": pl.Float64,
                "reason": pl.String,
            },
        )

    def _tried(
        self, row: Mapping[str, Any], column: str
    ) -> tuple[list[bool] | None, list[float], str | None]:
        """Outcomes and perplexities of a row's rollouts."""
        if self.outcomes:
            right, reason = given_outcomes(row["meta"], self.outcomes)
            doubt = from_meta(row["meta"], self.perplexities)
            if right is None:
                return None, [], reason
            positive = isinstance(doubt, list) and all(
                isinstance(u, (int, float)) and u > 0 for u in doubt
            )
            if not positive or len(doubt) != len(right):
                return None, [], f"perplexities_unreadable: {self.perplexities}"
            return right, [float(u) for u in doubt], None
        right, reason = self.rollouts.graded(row, column)
        if right is None:
            return None, [], reason
        return right, [float(np.exp(-r["logprob"] / r["tokens"])) for r in row[column]], None


def point_biserial(doubt_K: Sequence[float], right_K: Sequence[bool]) -> float | None:
    """Correlation of two-valued outcomes with a number; None where either does not vary."""
    u_K, right = np.asarray(doubt_K, dtype=np.float64), np.asarray(right_K, dtype=bool)
    spread, ones = float(u_K.std()), int(right.sum())
    if not spread or ones in (0, len(u_K)):
        return None
    share = np.sqrt(ones * (len(u_K) - ones)) / len(u_K)
    return float((u_K[right].mean() - u_K[~right].mean()) / spread * share)


def online(doubt_K: Sequence[float], right_K: Sequence[bool], gamma: float) -> float | None:
    """Sum of group-normalised advantages over perplexity; None where no rollout has one."""
    u_K, r_K = np.asarray(doubt_K, dtype=np.float64), np.asarray(right_K, dtype=np.float64)
    if not r_K.std():
        return None
    advantage_K = (r_K - r_K.mean()) / r_K.std()
    return float((np.where(advantage_K > 0, 1.0, gamma) * advantage_K / u_K).mean())
