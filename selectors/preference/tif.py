"""TIF: what does a training step on this pair do to the loss of the validation pairs?"""

# N = pairs, D = features

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import EncodingFacts, Observations, Recipe, Scorer, Signal
from gristmill.pipeline.prepare.preference import PairWarmUp, settings_for, warmed_up
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient
from gristmill.pipeline.signals.pair_signals import (
    VIEWS,
    Doubles,
    Objective,
    log_probs,
)
from gristmill.selectors.preference import count_targets, table
from gristmill.selectors.preference._finite_differences import FiniteDifferenceCopies


@dataclass(frozen=True, kw_only=True)
class Tif(Scorer):
    """Influence of a pair on the mean loss of the validation pairs, at the warmed-up model.

    IF(d) = <grad l(d), g_v>, g_v = mean over validation pairs v of grad l(v), over the weights that
    `layers` names. TIF keeps a pair iff IF lies strictly inside a band: the rule `band`.
    by="gradient": projected gradients of both sides; a pair's is made of them exactly (see
    `pipeline.signals.pair_signals`).
    by="difference": (l(theta + eps g_v; d) - l(theta - eps g_v; d)) / (2 eps), the same
        derivative over all weights of the adapter, without projection or stored gradient.

    Also called: truncated influence function. Identity in the place of the inverse Hessian.

    Reads: `SequenceLogProb` of both sides under the roles "target" and "reference" and, by
        gradient, `ProjectedGradient` of their summed losses; by difference, `SequenceLogProb` under
        the two models in the role "proxy".
    Reference: required; validation pairs, from 32 on, neither in the pool nor in any test set.
    Higher means: a step on the pair lowers the validation loss more. The useful pairs lie in the
        middle: the lowest are noisy or mislabelled, the highest over-fitted.
    Cost: by gradient 2 more pair-forwards than `irm` and 8 D bytes a pair, by difference 2
        pair-forwards and 32 bytes; after one epoch of DPO on the pool. O(N D) to score.
    Paper: "Towards Understanding Valuable Preference Data for Large Language Model Alignment",
        ICLR 2026, arXiv:2510.13212.
    Departures: the score is the raw influence, 0 or 1 is left to the rule; gradients are projected,
        which is unbiased with an error that falls with the number of layers. In layers="linear"
        both sides of a layer are: at 14 layers the error is about 0.05 |g_d| |g_v|, more than many
        influences have; an adapter of rank 16 or less is projected on one side of each factor.
        The step eps is such that g_v is expected to move the mean validation loss by 0.005 nats.
    Relations: `lossdiff` and `irm` estimate it at a fraction of the cost.
    Example: `Tif(by="difference").score(pool, reference)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2510.13212"
    rule: ClassVar[str] = "band"
    cost: ClassVar[str] = "8 fe, DPO on the pool"
    multi_model: ClassVar = True
    by: Literal["gradient", "difference"] = "gradient"
    objective: Objective = field(default_factory=Objective)
    # none: the target is trained already, and "reference" is bound
    warm_up: PairWarmUp | None = field(default_factory=PairWarmUp)
    layers: str = "lora"  # by gradient: "linear" for a target without an adapter
    size: int = 8_192  # of a projected gradient
    seed: int = 0  # of the projection
    epsilon: float | None = None  # by difference: of two models bound to "proxy"; none: made here

    @property
    def gradients(self) -> tuple[ProjectedGradient, ...]:
        """Of the summed losses of both sides."""
        of = Backward(layers=self.layers, loss="sum")
        return tuple(
            ProjectedGradient(view=view, of=of, size=self.size, seed=self.seed) for view in VIEWS
        )

    @property
    def signals(self) -> tuple[Signal, ...]:
        if self.by == "difference":
            return self.objective.signals("proxy")
        return (*self.objective.signals("target"), *self.gradients)

    @property
    def facts(self) -> tuple[EncodingFacts, ...]:
        return self.objective.facts

    @property
    def reference_signals(self) -> tuple[Signal, ...]:
        return () if self.by == "difference" else self.signals

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        made: tuple[Recipe, ...] = warmed_up(self.objective, self.warm_up)
        if self.by == "difference" and self.epsilon is None:
            made = (*made, FiniteDifferenceCopies(settings=settings_for(self.objective)))
        return made

    @property
    def step(self) -> float | None:
        """The eps between the model and its copies: of the run's own, or the user's."""
        made = self.given.artifacts.get("perturbation")
        return self.epsilon if made is None else made.facts["epsilon"]

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        count_targets(reference)
        assert reference is not None
        if self.by == "difference":
            return self._by_difference(pool)
        target_D = self._mean_gradient(reference)
        blocks = []
        for block in pool.blocks():
            along_N2 = np.stack([_features(block, s) @ target_D for s in self.gradients], axis=1)
            score_N1 = self.objective.gradient(block, along_N2[:, :1], along_N2[:, 1:])
            blocks.append(table(block["id"], score_N1[:, 0]))
        return pl.concat(blocks)

    def _mean_gradient(self, reference: Observations) -> Doubles:
        frame = reference.frame().sort("id")
        chosen_MD, rejected_MD = (_features(frame, s) for s in self.gradients)
        gradient_MD = self.objective.gradient(frame, chosen_MD, rejected_MD)
        gradient_MD = gradient_MD[np.isfinite(gradient_MD).all(axis=1)]
        if not len(gradient_MD):
            raise ValueError(f"none of the {frame.height} validation pairs has a gradient.")
        mean_D: Doubles = gradient_MD.mean(axis=0)
        return mean_D

    def _by_difference(self, pool: Observations) -> pl.DataFrame:
        columns = [name for name, _ in pool.columns(log_probs("proxy")[0])]
        if len(columns) != 2 or self.step is None:
            raise ValueError(
                "tif by difference reads two models in the role proxy, theta + eps g_v and "
                f"theta - eps g_v, and eps; found {len(columns)} and epsilon={self.step}: leave "
                "proxy unbound and epsilon out, so that they are made."
            )
        blocks = []
        for block in pool.blocks():
            plus_N, minus_N = (
                self.objective.loss(self.objective.margin(block, "proxy", suffix))
                for suffix in ("@0", "@1")
            )
            blocks.append(table(block["id"], (plus_N - minus_N) / (2 * self.step)))
        return pl.concat(blocks)


def _features(block: pl.DataFrame, signal: Signal) -> Doubles:
    """A column of arrays as float64; a row without one is NaN."""
    column = block[signal.column]
    assert isinstance(column.dtype, pl.Array)
    values_ND = column.to_numpy().astype(np.float64)
    values_ND[column.is_null().to_numpy()] = np.nan
    return values_ND
