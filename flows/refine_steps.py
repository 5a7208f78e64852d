"""What the tasks of `refine-pairs` do: a run and paths in, paths out. No Prefect here."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gristmill.flows.refine_config import RefineConfig
from gristmill.flows.refining import Refining
from gristmill.flows.steps import Curation, Rows
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.store import open_entry
from gristmill.pipeline.road.curated import completed
from gristmill.synthesis.curation import publish as outcomes
from gristmill.synthesis.curation.rounds import Stage1, Standing
from gristmill.synthesis.curation.sweep import Stage2

PAPER = "arXiv:2507.01352"


def left(rows: Rows) -> Dataset:
    """The pairs that cleaning left.

    Raises:
        ValueError: the rows are no pairs.
    """
    pool = Dataset.open(rows.pool)
    if pool.kind != "pair":
        raise ValueError(
            f"refine-pairs checks the labels of preference pairs; the data holds {pool.kind} "
            "records."
        )
    return pool.without([open_entry(d).frame() for d in rows.drops])


def describe(run: Refining, rows: Rows) -> Path | None:
    """Attributes of all pairs; the folder of their table. None: nobody describes them."""
    pairs = left(rows)
    if run.annotation is None:
        return None
    frame = pairs.frame().unique("id", keep="first").sort("id")
    return run.annotation.run(frame, run.store).path


def label(
    run: Refining, rows: Rows, described: Path | None, before: Sequence[Path]
) -> tuple[Path | None, dict[str, Any]]:
    """A round of stage 1; the folder of its entry, and what is to be told of it.

    None: no pair is left that is asked for.
    """
    run.context.advance("stage 1, rounds", len(before), run.config.rounds.number + 1)
    stage1 = _stage1(run, rows, described)
    entry = stage1.next(_standing(before)) if before else stage1.start()
    if entry is None:
        return None, {}
    told = {k: v for k, v in entry.note.items() if k not in ("model", "judges")}
    return entry.path, {"round": len(before), **told}


def sweep(run: Refining, rows: Rows, described: Path | None, rounds: Sequence[Path]) -> Path:
    """Stage 2; the folder of its outcome."""
    run.context.advance("stage 2", 0, 1)
    stage1, config = _stage1(run, rows, described), run.config
    stage2 = Stage2(
        pool=stage1.pool,
        models=stage1.models,
        labeller=stage1.labeller,
        people=stage1.people,
        store=run.store,
        flip=config.flip,
        flip_sample=config.flip_sample,
        seed=config.seed,
    )
    entry = stage2.run(_standing(rounds))
    run.context.tell("stage 2", 1, 1)
    return entry.path


def publish(
    run: Refining, curation: Curation, rows: Rows, rounds: Sequence[Path], found: Path
) -> Path:
    """The pairs with their checked labels as a dataset; the published folder.

    Args:
        run: the run.
        curation: the same run's cleaning.
        rows: the pool, and what cleaning dropped of it.
        rounds: of stage 1.
        found: the outcome of stage 2.
    """
    outcome, config = open_entry(found), run.config
    pool = Dataset.open(rows.pool)
    dataset = outcomes.curated(pool, outcome, run.store)
    labels = outcomes.labels(outcome, outcomes.names(pool, dataset))
    told = outcomes.told([open_entry(p) for p in rounds], outcome)
    evaluations = curation.cleaning.evaluations
    asked = Publication(
        root=Path(config.export.root),
        name=config.name,
        selection={
            "scorers": [],
            "method": outcomes.STAGE,
            "settings": settings_of_run(config),
            "papers": [PAPER],
            "filters": curation.cleaning.filter_settings or None,
            **told,
        },
        validation_fraction=config.export.validation_fraction,
        trainer_rows=config.export.trainer_rows,
        contamination=evaluations.facts() if evaluations else None,
        files={
            "labels.parquet": labels,
            "curation.json": json_text.published(told, indent=1) + "\n",
        },
    )
    ledger = outcomes.ledger(open_entry(curation.keep_all(rows)).frame(), labels)
    return export(ledger, dataset, completed(asked, dataset, run.context))


def settings_of_run(config: RefineConfig) -> dict[str, Any]:
    """What decides the labels, for the manifest: no path and no price."""
    names = ("judging", "reward_model", "router", "rounds", "flip", "flip_sample", "seed")
    told = {name: config.model_dump()[name] for name in names}
    people = {"start": config.people.start, "each_round": config.people.each_round}
    judges = [who.model or Path(who.recorded or "").stem for who in config.judges]
    return {**told, "people": people, "judges": judges}


def walk(run: Refining) -> Path:
    """All steps in order, without Prefect; the published folder."""
    curation = Curation(config=run.config, progress=run.progress)
    pool = curation.ingest("pool")
    assert pool is not None, "a run has sources"
    rows = Rows(pool=pool, reference=curation.ingest("reference"))
    rows = replace(rows, drops=tuple(curation.clean(rows)))
    described = describe(run, rows)
    rounds: list[Path] = []
    for _ in range(run.config.rounds.number + 1):
        found, _ = label(run, rows, described, rounds)
        if found is None:
            break
        rounds.append(found)
    return publish(run, curation, rows, rounds, sweep(run, rows, described, rounds))


def _stage1(run: Refining, rows: Rows, described: Path | None) -> Stage1:
    attributes = None if described is None else open_entry(described).frame()
    return run.stage1(left(rows), attributes)


def _standing(rounds: Sequence[Path]) -> Standing:
    return Standing.of([open_entry(p) for p in rounds])
