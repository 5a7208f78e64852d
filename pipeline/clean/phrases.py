"""Over-used phrases: what a set says far more often than a reference corpus does.

    ratio = (count / words) / ((count in the reference + 1) / (words of the reference + 1))

The pseudo-count keeps a phrase that the reference never says from an endless ratio: such a phrase
must be said often here to rank high. Words are those of `clean.text`; a phrase is 1 to `longest` of
them. A phrase that mostly stands inside a longer one of the list is left out.
"""

# W = windows (phrases) of a block

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import polars as pl

from gristmill.pipeline.clean.text import ngram_hashes, word_hashes, words
from gristmill.pipeline.records.dataset import Records
from gristmill.pipeline.records.schema import CONTENT
from gristmill.pipeline.records.text import Part
from gristmill.pipeline.records.text import texts as texts_of

Texts = Callable[[], Iterable[pl.Series]]  # blocks of texts, from the beginning at each call
PHRASES: dict[str, Any] = {
    "phrase": pl.String,
    "words": pl.Int64,
    "count": pl.Int64,
    "rows": pl.Int64,  # that say it
    "per_million": pl.Float64,  # of the words
    "in_reference": pl.Int64,
    "reference_per_million": pl.Float64,
    "ratio": pl.Float64,
}
PARTS: tuple[Part, ...] = get_args(Part)
_INSIDE = 0.8  # share of a phrase's places inside a longer one that make it a part of that


@dataclass(frozen=True, kw_only=True)
class OverUse:
    """What counts as over-used.

    Attributes:
        longest: words of the longest phrase.
        least_rows: a phrase of fewer rows is the habit of a few texts.
        least_ratio: how many times as often as in the reference.
    """

    longest: int = 3
    least_rows: int = 5
    least_ratio: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.longest <= 8:
            raise ValueError(f"longest is {self.longest} words; give 1 to 8.")
        if self.least_rows < 1:
            raise ValueError(f"least_rows is {self.least_rows}; give at least 1.")
        if not self.least_ratio > 0:
            raise ValueError(f"least_ratio is {self.least_ratio}; give more than 0.")


def over_used(texts: Texts, reference: Texts, settings: OverUse | None = None) -> pl.DataFrame:
    """The over-used phrases of a set of texts, the highest ratio first.

    Args:
        texts: of the set.
        reference: of a corpus that says things as often as they should be said.
        settings: what counts.

    Returns:
        `PHRASES`.

    Raises:
        ValueError: one of the two has no words.
    """
    settings = settings or OverUse()
    here, total = _counts(texts(), settings.longest)
    if not total:
        raise ValueError("the set has no words: there is nothing to profile.")
    often = here.filter(pl.col("rows") >= settings.least_rows)
    there, known = _counts(reference(), settings.longest, among=often["hash"])
    if not known:
        raise ValueError("the reference has no words: give texts that people wrote.")
    found = often.join(there.select("hash", in_reference="count"), on="hash", how="left")
    found = found.with_columns(pl.col("in_reference").fill_null(0)).with_columns(
        per_million=pl.col("count") * 1e6 / total,
        reference_per_million=pl.col("in_reference") * 1e6 / known,
        ratio=pl.col("count") / total * (known + 1) / (pl.col("in_reference") + 1),
    )
    found = found.filter(pl.col("ratio") >= settings.least_ratio)
    spelt = _spelt(texts(), settings.longest, set(found["hash"]))
    named = found.join(spelt, on="hash").sort(
        "ratio", "count", "phrase", descending=[True, True, False]
    )
    return _whole(named.select(list(PHRASES)))


def phrases_in(
    rows: Records, reference: Records, part: Part = "answer", settings: OverUse | None = None
) -> pl.DataFrame:
    """The over-used phrases of records, against others.

    Args:
        rows: the records.
        reference: records, or documents, that say things as often as they should be said.
        part: what of a record is looked at; of `PARTS`.
        settings: what counts.

    Returns:
        `PHRASES`.
    """

    def blocks(records: Records) -> Iterator[pl.Series]:
        columns = list(CONTENT[records.kind])
        return (texts_of(b, part, "prose") for b in records.blocks(columns))

    return over_used(lambda: blocks(rows), lambda: blocks(reference), settings)


