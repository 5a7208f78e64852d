"""Length: texts of too few or too many words."""

from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.clean.text import word_counts
from gristmill.pipeline.records.text import Part, texts


@dataclass(frozen=True, kw_only=True)
class Length:
    """Drops records whose text has too few or too many words: `too_short`, `too_long`.

    Attributes:
        part: what is counted.
        min_words: the least; the default drops empty answers only.
        max_words: the most; the default is Gopher's (arXiv:2112.11446).
    """

    part: Part = "answer"
    min_words: int = 1
    max_words: int = 100_000

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        count = word_counts(texts(records, self.part))
        short = pl.when(count < self.min_words).then(pl.lit("too_short"))
        return pl.select(short.when(count > self.max_words).then(pl.lit("too_long"))).to_series()
