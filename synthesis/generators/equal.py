"""EQUAL as a generator: pairs from the documents that a bandit over clusters finds worth it."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.records.store import Entry
from gristmill.synthesis import equal, report
from gristmill.synthesis.embedding import Warmup
from gristmill.synthesis.generators import Generated, Generator, Given
from gristmill.synthesis.synthesize import synthesize, tuned


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Tuning of the embedder on pairs of a random share of the documents."""

    share: float = 0.05
    epochs: int = 2
    learning_rate: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class Equal(Generator):
    """Pairs from the clusters of documents whose pairs lie nearest to the reference rows.

    Attributes:
        bandit: which clusters are worth the extractor's time; see `synthesis.equal`.
        clusters: of the documents; None: as many as the pool bears.
        tuning: of the embedder before the rounds; None: the embedder as it is.
    """

    paper: ClassVar[str] = equal.Equal.paper
    bandit: equal.Equal = field(default_factory=equal.Equal)
    clusters: int | None = None
    tuning: WarmUp | None = None

    @property
    def _bandit(self) -> equal.Equal:
        if self.tuning is None:
            return self.bandit
        return dataclasses.replace(self.bandit, warm_up_share=self.tuning.share)

    def sends(self, documents: int) -> int:
        warm = 0.0 if self.tuning is None else self.tuning.share
        return math.ceil(min(1.0, self.bandit.share + warm) * documents)

    def warm_up(self, given: Given) -> Entry | None:
        if self.tuning is None:
            return None
        return self._bandit.warm_up(
            given.documents, given.extraction, given.store, known=given.known, price=given.price
        )

    def generate(self, given: Given, warm: Entry | None = None) -> Generated:
        embedder = given.embedder
        if warm is not None and self.tuning is not None:
            how = Warmup(epochs=self.tuning.epochs, learning_rate=self.tuning.learning_rate)
            embedder = tuned(how, embedder, given.load, given.documents, warm, given.store)
        outcome = synthesize(
            self._bandit,
            given.documents,
            given.reference,
            given.extraction,
            given.store,
            embedder=embedder,
            load=given.load,
            clusters=self.clusters,
            known=given.known,
            warm=warm,
            price=given.price,
            progress=given.progress,
        )
        made = outcome.publish()  # the entry that the records name as their run
        candidates, sent = outcome.table("candidates"), outcome.table("sent")
        records, reasons = outcome.judged()
        return Generated(
            records=records,
            reasons=reasons,
            step=outcome.step("equal_pool"),
            settings=settings_of(outcome.equal),
            summary={
                "ended by": outcome.stop,
                "documents": len(outcome.site.texts),
                "documents sent": len(sent),
                "pairs extracted": len(candidates),
                "pairs kept": len(made.frame()),
                "tokens": int(sent["tokens_in"].sum()) + int(sent["tokens_out"].sum()),
            },
            tables={
                "rejected.parquet": candidates.filter(pl.col("reason").is_not_null()),
                "pulls.parquet": outcome.table("pulls"),
                "sent.parquet": sent,
            },
            page=lambda title: report.page(outcome, title=title, price=given.price),
        )
