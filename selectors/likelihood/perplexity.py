"""Perplexity: how surprising the whole record is to the model."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal, View
from gristmill.pipeline.numerics.ranks import place
from gristmill.pipeline.records.schema import KINDS, Kind
from gristmill.pipeline.signals.forward_signals import MeanLoss
from gristmill.pipeline.signals.views import Dialogue


@dataclass(frozen=True, kw_only=True)
class Perplexity(Scorer):
    """Mean token loss of the whole templated text, prompt and template included.

    loss(z) = 1/(T-1) * sum_{t=2..T} -log p(x_t | x_<t), in nats; perplexity = exp(loss).
    score = loss (prefer="top"), -loss ("bottom"), or -|2q - 1| with q the rank of the loss as a
    share of the rows ("mid": the centre of the ranking first).

    Also called: top-, mid-, bottom-PPL. It is the loss of all tokens, not of the answer alone.

    Reads: `MeanLoss` over all tokens of the model in the role "target".
    Reference: none.
    Higher means: (prefer="top") the model finds the record harder to predict. Keep it.
    Cost: 1 forward and 8 bytes a row to observe; O(N log N) to score.
    Paper: control of Ivison et al., "Large-Scale Data Selection for Instruction Tuning",
        arXiv:2503.01807.
    Departures: none.
    Relations: a control: loses to random on large pools, and prefers shuffled words. `ifd` divides
        the difficulty of the answer itself out.
    Example: `Perplexity(prefer="mid").score(pool)`
    """

    scope: ClassVar = "pool"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    paper: ClassVar[str] = "arXiv:2503.01807"
    cost: ClassVar[str] = "1 fe"
    prefer: Literal["top", "mid", "bottom"] = "top"
    view: View = field(default_factory=Dialogue)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (MeanLoss(view=self.view, token_mask="all"),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        loss = pl.col(self.signals[0].column)
        table = pl.concat([b.select("id", loss) for b in pool.blocks()])
        by = {"top": loss, "bottom": -loss, "mid": -(2 * place(loss) - 1).abs()}
        return table.select("id", score=by[self.prefer], score_perplexity=loss.exp())
