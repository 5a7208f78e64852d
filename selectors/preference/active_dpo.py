"""ActiveDPO: of which pairs would a label teach the model most?"""

# N = pairs, D = features, K = picks

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal
from gristmill.pipeline.numerics.similarity import unit
from gristmill.pipeline.numerics.uncertainty import most_uncertain
from gristmill.pipeline.records.schema import Kind
from gristmill.pipeline.selection.picks import asked, number_of
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient
from gristmill.pipeline.signals.pair_signals import VIEWS


@dataclass(frozen=True, kw_only=True)
class ActiveDpo(Scorer):
    """Greedy picks of the most uncertain reward difference, given all picks before.

    phi(d) = g(x, y_w) - g(x, y_l), g the unit gradient of a response's log-probability;
    V = ridge I + sum over picks of phi phi'; each pick is argmax phi' V^-1 phi, and V is updated
    after it. score = -(place of the pick); rows never picked have no score (`not_reached`).

    Labels play no part: swapping a pair's sides changes nothing.

    Reads: `ProjectedGradient` of both sides' summed losses, of the model in the role "target".
    Reference: none.
    Higher means: picked earlier, its reward difference least determined by the picks before it.
        Keep it, or ask for its label. `score_gain` is phi' V^-1 phi when it was picked.
    Cost: 2 forward and activation-backward passes and 8 D bytes a pair to observe; O(N K D) to
        score, in the kernel of the picks, never the D x D inverse.
    Paper: "ActiveDPO: Active Direct Preference Optimization for Sample-Efficient Alignment",
        ICLR 2026, arXiv:2505.19241.
    Departures: gradients are scaled to norm 1 after the projection, which differs by its error
        alone; of all linear layers by default, not of a fresh adapter, half of whose gradient is
        0; two-sided projections, whose error falls with the number of layers (inner products of
        unit gradients: 0.05 at 14 layers); ridge 1, the paper gives none; one round, gradients are
        read again in the next run.
    Relations: `kcenter` covers texts, this covers gradients; it says nothing of a label's quality.
    Example: `ActiveDpo(picks=50).score(pool)`
    """

    scope: ClassVar = "pool"
    greedy: ClassVar[bool] = True
    records: ClassVar[tuple[Kind, ...]] = ("pair",)
    paper: ClassVar[str] = "arXiv:2505.19241"
    cost: ClassVar[str] = "4 fe"
    picks: float | None = None  # share of the pairs; from 2, a number; none: the budget's
    ridge: float = 1.0
    layers: str = "linear"
    size: int = 8_192  # of a projected gradient
    seed: int = 0  # of the projection

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise ValueError(f"active_dpo: the ridge is {self.ridge}; give more than 0.")
        if self.picks is not None:
            asked(self.picks)

    @property
    def signals(self) -> tuple[Signal, ...]:
        of = Backward(layers=self.layers, loss="sum")
        return tuple(
            ProjectedGradient(view=view, of=of, size=self.size, seed=self.seed) for view in VIEWS
        )

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        columns = [s.column for s in self.signals]
        frame = pl.concat([block.select("id", *columns) for block in pool.blocks()])
        shown = frame.drop_nulls(columns).sort("id")
        if shown.is_empty():
            raise ValueError("no pair could be shown to the model: there is nothing to pick from.")
        chosen_ND, rejected_ND = (
            unit(shown[c].to_numpy().astype(np.float64), zero=np.nan) for c in columns
        )
        phi_ND = np.nan_to_num(rejected_ND - chosen_ND)  # a gradient of zeros adds nothing
        wanted = number_of(self.picks, self.given, pool, shown.height)
        picked = most_uncertain(phi_ND, wanted, self.ridge)
        scores = pl.DataFrame(
            {
                "id": shown["id"].gather(picked.rows),
                "score": -np.arange(1.0, len(picked.rows) + 1),
                "score_gain": picked.worth,
            }
        )
        reached = pl.col("score").is_null() & pl.col("id").is_in(shown["id"].implode())
        return (
            frame.select("id")
            .join(scores, on="id", how="left", maintain_order="left")
            .with_columns(reason=pl.when(reached).then(pl.lit("not_reached")))
        )
