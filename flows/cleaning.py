"""Cleaning in a run: which cleaners, in which order, each a step of the store.

A duplicate is only looked for among rows that nothing before has dropped, so that no row falls
because of a row that itself falls.
"""

import dataclasses
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.flows.config import CleanConfig, CurateConfig, FilterConfig
from gristmill.flows.steps import bind, open_store, passes_of
from gristmill.pipeline.clean import benchmarks, filters, heuristics, language, privacy, toxicity
from gristmill.pipeline.clean.decontaminate import Gate, decontaminate
from gristmill.pipeline.clean.exact import exact_duplicates, fingerprints
from gristmill.pipeline.clean.filters import Filter, filtered
from gristmill.pipeline.clean.near_duplicates import MinHash, near_duplicates, sketches
from gristmill.pipeline.clean.reference import reference_rows
from gristmill.pipeline.clean.reversed_pairs import reversed_pairs
from gristmill.pipeline.clean.semantic_duplicates import SemDeDup, semantic_duplicates
from gristmill.pipeline.contracts import Frames, settings_of
from gristmill.pipeline.dataset import Dataset
from gristmill.pipeline.ingest import Source, ingest
from gristmill.pipeline.observe import Models, observe
from gristmill.pipeline.schema import KEY, digest
from gristmill.pipeline.signals import SentenceEmbedding
from gristmill.pipeline.store import Entry, Step, Store, open_entry, table
from gristmill.selectors.catalog import convert

Drops = list[pl.DataFrame]


def clean(
    config: CurateConfig, pool: Path, reference: Path | None, scores: Path | None = None
) -> list[Path]:
    """Run the cleaners; returns the folders of their drops, in order."""
    store = open_store(config.store)
    work = _Cleaning(
        store=store,
        config=config,
        dataset=Dataset.open(pool),
        reference=Dataset.open(reference) if reference else None,
        scores=open_entry(scores) if scores and config.clean.keep == "best" else None,
        models=bind(store, config.models, allow_network=config.allow_network),
        published=tuple(
            ingest(store, [Source(path=p)], max_bad_share=1.0) for p in config.clean.published
        ),
    )
    return [entry.path for entry in work.run()]


def gate(settings: CleanConfig) -> dict[str, Any] | None:
    """What a card says of decontamination: the sets that were checked and how; None if none."""
    asked = settings.decontaminate
    if asked is None:
        return None
    sets = items(settings)["benchmark"].unique().sort().to_list()
    told = {"sets": sets, "n": asked.n, "fuzzy": asked.fuzzy, "similarity": asked.similarity}
    return {k: v for k, v in told.items() if v is not None}


def items(settings: CleanConfig) -> pl.DataFrame:
    """The items of the evaluation sets that rows are checked against."""
    asked = settings.decontaminate
    assert asked is not None
    folder = asked.folder or os.environ.get("GRISTMILL_DATA")
    if not folder or not Path(folder).is_dir():
        raise ValueError(
            f"clean.decontaminate.folder is {folder or 'not given'}: name the folder of the "
            "evaluation sets (or set GRISTMILL_DATA)."
        )
    chosen = Path(asked.config) if asked.config else benchmarks.SHIPPED
    return benchmarks.load_benchmarks(Path(folder), asked.sets, config=chosen)


def filter_named(asked: FilterConfig) -> Filter:
    """The filter of that name: `repetition` is `Repetition`; text settings are converted."""
    known = {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "_", c.__name__).lower(): c
        for module in (filters, heuristics, language, privacy, toxicity)
        for c in vars(module).values()
        if isinstance(c, type) and c.__module__ == module.__name__ and "reasons" in vars(c)
        if dataclasses.is_dataclass(c)
    }
    if asked.filter not in known:
        raise ValueError(
            f"there is no filter {asked.filter!r}; there are: {', '.join(sorted(known))}."
        )
    cls = known[asked.filter]
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for name in asked.settings:
        if name not in names:
            raise ValueError(f"filter {asked.filter} has no setting {name!r}; it has: {names}.")
    where = f"filter {asked.filter}."
    values = {k: convert(v, hints[k], where + k) for k, v in asked.settings.items()}
    return typing.cast(Filter, cls(**values))


