"""The pool of a curation: its pairs, what they are about, and which of them are like others."""

# N = pairs, D = features

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.clean.near_duplicates import MinHash, near_duplicates
from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Step, Store, table
from gristmill.synthesis.curation.attributes import easiest_first, retrieval_text
from gristmill.synthesis.curation.labelling import SOLVED, Solved, Target
from gristmill.synthesis.curation.pairs import Shown, shown, turned
from gristmill.synthesis.curation.retrieval import nearest
from gristmill.synthesis.curation.votes import Label
from gristmill.synthesis.reward import Embed

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Pairs that cleaning left, each id once.

    Attributes:
        pairs: the records, sorted by id.
        vector_ND: unit vectors of their retrieval texts.
        attributes: of the pairs that have some.
        store: keeps their sketches.
        likeness: what counts as a near duplicate of a gold pair, which no model may train on.
    """

    pairs: pl.DataFrame
    vector_ND: Floats
    attributes: Mapping[str, Mapping[str, Any]]
    store: Store
    likeness: MinHash = field(default_factory=MinHash)

    @classmethod
    def of(
        cls,
        pairs: pl.DataFrame,
        embed: Embed,
        store: Store,
        attributes: pl.DataFrame | None = None,
    ) -> "Pool":
        """A pool of records.

        Args:
            pairs: records of pairs; of equal ids the first stays.
            embed: texts to unit rows.
            store: where sketches are kept.
            attributes: the table `ATTRIBUTES`; None: pairs are found by their prompts alone.
        """
        pairs = pairs.unique("id", keep="first", maintain_order=True).sort("id")
        if pairs.is_empty():
            raise ValueError("there is no pair left to curate: look at what cleaning dropped.")
        known = {} if attributes is None else {r["id"]: r for r in attributes.iter_rows(named=True)}
        texts = [retrieval_text(p, known.get(p.id)) for p in shown(pairs)]
        return cls(pairs=pairs, vector_ND=embed(texts), attributes=known, store=store)

    @cached_property
    def ids(self) -> list[str]:
        """Of all pairs, in order."""
        found: list[str] = self.pairs["id"].to_list()
        return found

    @cached_property
    def content(self) -> str:
        """Hash of the pairs, and of what they are found by."""
        told = [self.ids, digest([dict(a) for a in self.attributes.values()])]
        return digest(told)

    def records(self, ids: Collection[str]) -> pl.DataFrame:
        """The records of some pairs."""
        return self.pairs.filter(pl.col("id").is_in(list(ids)))

    def labelled(self, labels: Mapping[str, Label]) -> pl.DataFrame:
        """Some pairs with their better sides as `chosen`, in the order of the pool's ids."""
        return turned(self.records(labels.keys()), labels)

    def vectors(self, ids: Sequence[str]) -> Floats:
        """The vectors of some pairs, in this order."""
        return np.asarray(self.vector_ND[[self._place[i] for i in ids]], dtype=np.float64)

    def rank(self, ident: str) -> int:
        """The rank of a pair for the first verdicts of people: the easiest first."""
        return easiest_first(self.attributes.get(ident))

    def targets(
        self, ids: Sequence[str], gold: Mapping[str, Label], comments: Mapping[str, str]
    ) -> list[Target]:
        """Pairs to be labelled, each with the gold pairs that are most like it.

        Args:
            ids: of the pairs.
            gold: labels of people.
            comments: what people wrote beside them; else the pair's own guideline is the reason.
        """
        known = sorted(gold)
        near = nearest(self.vectors(ids), known, self.vectors(known), SOLVED)
        return [
            Target(
                pair=self._shown[ident],
                solved=tuple(
                    Solved(pair=self._shown[g], label=gold[g], reason=self._reason(g, comments))
                    for g in found
                ),
            )
            for ident, found in zip(ids, near, strict=True)
        ]

    def like(self, gold: Collection[str]) -> set[str]:
        """Pairs that nearly repeat one of these: a model trained on them has seen its test."""
        if not gold:
            return set()
        known = pl.col("id").is_in(list(gold))
        found = near_duplicates(
            [self._sketch.filter(~known)],
            settings=self.likeness,
            published=[self._sketch.filter(known)],
        )
        return set(found.filter(pl.col("duplicate_of").is_in(list(gold)))["id"])

    def _reason(self, ident: str, comments: Mapping[str, str]) -> str:
        told = comments.get(ident) or (self.attributes.get(ident) or {}).get("guideline")
        return told or ""

    @cached_property
    def _place(self) -> dict[str, int]:
        return {ident: n for n, ident in enumerate(self.ids)}

    @cached_property
    def _shown(self) -> dict[str, Shown]:
        return {p.id: p for p in shown(self.pairs)}

    @cached_property
    def _sketch(self) -> pl.DataFrame:
        step = Step(
            name="pair_sketches",
            version=1,
            settings=settings_of(self.likeness),
            inputs={"pairs": digest(self.ids)},
        )
        return self.store.run(
            step, [table("sketches", lambda: self.likeness.sketch(self.pairs))]
        ).frame()
