"""Embedding similarity: is this record about what the target is about?"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal, View
from gristmill.pipeline.records.schema import KINDS, Kind
from gristmill.pipeline.signals.forward_signals import SentenceEmbedding
from gristmill.pipeline.signals.views import PlainText
from gristmill.selectors.hidden import target_similarity


@dataclass(frozen=True, kw_only=True)
class EmbeddingSimilarity(Scorer):
    """Cosine of sentence embeddings of prompt and answer, the best over the target rows.

    score(z) = max_v cos(e(v), e(z)), e a sentence embedder on the bare text of all turns.

    Also called: embedding nearest neighbour, GTR or NV-Embed selection (by the embedder's name).

    Reads: `SentenceEmbedding` of the model in the role "embedder".
    Reference: required; tens to hundreds of rows of the task, in neither pool nor test set.
    Higher means: some target row is about the same. Keep it.
    Cost: 1 forward of the embedder and 4 D bytes a row to observe; O(N M D) to score.
    Paper: baseline of Ivison et al., "Large-Scale Data Selection for Instruction Tuning",
        arXiv:2503.01807; embeddings of Reimers and Gurevych, arXiv:1908.10084.
    Departures: none.
    Relations: ten to a hundred times cheaper than `rds_plus`; sees topic, not what the model lacks.
    Example: `EmbeddingSimilarity().score(pool, reference)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    reference: ClassVar = "required"
    paper: ClassVar[str] = "arXiv:2503.01807"
    cost: ClassVar[str] = "1 fe of the embedder"
    reduce: Literal["max", "mean"] = "max"
    view: View = field(default_factory=PlainText)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return (SentenceEmbedding(view=self.view),)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        assert reference is not None
        return target_similarity(pool, reference, self.signals[0].column, self.reduce)
