"""Publish: what a generator made as a version of a dataset, with what it refused beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.environment import environment
from gristmill.pipeline.records.store import Step, Store, table
from gristmill.synthesis.asides import decided, unpublished
from gristmill.synthesis.generators import Generated, Given

ANSWERERS = ("extractor", "checker", "reader")


def publish(
    made: Generated,
    given: Given,
    *,
    root: Path,
    name: str,
    generator: str,
    paper: str = "",
    contamination: Mapping[str, Any] | None = None,
) -> Path:
    """A version of the dataset: kept records, ledger, report and what else the generator tells.

    Where no record was kept nothing is published: the same files lie in the store, and their folder
    is returned.

    Args:
        made: the records.
        given: what they were made from.
        root: folder of datasets.
        name: of the dataset.
        generator: its name.
        paper: where it comes from.
        contamination: the evaluation sets that records were checked against; None: none were.
    """
    kept = made.kept
    told = {**made.summary, "pairs kept": len(kept)}
    files: dict[str, pl.DataFrame | str] = {
        "records.parquet": kept,
        **made.tables,
        "summary.json": json_text.published(told, indent=1) + "\n",
    }
    page = made.page
    if kept.is_empty():
        step = Step(
            name=f"{generator}_unpublished",
            version=1,
            settings={"title": name, "price": vars(given.price)},
            inputs={"records": made.step.key},
        )
        return unpublished(step, given.store, files, None if page is None else page(name))
    pool, ledger = candidates(made, given.store)
    answerers = {role: vars(given.extraction)[role] for role in ANSWERERS}
    asked = Publication(
        root=root,
        name=name,
        selection={
            "scorers": [],
            "method": generator,
            "settings": dict(made.settings),
            "papers": [paper] if paper else [],
        },
        models=[{"role": r, "id": b.model} for r, b in answerers.items() if b is not None],
        seeds={"split": 0},
        run=environment(),
        contamination=contamination,
        tags=["synthetic"],
        report=None if page is None else lambda _: page(name),
        files=files,
    )
    return export(ledger, pool, asked)


def candidates(made: Generated, store: Store) -> tuple[Dataset, pl.DataFrame]:
    """All records as a dataset, and a ledger that says why each is in or out.

    A refused record has its reason up to the colon in `reason`, whole in `detail`.
    """
    note = {"kind": "example", "sources": []}
    entry = store.run(made.step, [table("records", lambda: made.records)], note=lambda _: note)
    found = made.records.select("id", "source", "row").with_columns(detail=made.reasons)
    return Dataset(entry=entry, kind="example"), decided(found, "example", "synthesize")
