"""Publish: what a run kept as a version of a dataset, with what it refused beside it."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.models.completion.client import Price
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.environment import environment
from gristmill.pipeline.records.store import Part, Step, write_table, write_text
from gristmill.synthesis import report
from gristmill.synthesis.equal import Outcome

ANSWERERS = ("extractor", "checker", "reader")


def publish(
    outcome: Outcome,
    *,
    root: Path,
    name: str,
    price: Price,
    contamination: Mapping[str, Any] | None = None,
) -> Path:
    """A version of the dataset: kept pairs, ledger, report; records, refused pairs and rounds.

    Where no pair was kept nothing is published: the same files lie in the store, and their folder
    is returned.

    Args:
        outcome: of the rounds.
        root: folder of datasets.
        name: of the dataset.
        price: of tokens, for the report.
        contamination: the evaluation sets that pairs were checked against; None: none were.
    """
    made = outcome.publish()
    candidates, sent = outcome.table("candidates"), outcome.table("sent")
    told = {
        "ended by": outcome.stop,
        "documents": len(outcome.site.texts),
        "documents sent": len(sent),
        "pairs extracted": len(candidates),
        "pairs kept": len(made.frame()),
        "tokens": int(sent["tokens_in"].sum()) + int(sent["tokens_out"].sum()),
    }
    files: dict[str, pl.DataFrame | str] = {
        "records.parquet": made.frame(),
        "rejected.parquet": candidates.filter(pl.col("reason").is_not_null()),
        "pulls.parquet": outcome.table("pulls"),
        "sent.parquet": sent,
        "summary.json": json_text.published(told, indent=1) + "\n",
    }
    page = partial(report.page, outcome, title=name, price=price)
    if not told["pairs kept"]:
        settings = {"title": name, "price": vars(price)}
        return _unpublished(outcome, settings, files, page)
    pool, ledger = outcome.pool()
    answerers = {role: vars(outcome.site.extraction)[role] for role in ANSWERERS}
    asked = Publication(
        root=root,
        name=name,
        selection={
            "scorers": [],
            "method": "equal",
            "settings": settings_of(outcome.equal),
            "papers": [outcome.equal.paper],
        },
        models=[{"role": r, "id": b.model} for r, b in answerers.items() if b is not None],
        seeds={"split": 0},
        run=environment(),
        contamination=contamination,
        tags=["synthetic"],
        report=lambda _: page(),
        files=files,
    )
    return export(ledger, pool, asked)


def _unpublished(
    outcome: Outcome,
    settings: Mapping[str, Any],
    files: Mapping[str, pl.DataFrame | str],
    page: Callable[[], bytes],
) -> Path:
    """No pair was kept: the same files in the store, for whoever asks why."""

    def write(folder: Path) -> None:
        folder.mkdir()
        for name, content in files.items():
            if isinstance(content, str):
                write_text(folder / name, content)
            else:
                write_table(content, folder / name)
        (folder / "report.html").write_bytes(page())

    step = Step(
        name="equal_unpublished",
        version=1,
        settings=settings,
        inputs={"records": outcome.publish().key},
    )
    return outcome.site.store.run(step, [Part(name="run", write=write)]).path / "run"
