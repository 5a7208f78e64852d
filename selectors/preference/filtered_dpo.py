"""Filtered DPO: is the chosen response better than what the model writes itself?"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.numerics.ordering import floats
from gristmill.pipeline.prepare.preference import RewardTuned
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.signals.pair_signals import CHOSEN, Doubles
from gristmill.pipeline.signals.reward import RewardScore
from gristmill.selectors.preference import table
from gristmill.selectors.preference._on_policy_samples import OwnResponse, OwnResponses


@dataclass(frozen=True, kw_only=True)
class FilteredDpo(Scorer):
    """Reward of the chosen response less that of a response by the current policy.

    score(d) = r(x, y_w) - r(x, y_gen), y_gen one sample of the policy. The paper keeps a pair iff
    the score is above 0, before training and after each epoch, of those kept before.

    Reads: `RewardScore` of the chosen side and of a response by the model in the role "target",
        which writes it, both by the model in the role "reward". With `generated`, r(x, y_gen) is
        the number under that name in the input row instead, by the same reward model; a row
        without it has no score (`no_number_in`).
    Reference: optional; labelled pairs on which a reward model is trained if none is bound, else it
        is trained on 30 per cent of the pool.
    Higher means: the chosen response still teaches something. Keep those above 0: the rule
        `threshold` with min=1e-9, as it keeps what equals its bounds.
    Cost: one generated response, a pair-forward of the reward model and 16 bytes a pair to observe;
        O(N) to score.
    Paper: Morimura et al., "Filtered Direct Preference Optimization", EMNLP 2024, arXiv:2404.13846.
    Departures: one round a run; for the next, bind the model trained so far as the target and score
        what was kept, as `kept_after` does on tables.
    Relations: never looks at the rejected side, so mislabelled pairs pass; `reward_margin` does.
    Example: `FilteredDpo(max_tokens=64).score(pool)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    reference: ClassVar = "optional"
    paper: ClassVar[str] = "arXiv:2404.13846"
    rule: ClassVar[str] = "threshold"
    rule_settings: ClassVar[Mapping[str, Any]] = {"min": 1e-9}
    cost: ClassVar[str] = "a generated response and 2 fe of the reward model"
    max_tokens: int = 64  # of a generated response; the paper's
    temperature: float = 1.0  # the paper's
    seed: int = 0  # of the draws
    generated: str = ""  # field of the input row with the reward of a response written before

    @property
    def signals(self) -> tuple[Signal, ...]:
        chosen = RewardScore(view=CHOSEN)
        if self.generated:
            return (chosen,)
        return chosen, RewardScore(view=OwnResponse(written=self.given.artifacts.get("responses")))

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("meta",)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        if self.generated:
            return (RewardTuned(),)
        written = OwnResponses(
            max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed
        )
        return RewardTuned(), written

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        if not self.generated and "responses" not in self.given.artifacts:
            raise ValueError(
                "filtered_dpo compares with responses that its recipe writes: let `score` run its "
                "recipes, or name the field of their rewards in `generated`."
            )
        chosen, *written = (signal.column for signal in self.signals)
        why = f"no_number_in: {self.generated}" if self.generated else "nothing_written"
        blocks = []
        for block in pool.blocks():
            chosen_N = floats(block[chosen])
            if written:
                other_N = floats(block[written[0]])
            else:
                other_N = np.array([self._read(meta) for meta in block["meta"]], dtype=np.float64)
            lacking = pl.Series(np.isnan(other_N) & np.isfinite(chosen_N))
            made = table(block["id"], chosen_N - other_N)
            blocks.append(made.with_columns(reason=pl.when(lacking).then(pl.lit(why))))
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
