"""Length: the longest answers first; strong in judged comparisons, and a bias everywhere else."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import polars as pl

from gristmill.pipeline.contracts import EncodingFacts, Observations, Scorer, Signal, View
from gristmill.pipeline.records.schema import CONTENT, KINDS, Kind, kind_of
from gristmill.pipeline.signals.views import Dialogue, plain_text


@dataclass(frozen=True, kw_only=True)
class Length(Scorer):
    """Length of the response.

    score(z) = number of answer tokens of z (all assistant turns; a pair's chosen response; a whole
    document), or its characters with unit="chars".

    Also called: longest-response selection.

    Reads: the tokenizer of the model in the role "target"; nothing with unit="chars".
    Reference: none.
    Higher means: the answer is longer. Keep it.
    Cost: no pass; O(N) to score.
    Paper: Zhao et al., "Long Is More for Alignment", ICML 2024, arXiv:2402.04833.
    Departures: the unit of the paper's 1,000-longest study is not stated; tokens here.
    Relations: a control. A method that correlates with it above 0.9 is it. Collapses on large raw
        pools; blind to shuffled words and to endless repetition.
    Example: `Length().score(pool)`
    """

    version: ClassVar[int] = 2
    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    paper: ClassVar[str] = "arXiv:2402.04833"
    cost: ClassVar[str] = "0 fe"
    unit: Literal["tokens", "chars"] = "tokens"
    view: View = field(default_factory=Dialogue)

    @property
    def signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def facts(self) -> tuple[EncodingFacts, ...]:
        return (EncodingFacts(view=self.view),) if self.unit == "tokens" else ()

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("*content",) if self.unit == "chars" else ()

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        return pl.concat([self._block(b) for b in pool.blocks()])

    def _block(self, block: pl.DataFrame) -> pl.DataFrame:
        if self.unit == "tokens":
            facts = pl.col(EncodingFacts(view=self.view).column)
            count = facts.struct.field("answer_tokens").cast(pl.Float64)
            score = pl.when(facts.struct.field("reason").is_null()).then(count)
            return block.select("id", score=score)
        columns = list(CONTENT[kind_of(block.columns)])
        lengths = [
            float(len(plain_text(row, "answer")))
            for row in block.select(columns).iter_rows(named=True)
        ]
        return pl.DataFrame({"id": block["id"], "score": pl.Series(lengths, dtype=pl.Float64)})