@dataclass(frozen=True, kw_only=True)
class _Cleaning:
    """One run's cleaning: what every cleaner reads."""

    store: Store
    config: CurateConfig
    dataset: Dataset
    reference: Dataset | None
    scores: Entry | None
    models: Models
    published: tuple[Dataset, ...]

    @property
    def settings(self) -> CleanConfig:
        return self.config.clean

    def run(self) -> list[Entry]:
        asked = self.settings
        cleaners: dict[str, tuple[Callable[[Drops], pl.DataFrame], dict[str, Any]]] = {}
        if self.reference is not None:
            cleaners["reference"] = (self._reference, {"reference": self.reference.entry.content})
        if asked.filters:
            cleaners["filters"] = (self._filters, {"filters": settings_of_filters(asked)})
        if asked.decontaminate:
            told = {"items": digest(items(asked).rows()), **(gate(asked) or {})}
            if asked.decontaminate.similarity is not None:
                told["embedder"] = self._embedder
            cleaners["decontaminate"] = (self._decontaminate, told)
        kept = {
            "scores": self.scores.content if self.scores else "",
            "published": [d.entry.content for d in self.published],
        }
        if self.dataset.kind == "pair":
            cleaners["pairs"] = (self._pairs, {})
        cleaners["exact"] = (self._exact, kept)
        if asked.near:
            cleaners["near"] = (self._near, {**kept, **asked.near.model_dump()})
        if asked.semantic:
            told = {**kept, **asked.semantic.model_dump(), "embedder": self._embedder}
            cleaners["semantic"] = (self._semantic, told)
        done: list[Entry] = []
        for name, (cleaner, told) in cleaners.items():
            step = Step(
                name=f"clean-{name}",
                version=2,
                settings=told,
                inputs={
                    "pool": self.dataset.entry.content,
                    "before": digest([e.content for e in done]),
                },
            )
            before = [e.frame() for e in done]
            done.append(self.store.run(step, [table("drops", partial(cleaner, before))]))
        return done

    @property
    def _embedder(self) -> str:
        return self.models.files("embedder")[0].fingerprint

    def _left(self, before: Drops) -> Iterator[pl.DataFrame]:
        """The records that nothing before has dropped."""
        gone = pl.concat([d.select(KEY) for d in before]) if before else None
        for block in self.dataset.blocks():
            yield block if gone is None else block.join(gone, on=KEY, how="anti")

    def _scores(self) -> pl.DataFrame | None:
        return None if self.scores is None else self.scores.frame([*KEY, "score"])

    def _reference(self, before: Drops) -> pl.DataFrame:
        assert self.reference is not None
        return reference_rows(self.dataset.blocks(), self.reference.frame())

    def _filters(self, before: Drops) -> pl.DataFrame:
        return filtered(self._left(before), [filter_named(f) for f in self.settings.filters])

    def _decontaminate(self, before: Drops) -> pl.DataFrame:
        asked = self.settings.decontaminate
        assert asked is not None
        how = Gate(n=asked.n, fuzzy=asked.fuzzy)
        if asked.similarity is not None:
            how = Gate(n=asked.n, fuzzy=asked.fuzzy, similarity=asked.similarity)
        embed = None if asked.similarity is None else self._embed
        drops, _ = decontaminate(self._left(before), items(self.settings), gate=how, embed=embed)
        return drops

    def _embed(self, texts: Any) -> NDArray[np.float32]:  # noqa: ANN401  (a sequence of texts)
        (files, *_) = self.models.files("embedder")
        model = self.models.load(files, passes_of(self.config), embedder=True).model
        vectors: NDArray[np.float32] = model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    def _pairs(self, before: Drops) -> pl.DataFrame:
        return reversed_pairs(self._left(before))

    def _exact(self, before: Drops) -> pl.DataFrame:
        known = [fingerprints(b) for d in self.published for b in d.blocks()]
        return exact_duplicates(
            self._left(before),
            scores=self._scores(),
            published=pl.concat(known) if known else None,
        )

    def _near(self, before: Drops) -> pl.DataFrame:
        assert self.settings.near is not None
        how = MinHash(**self.settings.near.model_dump())
        gone = pl.concat([d.select(KEY) for d in before])
        left = [
            pl.read_parquet(p).join(gone, on=KEY, how="anti", maintain_order="left")
            for p in sketches(self.store, self.dataset.shards(), how)
        ]
        known = [p for d in self.published for p in sketches(self.store, d.shards(), how)]
        return near_duplicates(left, settings=how, scores=self._scores(), published=known)

    def _semantic(self, before: Drops) -> pl.DataFrame:
        assert self.settings.semantic is not None
        signal = SentenceEmbedding()
        keys = pl.concat([b.select(KEY) for b in self._left(before)])
        ids = keys.select("id").unique()
        return semantic_duplicates(
            keys,
            self._vectors(self.dataset, signal, ids),
            signal.column,
            settings=SemDeDup(epsilon=self.settings.semantic.epsilon),
            scores=self._scores(),
            published=self._known(signal),
        )

    def _known(self, signal: SentenceEmbedding) -> Frames | None:
        parts = [p for d in self.published for p in self._vectors(d, signal, None).parts]
        return Frames(parts=tuple(parts)) if parts else None

    def _vectors(
        self, dataset: Dataset, signal: SentenceEmbedding, ids: pl.DataFrame | None
    ) -> Frames:
        seen = observe(self.store, dataset, [signal], self.models, passes=passes_of(self.config))
        blocks = (b if ids is None else b.join(ids, on="id", how="semi") for b in seen.blocks())
        return Frames(parts=tuple(blocks))


def settings_of_filters(config: CleanConfig) -> list[Mapping[str, Any]]:
    """The filters with all their settings, for a manifest."""
    return [settings_of(filter_named(f)) for f in config.filters]
