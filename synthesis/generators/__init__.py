"""Generators, one file each: documents in, records out. The file's name is the generator's.

A generator is a small frozen dataclass whose fields are its settings. It gets what a run has
(`Given`) and returns what it made of it (`Generated`); publishing is not its business.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from gristmill.pipeline.models.completion.client import Price
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.records.build import build
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.registry import chosen, registry
from gristmill.pipeline.records.store import Entry, Step, Store
from gristmill.synthesis.embedding import Load
from gristmill.synthesis.verified_extraction import VerifiedExtraction

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a run hands over.

    Attributes:
        documents: rows of the schema `DOCUMENT` (chunks).
        reference: target rows: what records should come near to.
        extraction: the models that extract and check, and how they are asked.
        store: where finished work is kept.
        embedder: the sentence embedder.
        load: loads it.
        known: (id, question) of rows that must not come again.
        price: of tokens.
        progress: called with (what, documents sent, documents to send).
    """

    documents: pl.DataFrame
    reference: Dataset
    extraction: VerifiedExtraction
    store: Store
    embedder: ModelFiles
    load: Load
    known: Sequence[tuple[str, str]] = ()
    price: Price = field(default_factory=Price)
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a generator made.

    Attributes:
        records: of the schema `EXAMPLE`, those that are kept and those that are refused.
        reasons: one a record: null if it is kept, else "reason" or "reason: detail".
        step: of the store, under which the records are kept: all that they depend on.
        settings: as the published folder states them.
        summary: further lines of it, beside the number of records kept.
        tables: further tables of the published folder, by file name.
        page: the report, for a title; None: without one.
    """

    records: pl.DataFrame
    reasons: pl.Series
    step: Step
    settings: Mapping[str, Any]
    summary: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    page: Callable[[str], bytes] | None = None

    @property
    def kept(self) -> pl.DataFrame:
        """The records that are kept."""
        return self.records.filter(self.reasons.is_null())


@dataclass(frozen=True, kw_only=True)
class Generator(ABC):
    """Documents to records: equal settings and equal input give equal bytes."""

    paper: ClassVar[str] = ""

    def sends(self, documents: int) -> int:
        """How many documents are sent to the extractor at most, for the plan."""
        return documents

    def warm_up(self, given: Given) -> Entry | None:
        """What is made before, as a task of its own; by default nothing."""
        return None

    @abstractmethod
    def generate(self, given: Given, warm: Entry | None = None) -> Generated:
        """The records.

        Args:
            given: what the run hands over.
            warm: what `warm_up` made.
        """


@cache
def generators() -> dict[str, type[Generator]]:
    """Name -> class, sorted by name."""
    return registry(Path(__file__).parent, __name__, Generator)


def generator_named(name: str, settings: Mapping[str, Any] | None = None) -> Generator:
    """The generator of that name; text, as on a command line, becomes what the setting needs.

    Args:
        name: e.g. "equal".
        settings: field -> value.

    Raises:
        ValueError: unknown generator or setting, one that is lacking, or a value that does not fit.
    """
    return build(chosen("generator", name, generators()), settings, f"generator {name}")
