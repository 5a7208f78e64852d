"""Phrases: answers that say what models say too often."""

from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.clean.phrases import hits
from gristmill.pipeline.clean.text import words
from gristmill.pipeline.records.text import Part, texts


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """Drops records that say the listed phrases too often: `phrases: a testament to`.

    `gristmill phrases` finds what a set over-uses. Words are compared, so case and marks between
    them make no difference.

    Attributes:
        listed: the phrases.
        most: how many of them, repeats counted, a record may say.
        part: what is looked at.
    """

    listed: tuple[str, ...]
    most: int = 0
    part: Part = "answer"

    def __post_init__(self) -> None:
        blank = [p for p in self.listed if not words(p)]
        if blank or not self.listed:
            raise ValueError(
                f"filter phrases: listed holds {blank[0]!r}, which has no words: give phrases."
                if blank
                else "filter phrases: listed is empty: give the phrases to look for."
            )
        if self.most < 0:
            raise ValueError(f"filter phrases: most is {self.most}; give 0 or more.")

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        why = [self._why(text) for text in texts(records, self.part, "prose")]
        return pl.Series("why", why, dtype=pl.String)

    def _why(self, text: str) -> str | None:
        found = hits(text, self.listed)
        if sum(found.values()) <= self.most:
            return None
        return f"phrases: {max(found, key=lambda p: (found[p], p))}"
