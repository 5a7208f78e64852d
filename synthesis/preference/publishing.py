"""Publishing: pairs as a version of a dataset, with its ledger, tables and report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.environment import environment
from gristmill.pipeline.records.schema import PAIR, digest
from gristmill.pipeline.records.store import Step, Store, table
from gristmill.synthesis.asides import unpublished
from gristmill.synthesis.preference import candidates, records, tournament
from gristmill.synthesis.preference.answering import UNANSWERED, Answered
from gristmill.synthesis.preference.building import Pair
from gristmill.synthesis.preference.outcome import Outcome
from gristmill.synthesis.preference.prompts import ASIDE
from gristmill.synthesis.preference.report import figures, page


@dataclass(frozen=True, kw_only=True)
class Edition:
    """What a publication is told.

    Attributes:
        root: folder of datasets.
        name: of the dataset.
        rule: name of the pair rule.
        settings: of the run, as the published folder states them.
        judge: who decides, for the lineage.
        models: role and name of everyone who was asked.
        sources: of the prompts; see `Dataset.sources`.
        contamination: the evaluation sets that pairs were checked against; None: none were.
        validation_fraction: share of prompts held out.
        pair_views: further configs.
        seeds: purpose -> seed.
        synthetic: whether a model wrote candidates.
    """

    root: Path
    name: str
    rule: str
    settings: Mapping[str, Any]
    judge: str = ""
    models: Sequence[Mapping[str, Any]] = ()
    sources: Sequence[Mapping[str, Any]] = ()
    contamination: Mapping[str, Any] | None = None
    validation_fraction: float = 0.0
    pair_views: Sequence[str] = ()
    seeds: Mapping[str, int] = field(default_factory=dict)
    synthetic: bool = True


def publish(
    outcome: Outcome,
    answered: Answered,
    edition: Edition,
    store: Store,
    further: Mapping[str, pl.DataFrame] | None = None,
) -> Path:
    """A version of the dataset; the folder.

    Where no pair was kept nothing is published: the same files lie in the store, and their folder
    is returned.

    Args:
        outcome: of the run.
        answered: what its writers made.
        edition: what the publication is told.
        store: where all work is kept.
        further: file -> table that stands beside the pairs.
    """
    rows, lines = _rows(outcome, edition.judge)
    kept = rows.filter(pl.Series([p.reason is None for p in outcome.pairs], dtype=pl.Boolean))
    undecided = rows.filter(pl.Series([p.undecided for p in outcome.pairs], dtype=pl.Boolean))
    told = figures(outcome, answered)
    files: dict[str, pl.DataFrame | str] = {
        "records.parquet": kept,
        "prompts.parquet": _fates(outcome),
        "candidates.parquet": candidates.table(outcome.judgement.candidates),
        "unanswered.parquet": pl.DataFrame(list(answered.unanswered), schema=UNANSWERED),
        "verdicts.parquet": tournament.table(outcome.judgement.met),
        "summary.json": json_text.published(told, indent=1) + "\n",
        **({"undecided.parquet": undecided} if undecided.height else {}),
        **(further or {}),
    }
    report = page(outcome, answered, title=edition.name)
    if kept.is_empty():
        held = {n: f if isinstance(f, str) else [f.columns, f.rows()] for n, f in files.items()}
        nothing = Step(
            name="preference_unpublished",
            version=1,
            settings={"title": edition.name},
            inputs={"files": digest(held)},
        )
        return unpublished(nothing, store, files, report)
    step = Step(
        name="preference_pairs",
        version=1,
        settings={"sources": [dict(s) for s in edition.sources]},
        inputs={"rows": digest(rows.rows())},
    )
    note = {"kind": "pair", "sources": [dict(s) for s in edition.sources]}
    entry = store.run(step, [table("records", lambda: rows)], note=lambda _: note)
    asked = Publication(
        root=edition.root,
        name=edition.name,
        selection={
            "scorers": [],
            "method": f"preference pairs by the rule {edition.rule}",
            "settings": dict(edition.settings),
        },
        models=[dict(m) for m in edition.models],
        seeds={"split": 0, **edition.seeds},
        run=environment(),
        validation_fraction=edition.validation_fraction,
        contamination=edition.contamination,
        tags=["synthetic"] if edition.synthetic else [],
        pair_views=edition.pair_views,
        margin="margin" if "reward" in edition.pair_views else None,
        report=lambda _: report,
        files=files,
    )
    ledger = records.ledger(rows, lines, outcome.aside)
    return export(ledger, Dataset(entry=entry, kind="pair"), asked)


def _rows(outcome: Outcome, judge: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of `PAIR`, and beside each its columns `LINEAGE`."""
    costs = {(m.one, m.two): m.cost for m in outcome.judgement.met}
    rows, lines = [], []
    for pair in outcome.pairs:
        prompt = outcome.prompts[pair.prompt]
        decided = pair.decided_by or records.decider(pair)
        who = judge if decided == "judge" else decided
        spent = sum(c.cost + c.judging for c in (pair.chosen, pair.rejected))
        spent += costs.get(_key(pair), 0.0) + pair.judging
        rows.append(records.row(pair, prompt, who, spent))
        lines.append(records.lineage(pair, who, spent))
    return pl.DataFrame(rows, schema=PAIR), pl.DataFrame(lines, schema=records.LINEAGE)


def _key(pair: Pair) -> tuple[str, str]:
    one, two = sorted((pair.chosen.id, pair.rejected.id))
    return one, two


def _fates(outcome: Outcome) -> pl.DataFrame:
    """Every prompt: used, with the number of its pairs, or set aside with its reason."""
    schema = {**ASIDE, "pairs": pl.Int64}
    kept = pl.DataFrame(list(outcome.uses), schema=schema)
    aside = outcome.aside.with_columns(pairs=pl.lit(0, pl.Int64))
    return pl.concat([kept, aside]).sort("source", "row", "prompt")
