"""People: what they said of pairs, what they have yet to say, and a simulated annotator."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import polars as pl

from gristmill.pipeline.records.judgements import JUDGEMENTS, OF_PAIRS, current
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.records.store import write_table
from gristmill.pipeline.review.folder import FACTS, said
from gristmill.synthesis.curation.votes import Label, Verdict, of_people


class VerdictsNeeded(Exception):
    """A run waits for people; its text is the sentence for the user."""


class People(Protocol):
    """Where verdicts of people come from."""

    def judgements(self, items: pl.DataFrame, why: str) -> pl.DataFrame:
        """What people said of all these pairs, of the columns `JUDGEMENTS`.

        Args:
            items: the pairs, as records.
            why: what they are asked for, in a few words.

        Raises:
            VerdictsNeeded: some of it is not there yet.
        """


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """The verdicts of people on the pairs that they were asked about.

    Attributes:
        of: pair -> verdict.
        comments: pair -> what somebody who gave the verdict wrote beside it.
    """

    of: Mapping[str, Verdict]
    comments: Mapping[str, str]

    @property
    def labels(self) -> dict[str, Label]:
        """The pairs that people decided."""
        return {i: v.label for i, v in self.of.items() if v.label is not None}


def verdicts(judgements: pl.DataFrame, ids: Sequence[str]) -> Verdicts:
    """What people decided of the pairs.

    Args:
        judgements: of the columns `JUDGEMENTS`; those of other items are passed over.
        ids: of the pairs; each has a judgement.
    """
    mine = current(judgements).filter(pl.col("item").is_in(list(ids)))
    unknown = sorted(set(mine["judgement"]) - set(OF_PAIRS))
    if unknown:
        raise ValueError(
            f"a judgement of a pair is one of {', '.join(OF_PAIRS)}; found {unknown[0]!r}."
        )
    told: dict[str, list[str]] = {i: [] for i in ids}
    comments: dict[str, str] = {}
    for row in mine.iter_rows(named=True):
        told[row["item"]].append(row["judgement"])
    of = {ident: of_people(given) for ident, given in told.items()}
    for row in mine.iter_rows(named=True):
        if row["comment"] and row["judgement"] == of[row["item"]].label:
            comments.setdefault(row["item"], row["comment"])
    return Verdicts(of=of, comments=comments)


@dataclass(frozen=True, kw_only=True)
class Reviewed:
    """What people say on a review page, or in a table of their own.

    Attributes:
        said: the folder of the reviews of a store, or a Parquet file of the columns `JUDGEMENTS`;
            it need not be there yet.
        items: file that is written with the pairs that still lack a judgement.
        how: what a person does with that file, as the middle of a sentence.
    """

    said: Path
    items: Path
    how: str

    def judgements(self, items: pl.DataFrame, why: str) -> pl.DataFrame:
        found = self._read()
        lacking = items.filter(~pl.col("id").is_in(current(found)["item"].to_list()))
        if lacking.is_empty():
            return found
        self.items.parent.mkdir(parents=True, exist_ok=True)
        write_table(lacking, self.items)
        raise VerdictsNeeded(
            f"{lacking.height:,} of {items.height:,} pairs wait for people ({why}): they are in "
            f"{self.items}; {self.how}, and run the same command again to go on from there."
        )

    def _read(self) -> pl.DataFrame:
        empty = pl.DataFrame(schema=JUDGEMENTS)
        if not self.said.is_dir():
            return said(self.said) if self.said.exists() else empty
        reviews = sorted(p.parent for p in self.said.glob(f"*/{FACTS}"))
        found = pl.concat([empty, *map(said, reviews)]).sort("given_at", "annotator", "number")
        # a number counts within one review: of several, what was said later counts
        return found.with_columns(number=pl.int_range(pl.len(), dtype=pl.Int64))


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """An annotator who knows the truth and errs at a known rate, always alike on the same pair.

    Attributes:
        truth: pair -> its better side.
        error: share of wrong verdicts.
        seed: which pairs it errs on.
        name: of the annotator.
        asked: pairs that it was asked about, in order; made by the class.
    """

    truth: Mapping[str, Label]
    error: float = 0.0
    seed: int = 0
    name: str = "simulated"
    asked: list[str] = field(default_factory=list, compare=False, repr=False)

    def label(self, ident: str) -> Label:
        """Its verdict on a pair."""
        true = self.truth[ident]
        if uniform(self.seed, f"annotator {self.name}", ident) >= self.error:
            return true
        return "rejected" if true == "chosen" else "chosen"

    def judgements(self, items: pl.DataFrame, why: str) -> pl.DataFrame:
        self.asked.extend(items["id"])
        rows = [
            {
                **dict.fromkeys(JUDGEMENTS),
                "item": ident,
                "annotator": self.name,
                "number": number,
                "judgement": self.label(ident),
                "shown_first": first_shown(self.seed, ident),
            }
            for number, ident in enumerate(items["id"])
        ]
        return pl.DataFrame(rows, schema=JUDGEMENTS)


def first_shown(seed: int, ident: str) -> Label:
    """The side that stands first on the screen, by hash."""
    return "chosen" if uniform(seed, "shown first", ident) < 0.5 else "rejected"


def to_verify(
    candidates: Sequence[str], ranks: Mapping[str, int], most: int, *, seed: int, number: int
) -> list[str]:
    """The pairs that go to people: lower ranks first, within a rank by hash(seed, round, id).

    Args:
        candidates: pairs that may.
        ranks: pair -> rank; those without have the rank 0.
        most: pairs that people are asked about.
        seed: of the draw.
        number: of the round.
    """

    def key(ident: str) -> tuple[int, float, str]:
        return ranks.get(ident, 0), uniform(seed, f"people {number}", ident), ident

    return sorted(candidates, key=key)[:most]


def agreement(people: Mapping[str, Label], others: Mapping[str, Label]) -> tuple[int, int]:
    """Pairs on which two labellings agree, and pairs that both have."""
    both: Collection[str] = people.keys() & others.keys()
    return sum(people[i] == others[i] for i in both), len(both)
