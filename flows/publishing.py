"""Publishing: from a ledger to a dataset folder with its report."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.flows.steps import Curation, Rows, methods_of, notes
from gristmill.pipeline.contracts import Rule, Scorer, Signal, settings_of
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.export.render import renderer
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.environment import environment
from gristmill.pipeline.records.store import open_entry
from gristmill.pipeline.report.build import report
from gristmill.pipeline.report.facts import Facts
from gristmill.pipeline.report.projection import plane
from gristmill.pipeline.report.rendered import Render
from gristmill.pipeline.signals.forward_signals import HiddenState, SentenceEmbedding
from gristmill.selectors import catalog


def publish(run: Curation, rows: Rows, seen: Rows, scores: Mapping[str, Path]) -> Path:
    """Export the kept rows with card, ledger and report; returns the published folder.

    Args:
        run: the curation.
        rows: the rows as the last stage left them.
        seen: the rows that the last stage was given: what the report's map shows.
        scores: of every scorer, by name.
    """
    config, scorers = run.config, run.scorers
    assert rows.ledger is not None, "a stage has decided"
    reference = Dataset.open(rows.reference) if rows.reference else None
    last = len(run.stages) - 1
    evaluations = run.cleaning.evaluations
    told = {
        "scorers": list(scorers),
        "methods": methods_of(scorers),
        "settings": {name: catalog.plain(s) for name, s in scorers.items()},
        "by": run.stages[-1].by,
        "rule": config.select.rule or scorers[run.stages[-1].by].rule,
        "rule_settings": _settings(run.stages[-1].rule) or None,
        "budget": config.select.budget,
        "before": [s.model_dump() for s in config.select.before] or None,
        "filters": run.cleaning.filter_settings or None,
        "papers": sorted({s.paper for s in scorers.values() if s.paper}),
        "reference": _told_reference(reference),
        "prepared": notes(scores) or None,
        "checks": run.check(last, seen) if config.check_scores else None,
    }
    frame = open_entry(rows.ledger).frame()
    # what a method's score is made of is no scorer of its own
    parts = [c for c in frame.columns if c.startswith("score_") and c[6:] not in scorers]
    vectors = _vectors(run.stages[-1].scorers.values(), set(run.context.models.roles))
    return export_rows(
        frame.rename({c: f"part_{c[6:]}" for c in parts}),
        Dataset.open(rows.pool),
        reference,
        root=Path(config.export.root),
        name=config.name,
        told=told,
        context=run.context,
        validation_fraction=config.export.validation_fraction,
        seen=(run.left(seen), vectors) if vectors else None,
        contamination=evaluations.facts() if evaluations else None,
    )


def _settings(rule: Rule) -> dict[str, Any]:
    """The settings of a rule that are not its defaults."""
    told = settings_of(rule)
    usual = {f.name: f.default for f in fields(rule)}
    return {k: v for k, v in told.items() if k != "class" and vars(rule)[k] != usual[k]}


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
    context: RunContext,
    validation_fraction: float,
    seen: tuple[Dataset, Signal] | None = None,
    contamination: Mapping[str, Any] | None = None,
) -> Path:
    """Publish what a ledger keeps, rendered and checked with the target's tokenizer.

    `seen` is what was observed already, rows and a signal; the report's map is drawn from it.
    """
    models, passes = context.models, context.passes
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
            context=context,
            seen=seen,
            wanted=told.get("rule_settings") if told.get("rule") == "mixture" else None,
        ),
    )


def _report(
    facts: Facts,
    *,
    dataset: Dataset,
    context: RunContext,
    seen: tuple[Dataset, Signal] | None,
    wanted: Mapping[str, Any] | None,
) -> bytes:
    shares = (wanted or {}).get("shares")
    target = {k: float(v) for k, v in shares.items()} if isinstance(shares, Mapping) else None
    by = str((wanted or {}).get("by", "source"))
    if seen is None:
        return report(facts, dataset, target=target, target_by=by)
    rows, vectors = seen
    several = context.models.files(vectors.role)
    store = replace(context.store, verify=True)  # what the page shows is hashed like the records
    checked = context.bound(replace(context.models, store=store))
    column = vectors.column if len(several) == 1 else f"{vectors.column}@0"
    return report(
        facts,
        dataset,
        projection=plane(observe(checked, rows, [vectors]), column),
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


def _told_reference(reference: Dataset | None) -> dict[str, Any] | None:
    if reference is None:
        return None
    return {"sha256": reference.content, "rows": reference.frame(["id"]).height}
