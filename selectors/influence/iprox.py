"""IProX: TracIn on a smaller model that was cut out of the target to keep its influence."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Recipe, Scorer, Signal
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient
from gristmill.selectors.influence import TASK_COLUMNS, inner_products, targets_of
from gristmill.selectors.influence._low_rank_layers import Ridge, Weighting
from gristmill.selectors.influence._proxy import LowRankProxy
from gristmill.selectors.influence._warm_up import AdapterWarmUp


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How the proxy's gradients are turned to the target's.

    Attributes:
        epochs: passes over the rows of `probe_share`; 0 leaves it out.
        learning_rate: of AdamW, constant; None: 1e-4, or 1e-5 below 1,024 hidden dimensions.
        kl_weight: of the term that keeps predictions near the target's.
    """

    epochs: int = 5
    learning_rate: float | None = None
    kl_weight: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Iprox(Scorer):
    """Inner product of a record's gradient with the mean target gradient, in a low-rank proxy.

    score(z) = <g(z), mean_v g(v)>, with g the gradient in the linear layers of the proxy, each read
    at its product `up down` as one dense layer. The proxy is the warmed-up target whose weights W
    are replaced by the rank-r minimum of E[(d^T (W - up down) h)^2] over probe tokens (h layer
    inputs, d output gradients) and then turned until their gradients point where the target's do.

    Also called: influence-preserving proxy. Not a distilled model: outputs are kept only as far as
    influence needs them.

    Reads: `ProjectedGradient` of the model in the role "proxy", which it makes of "target".
    Reference: required; tens to hundreds of rows of one task, in neither pool nor test set.
    Higher means: a step on this record lowers the target loss more. Keep it.
    Cost: a warm-up on 5 % of the pool (256 rows if that is fewer) and a proxy from 1 % of it (16
        rows): some 1,100 forward passes of a row, so that it pays on more rows than that; then
        about 2 (1 - rho) a row and 4 D bytes to observe; O(N D) to score.
    Paper: "Influence-Preserving Proxies for Gradient-Based Data Selection in LLM Fine-tuning", ICLR
        2026, arXiv:2602.17835.
    Departures: ridge relative to the mean eigenvalue (an absolute one swamps the gradients' side);
        twelve probe tokens a rank, and an error where the paper's code leaves a layer random; ranks
        in multiples of 16, not 128, and alignment at a tenth of the rate in small models; factors
        balanced, each column of `up` as long as its row of `down`, as their gradients, which the
        alignment compares, go with the lengths (the paper halves the singular values and leaves
        the sides as their whitening makes them); gradients
        projected (unbiased); LESS's warm-up, from which an adapter is merged. The proxy's measured
        correlation with the target is logged, and kept with the proxy.
    Relations: `tracin` is the same at full size: costlier, exact. `tracin` with a public smaller
        model bound as the proxy needs no making, and knows the target less well.
    Example: `Iprox(rho=0.7).score(pool, reference)`
    """

    scope: ClassVar = "row"
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2602.17835"
    cost: ClassVar[str] = "2 (1 - rho) fe, warm-up 0.4 fe"
    rho: float = 0.5  # share of the weights that goes; the paper has 0.3, 0.5, 0.7
    weighting: Weighting = "both"
    ridge: Ridge = "relative"
    gamma: float = 1e-3
    rank_multiple: int | None = None  # 128; 16 below 1,024 hidden dimensions
    # of the pool, for probes and alignment; none: 1 %, and at least 16 rows to align on
    probe_share: float | None = None
    alignment: Alignment = field(default_factory=Alignment)
    warm_up: AdapterWarmUp = field(default_factory=AdapterWarmUp)
    adapter: bool = True  # what the warm-up trains, merged afterwards; False: all weights
    loss: Literal["mean", "sum"] = "mean"
    k: int = 16  # numbers kept on each side of a layer
    size: int = 8_192
    seed: int = 0

    @property
    def signals(self) -> tuple[Signal, ...]:
        of = Backward(layers="linear", loss=self.loss)
        return (ProjectedGradient(role="proxy", of=of, k=self.k, size=self.size, seed=self.seed),)

    @property
    def record_columns(self) -> tuple[str, ...]:
        return TASK_COLUMNS

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (
            self.warm_up.recipe(
                "target",
                self.seed,
                checkpoints="last",
                optimizer_state=False,
                adapter=self.adapter,
            ),
            LowRankProxy(
                rho=self.rho,
                weighting=self.weighting,
                ridge=self.ridge,
                gamma=self.gamma,
                rank_multiple=self.rank_multiple,
                share=self.probe_share,
                epochs=self.alignment.epochs,
                learning_rate=self.alignment.learning_rate,
                kl_weight=self.alignment.kl_weight,
                seed=self.seed,
            ),
        )

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        assert reference is not None
        (signal,) = self.signals
        target = targets_of(reference, signal, one_task=True)
        means = [y_JD.mean(0, dtype=np.float64)[None] for y_JD in target.features]
        return inner_products(pool, signal, ("all",), means, "max").drop("score_target_all")
