"""Filtered DPO: is the chosen response better than what the model writes itself?"""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.ordering import floats
from gristmill.pipeline.pairs import CHOSEN, Doubles
from gristmill.pipeline.preference_models import RewardTuned
from gristmill.pipeline.reward_signal import RewardScore
from gristmill.pipeline.schema import Kind
from gristmill.selectors.preference import table


@dataclass(frozen=True, kw_only=True)
class FilteredDpo(Scorer):
    """Reward of the chosen response less that of a response by the current policy.

    score(d) = r(x, y_w) - r(x, y_gen), y_gen one sample of the policy. The paper keeps a pair iff
    the score is above 0, before training and after each epoch, of those kept before.

    Reads: `RewardScore` of the chosen side by the model in the role "reward", and the number under
        the name `generated` in the input row: r(x, y_gen) by the same reward model. Responses are
        written before, as nothing is generated while rows are observed; a row without the number
        has no score (`no_number_in`).
    Reference: optional; labelled pairs on which a reward model is trained if none is bound, else it
        is trained on 30 per cent of the pool.
    Higher means: the chosen response still teaches something. Keep those above 0: the rule
        `threshold` with min=1e-9, as it keeps what equals its bounds.
    Cost: half a pair-forward of the reward model and 8 bytes a pair to observe, after one generated
        response a prompt and its reward; O(N) to score.
    Paper: Morimura et al., "Filtered Direct Preference Optimization", EMNLP 2024, arXiv:2404.13846.
    Departures: one round a run; for the next, write responses with the model trained so far and
        score what was kept, as `kept_after` does on tables.
    Relations: never looks at the rejected side, so mislabelled pairs pass; `reward_margin` does.
    Example: `FilteredDpo(generated="generated_reward").score(pool)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    reference: ClassVar = "optional"
    paper: ClassVar[str] = "arXiv:2404.13846"
    cost: ClassVar[str] = "1 fe of the reward model and a generated response"
    generated: str = "generated_reward"

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (RewardScore(shown=CHOSEN),)

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("meta",)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (RewardTuned(),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        blocks = []
        for block in pool.blocks():
            chosen_N = floats(block[self.signals[0].column])
            other_N = np.array([self._read(meta) for meta in block["meta"]], dtype=np.float64)
            lacking = pl.Series(np.isnan(other_N) & np.isfinite(chosen_N))
            made = table(block["id"], chosen_N - other_N)
            reason = pl.when(lacking).then(pl.lit(f"no_number_in: {self.generated}"))
            blocks.append(made.with_columns(reason=reason))
        return pl.concat(blocks)

    def _read(self, meta: str | None) -> float:
        value = json.loads(meta).get(self.generated) if meta else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return float("nan")
        return float(value)


def kept_after(chosen_N: Doubles, rounds: list[Doubles]) -> list[npt.NDArray[np.bool_]]:
    """Which pairs stay after each round of generated responses: a pair once dropped stays out."""
    kept_N = np.ones(len(chosen_N), bool)
    history = []
    for generated_N in rounds:
        kept_N = kept_N & (generated_N - chosen_N < 0)
        history.append(kept_N)
    return history