def listed(
    named: Sequence[str], table: pl.DataFrame | None = None, most: int | None = None
) -> tuple[str, ...]:
    """Phrases that are named, then the first of a table, each once.

    Args:
        named: phrases.
        table: `PHRASES`, the most over-used first.
        most: rows of the table that count; None: all.

    Raises:
        ValueError: the table has no phrases, or there are none at all.
    """
    if table is not None and "phrase" not in table.columns:
        raise ValueError(
            f"a table of over-used phrases has the column phrase (found: {table.columns}): give "
            "what `gristmill phrases --out` wrote."
        )
    more = [] if table is None else table["phrase"].head(most or table.height).to_list()
    found = tuple(dict.fromkeys([*named, *more]))
    if not found:
        raise ValueError("there are no phrases to avoid: name some, or profile another set.")
    return found


def hits(text: str, phrases: Sequence[str]) -> dict[str, int]:
    """How often a text says each of some phrases; those that it does not are left out.

    Args:
        text: any.
        phrases: in any spelling; words are compared.
    """
    said = f" {'  '.join(words(text))} "  # doubled: neighbours share no space
    found = {p: said.count(f" {'  '.join(words(p))} ") for p in phrases}
    return {p: n for p, n in found.items() if n}


def _counts(
    blocks: Iterable[pl.Series], longest: int, among: pl.Series | None = None
) -> tuple[pl.DataFrame, int]:
    """Of each phrase its hash, words, count and rows; and the number of words."""
    total = 0
    empty = {"hash": pl.UInt64, "words": pl.Int64, "count": pl.Int64, "rows": pl.Int64}
    sums = [pl.DataFrame(schema=empty)]
    for block in blocks:
        for n, frame in _windows(block, longest):
            total += frame.height if n == 1 else 0
            if among is not None:
                frame = frame.filter(pl.col("hash").is_in(among.implode()))
            counted = frame.group_by("hash").agg(
                pl.lit(n, pl.Int64).alias("words"),
                pl.len().cast(pl.Int64).alias("count"),
                pl.col("row").n_unique().cast(pl.Int64).alias("rows"),
            )
            sums.append(counted)
    merged = (
        pl.concat(sums).group_by("hash").agg(pl.col("words").first(), pl.col("count", "rows").sum())
    )
    return merged, total


def _windows(block: pl.Series, longest: int) -> Iterable[tuple[int, pl.DataFrame]]:
    """Of each length the phrases of a block: hash, row, and place among the row's words."""
    word_L, offsets_N1 = word_hashes(block)
    for n in range(1, longest + 1):
        hash_W, at_N1 = ngram_hashes(word_L, offsets_N1, n, whole=False)
        count_N = np.diff(at_N1)
        row_W = np.repeat(np.arange(len(count_N)), count_N)
        place_W = np.arange(len(hash_W)) - np.repeat(at_N1[:-1], count_N)
        # a phrase of other length has another hash: lengths never add up
        mixed_W = hash_W ^ np.uint64(n * 0x9E3779B97F4A7C15 % 2**64)
        yield n, pl.DataFrame({"hash": mixed_W, "row": row_W, "place": place_W})


def _spelt(blocks: Iterable[pl.Series], longest: int, wanted: set[int]) -> pl.DataFrame:
    """The words of phrases, by their hash."""
    found: dict[int, str] = {}
    for block in blocks:
        if len(found) == len(wanted):
            break
        for n, frame in _windows(block, longest):
            new = frame.filter(pl.col("hash").is_in(list(wanted - found.keys())))
            for ident, row, place in new.unique("hash", keep="first", maintain_order=True).rows():
                found[ident] = " ".join(words(block[row])[place : place + n])
    rows = {"hash": list(found), "phrase": list(found.values())}
    return pl.DataFrame(rows, schema={"hash": pl.UInt64, "phrase": pl.String})


def _whole(found: pl.DataFrame) -> pl.DataFrame:
    """Without the phrases that mostly stand inside a longer one."""
    counts: Mapping[str, int] = dict(found.select("phrase", "count").iter_rows())
    parts = set()
    for phrase, count in counts.items():
        split = phrase.split()
        for size in range(1, len(split)):
            for start in range(len(split) - size + 1):
                part = " ".join(split[start : start + size])
                if part in counts and count >= _INSIDE * counts[part]:
                    parts.add(part)
    return found.filter(~pl.col("phrase").is_in(sorted(parts)))
