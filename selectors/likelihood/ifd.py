"""IFD: how little the instruction helps the model to predict the answer."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal, View
from gristmill.pipeline.signals.forward_signals import MeanLoss
from gristmill.pipeline.signals.views import AnswerAlone, Dialogue


@dataclass(frozen=True, kw_only=True)
class Ifd(Scorer):
    """Instruction-following difficulty: loss of the answer given its prompt, over its loss alone.

    s(A|Q), s(A) = mean loss per token of the answer's content with and without the prompt.
    ratio="loss": s(A|Q) / s(A).  ratio="ppl": exp(s(A|Q) - s(A)).
    A ratio above 1 (ppl: at or above 1) is null, `prompt_does_not_help`.

    Also called: Cherry (ratio of losses), Superfiltering (ratio of perplexities, by a small model).
    The two ratios rank differently.

    Reads: `MeanLoss` of the last answer in the dialogue and alone, of the model in role "target".
    Reference: none.
    Higher means: the prompt helps little, so the answer is hard and informative. Keep it.
    Cost: 2 forwards (the second of the answer alone) and 16 bytes a row to observe; O(N) to score.
    Paper: Li et al., "From Quantity to Quality", NAACL 2024, arXiv:2308.12032; Li et al.,
        "Superfiltering", ACL 2024, arXiv:2402.00530.
    Departures: without the prompt the answer stands behind the header of an assistant's turn, as
        the model's template opens it (behind one start token, if it opens none): the original puts
        it behind nothing, or a start token, which in ChatML is the marker of any role. So the
        first token is scored on both sides, GPT-2 in the original scores it on one; the tokens are
        the same on both sides; an answer that cannot be scored is null, never 0; longer rows are
        cut at the end and counted (`--overlong skip` drops them, as the original does); no
        pre-experience training.
    Relations: `perplexity` does not divide by the answer's own difficulty. Loses to random on large
        raw pools.
    Example: `Ifd(ratio="ppl").score(pool)`
    """

    scope: ClassVar = "row"
    paper: ClassVar[str] = "arXiv:2308.12032"
    cost: ClassVar[str] = "2 fe"
    ratio: Literal["loss", "ppl"] = "loss"
    dialogue: View = field(default_factory=Dialogue)
    alone: View = field(default_factory=AnswerAlone)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (
            MeanLoss(view=self.dialogue, token_mask="last"),
            MeanLoss(view=self.alone, token_mask="last"),
        )

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        conditional, direct = (pl.col(s.column) for s in self.signals)
        if self.ratio == "loss":
            ratio = pl.when(direct > 0).then(conditional / direct).otherwise(None)
            helps = ratio <= 1
        else:
            ratio = (conditional - direct).exp()
            helps = ratio < 1
        return pl.concat(
            [
                b.select(
                    "id",
                    score=pl.when(helps).then(ratio),
                    score_ratio=ratio,
                    score_conditional=conditional,
                    score_direct=direct,
                    reason=pl.when(~helps).then(pl.lit("prompt_does_not_help")),
                )
                for b in pool.blocks()
            ]
        )
