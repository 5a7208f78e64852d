"""BeeS: do the model's own margin and a reward model's agree that the label is right?"""

# N = pairs, S = sources of a margin

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import EncodingFacts, Observations, Recipe, Scorer, Signal
from gristmill.pipeline.numerics.ordering import floats
from gristmill.pipeline.prepare.preference import Kept, PairTuned, RewardTuned, settings_for
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.signals.pair_signals import VIEWS, Doubles, Objective, no_warm_up
from gristmill.pipeline.signals.reward import RewardScore
from gristmill.selectors.preference import table

LOW = -2.0  # margins below count as this
SURE = 1e-6  # no single source may be certain: 0 and 1 together would be 0 / 0
MANY = 30


@dataclass(frozen=True, kw_only=True)
class Bees(Scorer):
    """Bayesian aggregation of an implicit and an external margin into one probability.

    p_i = (clip(m_i, L, U_i) - L) / (U_i - L) for each source i, clipped to [1e-6, 1 - 1e-6];
    score = prod p_i / (prod p_i + prod (1 - p_i)): log-odds add. L = -2; U_i starts at int(max / 2)
    (implicit) or int(max / 1.5) (external) and rises by 1 until fewer than 30 margins, or fewer
    than max - U, lie above it. Where max / 2 (max / 1.5) is between 0 and 1, U starts there and
    rises by as much.

    Also called: dual-margin selection, Less is More.

    Reads: `SequenceLogProb` of both sides under the roles "proxy" (a model tuned by DPO on 2,000
        random pairs) and "reference"; `RewardScore` of both sides by the role "reward".
    Reference: optional; labelled pairs on which a reward model is trained if none is bound, else it
        is trained on 30 per cent of the pool.
    Higher means: both margins are large and positive. Keep it, the paper says, 10 per cent.
    Cost: 2 pair-forwards of a small model, 1 of the reward model and 48 bytes a pair to observe,
        after DPO on 2,000 pairs; O(N log N) to score.
    Paper: "Less is More: Improving LLM Alignment via Preference Data Selection", NeurIPS 2025,
        arXiv:2502.14560.
    Departures: the search for U is read from public code; where it ends at or below L, U = L + 1;
        margins below 2 have an U of their own size, with the code's whole numbers it is 0 and all
        positive margins are alike.
    Relations: `reward_margin` and `irm` are its two sources; a source at 0 vetoes, unlike in
        `blend`. It keeps what is easy: compare with the band of `lossdiff_irm`.
    Example: `Bees(fusion="min", both_positive=True).score(pool)`
    """

    version: ClassVar[int] = 2
    scope: ClassVar = "pool"
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    reference: ClassVar = "optional"
    paper: ClassVar[str] = "arXiv:2502.14560"
    cost: ClassVar[str] = "4 fe of a small model, 2 of the reward model, DPO on 2,000 pairs"
    fusion: Literal["product", "sum", "max", "min"] = "product"
    both_positive: bool = False  # pairs with a margin at or below 0 are null
    beta: float = 0.1
    pairs: int = 2_000  # that the small model is trained on

    @property
    def loss(self) -> Objective:
        """The implicit margin's loss."""
        return Objective(beta=self.beta)

    @property
    def rewards(self) -> tuple[RewardScore, ...]:
        """The external margin's sides."""
        return tuple(RewardScore(view=view) for view in VIEWS)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (*self.loss.signals("proxy"), *self.rewards)

    @property
    def facts(self) -> tuple[EncodingFacts, ...]:
        return self.loss.facts

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        small = PairTuned(
            role="proxy", on="pool", most=self.pairs, settings=settings_for(self.loss)
        )
        return (Kept(), small, RewardTuned())

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        read: list[Signal | EncodingFacts] = [*self.signals, *self.facts]
        columns = [c.column for c in read]
        frame = pl.concat([block.select("id", *columns) for block in pool.blocks()])
        implicit_N = self.loss.margin(frame, "proxy")
        no_warm_up(implicit_N)
        chosen_N, rejected_N = (floats(frame[s.column]) for s in self.rewards)
        external_N = chosen_N - rejected_N
        p_SN = np.stack([probability(implicit_N, 2.0), probability(external_N, 1.5)])
        score_N = fused(p_SN, self.fusion)
        made = table(frame["id"], score_N, implicit=implicit_N, external=external_N)
        if not self.both_positive:
            return made
        positive = (pl.col("score_implicit") > 0) & (pl.col("score_external") > 0)
        known = pl.col("score").is_not_null()
        return made.with_columns(
            score=pl.when(positive).then("score"),
            reason=pl.when(known & ~positive).then(pl.lit("margin_not_positive")),
        )


def upper(margin_N: Doubles, part: float) -> float:
    """U: from max / part upwards, in whole numbers from 1 on, until few margins lie above it."""
    finite_N = np.sort(margin_N[np.isfinite(margin_N)])
    if not len(finite_N):
        return LOW + 1
    most = float(finite_N[-1])
    small = 0 < most / part < 1
    high = most / part if small else float(int(most / part))
    step = high if small else 1.0
    while True:
        above = len(finite_N) - int(np.searchsorted(finite_N, high, side="right"))
        if above < MANY or above < most - high:
            return high if high > LOW else LOW + 1
        high += step


def probability(margin_N: Doubles, part: float) -> Doubles:
    """P of each margin; NaN stays."""
    high = upper(margin_N, part)
    share_N = (np.clip(margin_N, LOW, high) - LOW) / (high - LOW)
    p_N: Doubles = np.clip(share_N, SURE, 1 - SURE)
    return p_N


def fused(p_SN: Doubles, fusion: str = "product") -> Doubles:
    """One probability of several; `sum` is their mean."""
    if fusion == "product":
        odds_N = (np.log(p_SN) - np.log1p(-p_SN)).sum(axis=0)
        p_N: Doubles = np.exp(-np.logaddexp(0.0, -odds_N))
        return p_N
    how: Any = {"sum": np.mean, "max": np.max, "min": np.min}[fusion]
    joined: Doubles = how(p_SN, axis=0)
    return joined
