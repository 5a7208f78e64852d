"""Filters: rules that look at one record and keep it or say why not.

A filter is a small frozen dataclass with one method: `reasons(records)` gives one string per
record, null for those that stay. `filtered` applies several; the first that objects decides.
Filters see one block of records at a time and keep nothing. This file holds those that need
nothing but the text; `heuristics`, `language`, `privacy` and `toxicity` hold the others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl
import polars.exceptions

from gristmill.pipeline.clean import predicates
from gristmill.pipeline.clean.drops import drops
from gristmill.pipeline.clean.text import spaced
from gristmill.pipeline.records.licenses import UNKNOWN, spdx
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.text import Part, texts


class Filter(Protocol):
    """One rule."""

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        """Why each record must go: a string, or null if it may stay."""


def filtered(blocks: Iterable[pl.DataFrame], filters: Sequence[Filter]) -> pl.DataFrame:
    """Drops frame of the records that any filter rejects, with the first one's reason."""
    found = [drops(pl.DataFrame(schema=dict.fromkeys(KEY, pl.String)))]
    for block in blocks:
        left = block.with_columns(pl.lit(None, pl.String).alias("__why"))
        for rule in filters:
            open_rows = left.filter(pl.col("__why").is_null()).drop("__why")
            why = rule.reasons(open_rows).rename("__why")
            decided = left.filter(pl.col("__why").is_not_null())
            left = pl.concat([decided, open_rows.with_columns(why)])
        gone = left.filter(pl.col("__why").is_not_null())
        found.append(drops(gone, reason=pl.col("__why")))
    return pl.concat(found).sort("source", "row", "id")


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


@dataclass(frozen=True, kw_only=True)
class TemplateLeak:
    """Drops records that show a chat template or an unfilled prompt: `template_leak: <what>`."""

    part: Part = "all"

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        return _first_match(texts(records, self.part), "template_leak: ", _LEAKS)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Drops records whose answer begins by declining to answer: `refusal`.

    English only. For safety data refusals are the point: leave this filter out there.

    Attributes:
        head: how many characters of the answer are its beginning.
    """

    head: int = 200

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        start = texts(records, "answer", "content").str.strip_chars_start().str.slice(0, self.head)
        start = start.str.replace_all("[’‘]", "'")
        return pl.select(pl.when(start.str.contains(_REFUSAL)).then(pl.lit("refusal"))).to_series()


@dataclass(frozen=True, kw_only=True)
class License:
    """Drops records whose licence is not on the list: `license: <as declared>`.

    Attributes:
        allowed: licences, in any spelling that names one SPDX id for certain.
        unknown: whether records without a licence stay (else `license: unknown`).
    """

    allowed: tuple[str, ...]
    unknown: bool = False

    def __post_init__(self) -> None:
        vague = [name for name in self.allowed if spdx(name) is None]
        if vague:
            raise ValueError(
                f"{vague[0]!r} names no licence for certain; give SPDX ids such as CC-BY-4.0."
            )

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        ids = {spdx(name) for name in self.allowed}
        declared = records["license"].unique().to_list()
        fine = [d for d in declared if (self.unknown if d is None else spdx(d) in ids)]
        named = pl.lit("license: ") + pl.col("license").fill_null(UNKNOWN)
        stays = pl.col("license").is_in(fine, nulls_equal=True)
        return records.select(pl.when(~stays).then(named).alias("why")).to_series()


@dataclass(frozen=True, kw_only=True)
class Where:
    """Keeps the records for which a predicate of the user's holds: `where: <predicate>`.

    The predicate is SQL over the record's columns and `prompt_text`, `answer_text`, `answer_words`:
    `license = 'mit' AND answer_words BETWEEN 3 AND 500`. Only expressions over one row are allowed
    (`predicates` has the list): no sub-query, no table, nothing that reads a file. A record for
    which it is null goes.
    """

    sql: str

    def __post_init__(self) -> None:
        predicates.check(self.sql)
        try:
            pl.sql_expr(self.sql)
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{self.sql!r} is no SQL predicate: {error}") from error

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        answer = texts(records, "answer")
        known = records.with_columns(
            prompt_text=texts(records, "prompt"),
            answer_text=answer,
            answer_words=word_counts(answer),
        )
        try:
            holds = known.select(pl.sql_expr(self.sql).alias("holds")).to_series()
        except pl.exceptions.PolarsError as error:
            raise ValueError(
                f"{self.sql!r} cannot be asked of these records: {str(error).splitlines()[0]} "
                f"(columns: {', '.join(known.columns)})."
            ) from error
        if holds.dtype != pl.Boolean or len(holds) != records.height:
            raise ValueError(f"{self.sql!r} is no predicate: it does not say yes or no of a row.")
        why = pl.lit(f"where: {self.sql}")
        return pl.select(pl.when(~holds.fill_null(value=False)).then(why)).to_series()


def word_counts(text: pl.Series) -> pl.Series:
    """Number of words of each text."""
    return pl.Series([len(t.split()) for t in spaced(text)], dtype=pl.Int64)


def _first_match(text: pl.Series, prefix: str, patterns: dict[str, str]) -> pl.Series:
    why = pl.lit(None, pl.String)
    for name, pattern in reversed(patterns.items()):
        why = pl.when(text.str.contains(pattern)).then(pl.lit(prefix + name)).otherwise(why)
    return pl.select(why).to_series() if len(text) else pl.Series([], dtype=pl.String)


_LEAKS = {
    "chatml": r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|begin_of_text)\|>",
    "roles": r"<\|(?:user|assistant|system|end)\|>|<(?:start|end)_of_turn>",
    "llama": r"\[/?INST\]|<</?SYS>>",
    "alpaca": r"(?m)^### ?(?:Instruction|Response):?\s*$|Below is an instruction that describes",
    "turns": r"(?m)^(?:Human|User): .*\n+(?:Assistant|AI):",
    "placeholder": r"\{\{? ?(?:instruction|question|prompt|response|answer)s? ?\}?\}"
    r"|\[(?:INSERT|PLACEHOLDER)[^\]]*\]",
    "filler": r"(?i)lorem ipsum dolor",
}
_REFUSAL = (
    r"(?i)\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\b(?:i'm|i am) (?:sorry|afraid|unable|not able)\b[^.]{0,40}?"
    r"\b(?:can(?:'t|not| not)|unable|not able|won't|to (?:help|assist|provide|answer|fulfil))\b"
    r"|^(?:i apologi[sz]e|my apologies|sorry)\b[^.]{0,40}?\b(?:can(?:'t|not| not)|unable|won't)\b"
    r"|^(?:no, )?i (?:can(?:'t|not| not)|won't) "
    r"(?:help|assist|provide|answer|fulfil|comply|do that|support|create|write|generate|engage)"
)
