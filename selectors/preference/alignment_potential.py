"""Alignment potential: what does a reward model see that the model does not yet show?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import EncodingFacts, Observations, Recipe, Scorer, Signal
from gristmill.pipeline.numerics.ordering import floats
from gristmill.pipeline.prepare.preference import RewardTuned
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.signals.pair_signals import VIEWS, Doubles, counts, lengths, log_probs
from gristmill.pipeline.signals.reward import RewardScore
from gristmill.selectors.preference import table


@dataclass(frozen=True, kw_only=True)
class AlignmentPotential(Scorer):
    """The reward model's margin less the model's own, each in standard deviations of the pool.

    score(d) = z(r(y_w) - r(y_l)) - weight z(|s(y_w) / n_w - s(y_l) / n_l|), z over the pool with
    the population's standard deviation; s the log-probability of a response, n its tokens.

    Also called: M_AP. No reference model: the margin is SimPO's, unsigned.

    Reads: `RewardScore` of both sides by the role "reward"; `SequenceLogProb` and token counts of
        both sides under the role "target", a model before preference training.
    Reference: optional; labelled pairs on which a reward model is trained if none is bound, else it
        is trained on 30 per cent of the pool.
    Higher means: a clear preference that the model's likelihoods do not show yet. Keep it: 40 per
        cent of the pool.
    Cost: 1 pair-forward each of model and reward model and 48 bytes a pair to observe; O(N) to
        score.
    Paper: "Larger or Smaller Reward Margins to Select Preferences for LLM Alignment?", ICML 2025,
        arXiv:2503.01864.
    Departures: the reward margin is that of the two responses, not the spread of five rewards.
    Relations: `reward_margin` alone keeps what the model knows already; `implicit_gap` alone keeps
        what is mislabelled; this is one less the other.
    Example: `AlignmentPotential(weight=0.5).score(pool)`
    """

    scope: ClassVar = "pool"
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    reference: ClassVar = "optional"
    paper: ClassVar[str] = "arXiv:2503.01864"
    cost: ClassVar[str] = "2 fe, 2 of the reward model"
    weight: float = 1.0

    @property
    def rewards(self) -> tuple[RewardScore, ...]:
        """The reward margin's sides."""
        return tuple(RewardScore(view=view) for view in VIEWS)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (*self.rewards, *log_probs())

    @property
    def facts(self) -> tuple[EncodingFacts, ...]:
        return counts()

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (RewardTuned(),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        read: list[Signal | EncodingFacts] = [*self.signals, *self.facts]
        columns = [c.column for c in read]
        # in order of ids, so that the sums behind mean and deviation do not depend on the rows'
        frame = pl.concat([block.select("id", *columns) for block in pool.blocks()]).sort("id")
        chosen_N, rejected_N = (floats(frame[s.column]) for s in self.rewards)
        s_w, s_l = (floats(frame[s.column]) for s in log_probs())
        n_w, n_l = lengths(frame)
        reward_N, own_N = chosen_N - rejected_N, np.abs(s_w / n_w - s_l / n_l)
        score_N = potential(reward_N, own_N, self.weight)
        return table(frame["id"], score_N, reward=reward_N, own=own_N)


def potential(reward_N: Doubles, own_N: Doubles, weight: float = 1.0) -> Doubles:
    """Difference of the z-scores, over the pairs that have both margins."""
    known_N = np.isfinite(reward_N) & np.isfinite(own_N)
    score_N = np.full(len(reward_N), np.nan)
    if known_N.any():
        score_N[known_N] = _z(reward_N[known_N]) - weight * _z(own_N[known_N])
    return score_N


def _z(value_N: Doubles) -> Doubles:
    """Standard scores; equal values are all 0."""
    deviation = float(value_N.std())
    z_N: Doubles = (value_N - value_N.mean()) / (deviation if deviation > 0 else 1.0)
    return z_N
