"""Refusal: answers that begin by declining."""

from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.records.text import texts

_REFUSAL = (
    r"(?i)\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\b(?:i'm|i am) (?:sorry|afraid|unable|not able)\b[^.]{0,40}?"
    r"\b(?:can(?:'t|not| not)|unable|not able|won't|to (?:help|assist|provide|answer|fulfil))\b"
    r"|^(?:i apologi[sz]e|my apologies|sorry)\b[^.]{0,40}?\b(?:can(?:'t|not| not)|unable|won't)\b"
    r"|^(?:no, )?i (?:can(?:'t|not| not)|won't) "
    r"(?:help|assist|provide|answer|fulfil|comply|do that|support|create|write|generate|engage)"
)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Drops records whose answer begins by declining to answer: `refusal`.

    English only. For safety data refusals are the point: leave this filter out there.

    Attributes:
        head: how many characters of the answer are its beginning.
    """

    head: int = 200

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        found = declines(texts(records, "answer", "content"), self.head)
        return pl.select(pl.when(found).then(pl.lit("refusal"))).to_series()


def declines(answers: pl.Series, head: int = 200) -> pl.Series:
    """Which answers begin by declining.

    Args:
        answers: texts.
        head: how many characters of one are its beginning.
    """
    start = answers.str.strip_chars_start().str.slice(0, head)
    return start.str.replace_all("[’‘]", "'").str.contains(_REFUSAL)
