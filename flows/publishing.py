"""Publishing: from a ledger to a dataset folder with its report."""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from gristmill.flows import approving, nightly_steps, reports
from gristmill.flows.config import CurateConfig, RunConfig
from gristmill.flows.nightly_config import NightlyConfig
from gristmill.flows.steps import Curation, Rows, methods_of, notes
from gristmill.pipeline.compare.compared import proof, told
from gristmill.pipeline.contracts import Rule, settings_of
from gristmill.pipeline.export.drift import Limits
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.export.versions import versions
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.store import open_entry
from gristmill.pipeline.road.curated import Seen, completed, decided, map_signal, told_of
from gristmill.pipeline.road.stages import short_of
from gristmill.selectors import catalog


def publish(
    run: Curation,
    rows: Rows,
    seen: Rows,
    scores: Mapping[str, Path],
    comparison: Path | None = None,
) -> Path:
    """Export the kept rows with card, ledger and report; returns the published folder.

    Args:
        run: the curation.
        rows: the rows as the last stage left them.
        seen: the rows that the last stage was given: what the report's map shows.
        scores: of every scorer, by name.
        comparison: what the run's gate was told; None: it has no gate.
    """
    config, scorers = run.config, run.scorers
    assert isinstance(config, RunConfig), "what is published has a folder"
    assert rows.ledger is not None, "a stage has decided, or all rows are kept"
    dataset = Dataset.open(rows.pool)
    reference = Dataset.open(rows.reference) if rows.reference else None
    evaluations = run.cleaning.evaluations
    selection = {
        "scorers": list(scorers),
        **_method(run, seen),
        "filters": run.cleaning.filter_settings or None,
        "papers": sorted({s.paper for s in scorers.values() if s.paper}),
        "reference": told_of(reference),
        "prepared": notes(scores) or None,
        "shortfalls": short_of(open_entry(rows.ledger)) or None,
        **({"review": dict(run.reviewed.facts)} if run.reviewed is not None else {}),
        **({"nightly": nightly_steps.facts(run)} if isinstance(config, NightlyConfig) else {}),
    }
    asked = Publication(
        root=Path(config.export.root),
        name=config.name,
        selection=selection,
        validation_fraction=config.export.validation_fraction,
        trainer_rows=config.export.trainer_rows,
        pair_views=tuple(config.export.pair_views),
        margin=config.export.margin,
        grpo=config.export.grpo,
        contamination=evaluations.facts() if evaluations else None,
        evaluation=_evaluated(comparison, approving.demanded(run, rows, comparison)),
        files=proof(open_entry(comparison)) if comparison else {},
        limits=Limits(**config.drift.limits) if isinstance(config, NightlyConfig) else None,
    )
    told = run.reviewed.told_in if run.reviewed is not None else None
    last = run.stages[-1].scorers.values() if run.stages else ()
    vectors = map_signal(last, set(run.context.models.roles))
    return export(
        decided(open_entry(rows.ledger).intact(), list(scorers), told),
        dataset,
        completed(
            asked,
            dataset,
            run.context,
            reference=reference,
            seen=Seen(rows=run.left(seen), vectors=vectors) if vectors else None,
        ),
    )


def _evaluated(comparison: Path | None, approval: dict[str, Any] | None) -> dict[str, Any]:
    """What speaks for the selection: a gate, and whoever approved it."""
    gate = {"gate": told(comparison)["verdict"]} if comparison else {}
    return {**gate, "approval": approval} if approval is not None else gate


def _method(run: Curation, seen: Rows) -> dict[str, Any]:
    """How rows were chosen, as the run was asked to."""
    config, scorers = run.config, run.scorers
    if not isinstance(config, CurateConfig):
        return {"rule": "all that cleaning leaves"}
    stage = run.stages[-1]
    return {
        "methods": methods_of(scorers),
        "settings": {name: catalog.plain(s) for name, s in scorers.items()},
        "by": stage.by,
        "rule": config.select.rule or scorers[stage.by].rule,
        "rule_settings": _settings(stage.rule) or None,
        "budget": config.select.budget,
        "before": [s.model_dump() for s in config.select.before] or None,
        "checks": run.check(len(run.stages) - 1, seen) if config.check_scores else None,
    }


def announcement(folder: Path) -> str:
    """A published dataset in Markdown: where it is, the way to its report, and its card."""
    opened = reports.link(folder)
    report = f"[open the report]({opened})" if opened else f"`{folder / reports.PAGE}`"
    changed = reports.link(folder, reports.CHANGES)
    if changed:
        report += f", [what changed]({changed})"
    elif (folder / reports.CHANGES).is_file():
        report += f", what changed: `{folder / reports.CHANGES}`"
    _, _, card = (folder / "README.md").read_text("utf-8").partition("\n---\n")
    return (
        f"**{folder.parent.name} {folder.name}**\n\n"
        f"- folder: `{folder}`\n- report: {report}\n"
        f"- load: `datasets.load_dataset({str(folder)!r})`\n\n"
        + re.sub(r"\[([^\]]+)\]\([\w.]+\)", r"`\1`", card)  # its links lead into the folder
    )


def versions_of(config: RunConfig) -> set[Path]:
    """The versions of a run's dataset that there are."""
    home = Path(config.export.root, config.name)
    return set(versions(home)) if home.is_dir() else set()


def facts(folder: Path) -> dict[str, Any]:
    """A published version in a few plain values."""
    told = _manifest(folder)
    rows = {name: n for name, n in told["rows"].items() if name.startswith("default/")}
    return {
        "folder": str(folder.absolute()),
        "version": told["version"],
        "kind": told["kind"],
        "rows": sum(rows.values()),
    }


def shortfalls(folder: Path) -> list[str]:
    """What a published dataset could not keep of what was asked, a sentence each."""
    return list(_manifest(folder)["selection"].get("shortfalls") or ())


def verdict(folder: Path) -> dict[str, Any] | None:
    """What the gate of a published dataset said; None: it had no gate."""
    return _manifest(folder)["evaluation"].get("gate") or None


def _manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json_text.loads((folder / "manifest.json").read_text("utf-8"))
    return found


def _settings(rule: Rule) -> dict[str, Any]:
    """The settings of a rule that are not its defaults."""
    given = settings_of(rule)
    usual = {f.name: f.default for f in fields(rule)}
    return {k: v for k, v in given.items() if k != "class" and vars(rule)[k] != usual[k]}
