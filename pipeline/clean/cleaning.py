"""Clean: which rows never reach a model, decided before any is asked. One step of the store each.

Cleaners run in a fixed order: a person's lists of ids, what people judged to fall, reference rows,
filters, evaluation items, pairs in both directions, then exact, near and semantic duplicates. A
duplicate is only looked for among rows that nothing before has dropped, so that no row falls
because of a row that itself falls.

Which copy of a cluster stays is the first by source and row, or, with `keep="best"`, the best
scored one: then duplicates are left in by `clean`, and `second_look` drops them once scores are
there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import polars as pl

from gristmill.pipeline.clean.decontaminate import Embed, Gate, decontaminate
from gristmill.pipeline.clean.embedded import TextEmbedder
from gristmill.pipeline.clean.exact import exact_duplicates, fingerprints
from gristmill.pipeline.clean.filters import Filter, filtered
from gristmill.pipeline.clean.listed import Listed, listed
from gristmill.pipeline.clean.near_duplicates import MinHash, near_duplicates
from gristmill.pipeline.clean.reference import reference_rows
from gristmill.pipeline.clean.reversed_pairs import reversed_pairs
from gristmill.pipeline.clean.semantic_duplicates import SemDeDup, semantic_duplicates
from gristmill.pipeline.clean.sketching import sketches
from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.records.schema import KEY, digest
from gristmill.pipeline.records.store import Entry, Step, table
from gristmill.pipeline.signals.forward_signals import SentenceEmbedding

Drops = Sequence[pl.DataFrame]
Keep = Literal["first", "best"]


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """Evaluation sets that no row may repeat.

    Attributes:
        items: `benchmarks.load_benchmarks`: one row an item.
        gate: what counts as a repetition.
        rewordings: also compare sentence embeddings, by the model in the role embedder.
    """

    items: pl.DataFrame
    gate: Gate = field(default_factory=Gate)
    rewordings: bool = True

    def facts(self) -> dict[str, Any]:
        """What a card says: the sets that were checked, and how."""
        told = {
            "sets": self.items["benchmark"].unique().sort().to_list(),
            "n": self.gate.n,
            "fuzzy": self.gate.fuzzy,
        }
        return {**told, "similarity": self.gate.similarity} if self.rewordings else told


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """The cleaners of a run. Exact duplicates, and pairs in both directions, always go.

    Attributes:
        filters: the first that objects decides.
        evaluations: sets that rows are checked against; None: none are.
        near: near duplicates; None: they stay.
        semantic: semantic duplicates, by the model in the role embedder; None: they stay.
        keep: which of several copies stays: the "first" by source and row, or the "best" scored.
        published: datasets whose rows must not come again.
        versions: what earlier versions of the dataset that is made have published. Such a row may
            come again, and stays before any other; a new row that repeats it falls.
        lists: ids that a person chose.
        judged: drops of the rows that people judged to fall; None: nobody was asked.
    """

    filters: tuple[Filter, ...] = ()
    evaluations: Evaluations | None = None
    near: MinHash | None = None
    semantic: SemDeDup | None = None
    keep: Keep = "first"
    published: tuple[Dataset, ...] = ()
    versions: tuple[Dataset, ...] = ()
    lists: Listed = field(default_factory=Listed)
    judged: Entry | None = None

    @property
    def filter_settings(self) -> list[Mapping[str, Any]]:
        """The filters with all their settings, for a manifest."""
        return [settings_of(f) for f in self.filters]

    def judged_drops(self, before: Drops) -> pl.DataFrame:
        """What people judged to fall and is still there."""
        assert self.judged is not None, "it is a cleaner where people were asked"
        found = self.judged.frame()
        for frame in before:
            found = found.join(frame.select(*KEY), on=KEY, how="anti", maintain_order="left")
        return found


def clean(
    context: RunContext,
    dataset: Dataset,
    cleaning: Cleaning,
    reference: Dataset | None = None,
) -> list[Entry]:
    """Run the cleaners that need no score; the drops of each, in order (see `dataset.without`)."""
    work = _Work(context=context, dataset=dataset, cleaning=cleaning, reference=reference)
    cleaners = work.before()
    if cleaning.keep == "first":
        cleaners |= work.duplicates()
    return work.run(cleaners, ())


def all_drops(entries: Sequence[Entry]) -> pl.DataFrame:
    """What the cleaners dropped, as one table."""
    return pl.concat([entry.frame() for entry in entries])


def second_look(
    context: RunContext,
    dataset: Dataset,
    cleaning: Cleaning,
    before: Sequence[Entry],
    scores: Entry,
) -> list[Entry]:
    """With `keep="best"`: the copies that are worse scored than the one that stays.

    Args:
        context: of the run.
        dataset: the pool that `clean` was given.
        cleaning: the same.
        before: what `clean` dropped.
        scores: of the stage that decides.
    """
    assert cleaning.keep == "best", "only the best copy needs a second look"
    work = _Work(context=context, dataset=dataset, cleaning=cleaning, scores=scores)
    return work.run(work.duplicates(), before)


_Cleaner = tuple[Callable[[Drops], pl.DataFrame], dict[str, Any]]  # and what its key takes


@dataclass(frozen=True, kw_only=True)
class _Work:
    """One run's cleaning: what every cleaner reads."""

    context: RunContext
    dataset: Dataset
    cleaning: Cleaning
    reference: Dataset | None = None
    scores: Entry | None = None

    def before(self) -> dict[str, _Cleaner]:
        """The cleaners that look at a row by itself."""
        asked = self.cleaning
        cleaners: dict[str, _Cleaner] = {}
        if asked.lists:
            told = dict(asked.lists.facts)
            if asked.lists.takedown and asked.versions:
                told["versions"] = self._versions
            cleaners["listed"] = (self._listed, told)
        if asked.judged is not None:
            cleaners["judged"] = (asked.judged_drops, {"judged": asked.judged.content})
        if self.reference is not None:
            cleaners["reference"] = (self._reference, {"reference": self.reference.content})
        if asked.filters:
            cleaners["filters"] = (self._filters, {"filters": asked.filter_settings})
        if asked.evaluations:
            told = {"items": digest(asked.evaluations.items.rows()), **asked.evaluations.facts()}
            if asked.evaluations.rewordings:
                told["embedder"] = self._embedder
            cleaners["decontaminate"] = (self._decontaminate, told)
        if self.dataset.kind == "pair":
            cleaners["pairs"] = (self._pairs, {})
        return cleaners

    def duplicates(self) -> dict[str, _Cleaner]:
        """The cleaners that compare rows, of which one stays."""
        asked = self.cleaning
        kept = {
            "scores": self.scores.content if self.scores else "",
            "published": [d.content for d in asked.published],
            **({"versions": self._versions} if asked.versions else {}),
        }
        cleaners: dict[str, _Cleaner] = {"exact": (self._exact, kept)}
        if asked.near:
            cleaners["near"] = (self._near, {**kept, **settings_of(asked.near)})
        if asked.semantic:
            told = {**kept, **settings_of(asked.semantic), "embedder": self._embedder}
            cleaners["semantic"] = (self._semantic, told)
        return cleaners

    def run(self, cleaners: Mapping[str, _Cleaner], before: Sequence[Entry]) -> list[Entry]:
        """The drops of each cleaner, each among the rows that are left."""
        done = list(before)
        for name, (cleaner, told) in cleaners.items():
            step = Step(
                name=f"clean-{name}",
                version=3,
                settings=told,
                inputs={
                    "pool": self.dataset.content,
                    "before": digest([e.content for e in done]),
                },
            )
            found = self.context.store.find(step)
            if found is None:  # progress is told of work alone
                self.context.tell(f"clean, {name}", 0, 1)
                drops = table("drops", partial(cleaner, [e.frame() for e in done]))
                found = self.context.store.run(step, [drops])
                self.context.advance(f"clean, {name}", 1, 1)
            done.append(found)
        return done[len(before) :]

    @property
    def _embedder(self) -> str:
        return self.context.models.files("embedder")[0].fingerprint

    def _left(self, before: Drops, name: str = "") -> Iterator[pl.DataFrame]:
        """The records that nothing before has dropped; progress is told under the name, if any."""
        left = self.dataset.without(before)
        shards = left.shards()
        for number, shard in enumerate(shards):
            yield left.block(shard)
            if name:
                self.context.tell(f"clean, {name}: shards", number + 1, len(shards))

    def _told(self, what: str) -> Callable[[int, int], None]:
        return partial(self.context.tell, f"clean, {what}")

    @property
    def _versions(self) -> list[str]:
        return [d.content for d in self.cleaning.versions]

    @cached_property
    def _standing(self) -> pl.Series | None:
        """The ids that earlier versions have published; None: there are none."""
        ids = [unique_ids(d) for d in self.cleaning.versions]
        return pl.concat(ids).unique().sort() if ids else None

    def _known(self, before: Drops) -> tuple[tuple[Dataset, ...], tuple[Dataset, ...]]:
        """Rows that stay whatever comes: of other datasets, and of earlier versions of this one.

        Of those, a row that is still in the pool is one of the pool's own.
        """
        if not self.cleaning.versions:
            return self.cleaning.published, ()
        here = unique_ids(self.dataset.without(before)).implode()
        gone = []
        for version in self.cleaning.versions:
            rows = [b.filter(pl.col("id").is_in(here)) for b in version.blocks(KEY)]
            gone.append(version.without(rows))
        return self.cleaning.published, tuple(gone)

    def _scores(self) -> pl.DataFrame | None:
        return None if self.scores is None else self.scores.frame([*KEY, "score"])

    def _listed(self, before: Drops) -> pl.DataFrame:
        known = (block for version in self.cleaning.versions for block in version.blocks())
        return listed(partial(self._left, before), self.cleaning.lists, known)

    def _reference(self, before: Drops) -> pl.DataFrame:
        assert self.reference is not None
        return reference_rows(self._left(before, "reference rows"), self.reference.frame())

    def _filters(self, before: Drops) -> pl.DataFrame:
        return filtered(self._left(before, "filters"), self.cleaning.filters)

    def _decontaminate(self, before: Drops) -> pl.DataFrame:
        asked = self.cleaning.evaluations
        assert asked is not None
        embed = None
        if asked.rewordings:
            rows = sum(b.height for b in self.dataset.without(before).blocks(["id"]))
            embed = self._embedding(asked.items.height + rows)
        left = self._left(before, "evaluation items")
        drops, _ = decontaminate(left, asked.items, gate=asked.gate, embed=embed)
        return drops

    def _embedding(self, total: int) -> Embed:
        """The embedder as a function of texts, of which there will be so many."""
        (files, *_) = self.context.models.files("embedder")
        return TextEmbedder(
            context=self.context, files=files, told=self._told("rewordings: texts"), total=total
        )

    def _pairs(self, before: Drops) -> pl.DataFrame:
        return reversed_pairs(self._left(before, "both directions"))

    def _exact(self, before: Drops) -> pl.DataFrame:
        others, own = self._known(before)
        known = [fingerprints(b) for d in (*others, *own) for b in d.blocks()]
        return exact_duplicates(
            self._left(before, "exact"),
            scores=self._scores(),
            published=pl.concat(known) if known else None,
            standing=self._standing,
        )

    def _near(self, before: Drops) -> pl.DataFrame:
        how = self.cleaning.near
        assert how is not None
        left = self.dataset.without(before)
        sketched = partial(
            sketches,
            self.context.store,
            settings=how,
            progress=self._told("near: shards sketched"),
            engine=self.context.engine,
        )
        others, own = self._known(before)

        def counts(rows: pl.DataFrame) -> pl.DataFrame:
            for version in own:
                rows = version.mask(rows)
            return rows

        return near_duplicates(
            sketched(self.dataset.shards()),
            settings=how,
            scores=self._scores(),
            published=[p for d in (*others, *own) for p in sketched(d.shards())],
            counts=counts,
            standing=self._standing,
            left=left.mask,
            scratch=self.context.store.root,
            progress=self._told("near: rows compared"),
        )

    def _semantic(self, before: Drops) -> pl.DataFrame:
        signal = SentenceEmbedding()
        left = self.dataset.without(before)
        others, own = self._known(before)
        return semantic_duplicates(
            pl.concat([b.select(KEY) for b in left.blocks(KEY)]),
            observe(self.context, left, [signal]),
            signal.column,
            settings=self.cleaning.semantic,
            scores=self._scores(),
            published=[observe(self.context, d, [signal]) for d in (*others, *own)],
            standing=self._standing,
            scratch=self.context.store.root,
            progress=self._told("semantic: rows compared"),
        )
