"""Publishing: from a ledger to a dataset folder with its report."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.flows.cleaning import gate, settings_of_filters
from gristmill.flows.config import CurateConfig
from gristmill.flows.steps import (
    bind,
    check_all,
    open_store,
    passes_of,
    prepare_all,
    scorers,
)
from gristmill.pipeline.contracts import Scorer, Signal
from gristmill.pipeline.dataset import Dataset
from gristmill.pipeline.environment import environment
from gristmill.pipeline.export.facts import Facts
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.export.render import Render, renderer
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.observe import Models, Passes, observe
from gristmill.pipeline.report.build import report
from gristmill.pipeline.report.projection import plane
from gristmill.pipeline.signals import HiddenState, SentenceEmbedding
from gristmill.pipeline.store import open_entry
from gristmill.selectors import catalog


def publish(config: CurateConfig, ledger: Path, pool: Path, reference: Path | None) -> Path:
    """Export the kept rows with card, ledger and report; returns the published folder."""
    store = open_store(config.store)
    models = bind(store, config.models, allow_network=config.allow_network)
    methods = scorers(config)
    told = {
        "scorers": list(methods),
        "settings": {m: catalog.plain(s) for m, s in methods.items()},
        "by": config.select.by or config.scorers[0].method,
        "rule": config.select.rule,
        "rule_settings": config.select.settings or None,
        "budget": config.select.budget,
        "before": [s.model_dump() for s in config.select.before] or None,
        "filters": settings_of_filters(config.clean) or None,
        "papers": sorted({s.paper for s in methods.values() if s.paper}),
        "reference": _told_reference(reference),
        "prepared": prepare_all(config, pool, reference) or None,
        "checks": check_all(config, pool, reference) if config.check_scores else None,
    }
    frame = open_entry(ledger).frame()
    # what a method's score is made of is no scorer of its own
    parts = [c for c in frame.columns if c.startswith("score_") and c[6:] not in methods]
    return export_rows(
        frame.rename({c: f"part_{c[6:]}" for c in parts}),
        Dataset.open(pool),
        Dataset.open(reference) if reference else None,
        root=Path(config.export.root),
        name=config.name,
        told=told,
        models=models,
        passes=passes_of(config),
        validation_fraction=config.export.validation_fraction,
        vectors=_vectors(methods.values(), set(models.roles)),
        contamination=gate(config.clean),
    )


def announcement(folder: Path) -> str:
    """A published dataset in three lines of Markdown."""
    return (
        f"**{folder.parent.name} {folder.name}**\n\n"
        f"- folder: `{folder}`\n- report: `{folder / 'report.html'}`\n"
        f"- load: `datasets.load_dataset({str(folder)!r})`"
    )


def export_rows(
    ledger: pl.DataFrame,
    dataset: Dataset,
    reference: Dataset | None,
    *,
    root: Path,
    name: str,
    told: Mapping[str, Any],
    models: Models,
    passes: Passes,
    validation_fraction: float,
    vectors: Signal | None = None,
    contamination: Mapping[str, Any] | None = None,
) -> Path:
    """Publish what a ledger keeps, rendered and checked with the target's tokenizer.

    `vectors` is a signal that is there already; the report draws its map of the pool from it.
    """
    tokenizer: dict[str, str] = {}
    render = None
    if reference is not None:
        reference.entry.intact()  # what is held against the kept rows must be what was measured
    if "target" in models.roles:
        (files, *_) = models.files("target")
        render = _renderer(files, passes.max_length)
        tokenizer = {
            "id": files.reference,
            "sha256": files.tokenizer_sha,
            "chat_template_sha": files.chat_template_sha,
        }
    return export(
        ledger,
        dataset,
        root=root,
        name=name,
        selection=told,
        models=models.describe(sorted(models.roles)),
        tokenizer=tokenizer,
        seeds={"split": 0},
        run=environment(),
        validation_fraction=validation_fraction,
        references=reference.frame(["id"])["id"].to_list() if reference else (),
        contamination=contamination,
        render=render,
        max_length=passes.max_length,
        report=partial(
            _report,
            dataset=dataset,
            models=models,
            passes=passes,
            vectors=vectors,
            wanted=told.get("rule_settings") if told.get("rule") == "mixture" else None,
        ),
    )


def _report(
    facts: Facts,
    *,
    dataset: Dataset,
    models: Models,
    passes: Passes,
    vectors: Signal | None,
    wanted: Mapping[str, Any] | None,
) -> bytes:
    shares = (wanted or {}).get("shares")
    target = {k: float(v) for k, v in shares.items()} if isinstance(shares, Mapping) else None
    by = str((wanted or {}).get("by", "source"))
    if vectors is None:
        return report(facts, dataset, target=target, target_by=by)
    checked = replace(models.store, verify=True)  # what the page shows is hashed like the records
    seen = observe(checked, dataset, [vectors], models, passes=passes)
    several = models.files(vectors.role)
    column = vectors.column if len(several) == 1 else f"{vectors.column}@0"
    return report(
        facts,
        dataset,
        projection=plane(seen, column),
        projection_note=f"{vectors.column} of {several[0].reference}",
        target=target,
        target_by=by,
    )


def _vectors(methods: Iterable[Scorer], roles: Set[str]) -> Signal | None:
    """The signal that the report's map is drawn from: an embedding, or else a hidden state."""
    signals = [s for m in methods for s in m.signals if s.role in roles]
    embeddings = [s for s in signals if isinstance(s, SentenceEmbedding)]
    states = [s for s in signals if isinstance(s, HiddenState)]
    return next(iter([*embeddings, *states]), None)


def _renderer(files: ModelFiles, limit: int) -> Render:
    """The target's rendering; its tokenizer is loaded with the first record."""

    @cache
    def ready() -> Render:
        return renderer(load_tokenizer(files, limit=limit))

    return lambda record: ready()(record)


def _told_reference(reference: Path | None) -> dict[str, Any] | None:
    if reference is None:
        return None
    dataset = Dataset.open(reference)
    return {"sha256": dataset.entry.content, "rows": dataset.frame(["id"]).height}
