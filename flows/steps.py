"""What the tasks of a run do: settings and paths in, paths out. No Prefect here.

Each function opens the store, calls one verb and returns the folder of what it made, so that the
command line, a flow and a test run the same code.
"""

# One import of many verbs: heavy libraries load inside them, when they are first used.

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.flows.config import CurateConfig, StageConfig
from gristmill.pipeline.cascade import Stage, cascade
from gristmill.pipeline.contracts import Scorer, Signal
from gristmill.pipeline.dataset import Dataset
from gristmill.pipeline.ingest import ingest
from gristmill.pipeline.observe import Models, Passes, observe
from gristmill.pipeline.rules import rule_named
from gristmill.pipeline.schema import KEY, digest
from gristmill.pipeline.score import ScoreRun, gathered, method_id, ready, score
from gristmill.pipeline.selection import Budget
from gristmill.pipeline.selfcheck import check_scores
from gristmill.pipeline.store import Step, Store, open_entry, table
from gristmill.selectors import catalog

Progress = Callable[[str, int, int], None]
VERIFY = "GRISTMILL_VERIFY"


def open_store(root: str | Path) -> Store:
    """The store at `root`, made if it is not there; GRISTMILL_VERIFY=1 rehashes every hit."""
    path = Path(root)
    path.mkdir(parents=True, exist_ok=True)
    return Store(root=path, verify=bool(os.environ.get(VERIFY)))


def bind(
    store: Store, models: Mapping[str, str | list[str]], *, allow_network: bool = False
) -> Models:
    """Roles to ordered tuples of references."""
    roles = {r: (m,) if isinstance(m, str) else tuple(m) for r, m in models.items()}
    return Models(store=store, roles=roles, allow_network=allow_network)


def scorers(config: CurateConfig) -> dict[str, Scorer]:
    """The methods of a run, by id; the first one decides unless `select.by` names another."""
    return {s.method: catalog.make(s.method, s.settings) for s in config.scorers}


def ingest_pool(config: CurateConfig, progress: Progress | None = None) -> Path:
    """Ingest the pool; returns the dataset's folder."""
    return _ingest(config, reference=False, progress=progress)


def ingest_reference(config: CurateConfig, progress: Progress | None = None) -> Path | None:
    """Ingest the target rows, if the run has any."""
    if not config.reference:
        return None
    return _ingest(config, reference=True, progress=progress)


def observe_all(
    config: CurateConfig, pool: Path, reference: Path | None, progress: Progress | None = None
) -> None:
    """One pass per model and view for the union of what all methods read."""
    runs = _ready(config, pool, reference, progress)
    observe_together(open_store(config.store), runs, progress)


def observe_together(
    store: Store, runs: Sequence[ScoreRun], progress: Progress | None = None
) -> int:
    """One pass per model and view for runs on the same data; returns the records observed."""
    together: dict[tuple[str, tuple[str, ...]], _Asked] = {}
    for run in runs:
        for of_pool, signals in (
            (True, (*run.facts(), *run.scorer.signals)),
            (False, run.scorer.reference_signals),
        ):
            for signal in signals:
                key = (signal.role, run.models.roles[signal.role])
                asked = together.setdefault(key, _Asked(models=run.models))
                (asked.pool if of_pool else asked.reference).append(signal)
    target = next((run.reference for run in runs if run.reference is not None), None)
    rows: dict[str, int] = {}
    for asked in together.values():  # a model is loaded once, for pool and reference
        for dataset, wanted in ((runs[0].dataset, asked.pool), (target, asked.reference)):
            if dataset is not None and wanted:
                seen = observe(
                    store,
                    dataset,
                    wanted,
                    asked.models,
                    passes=runs[0].passes,
                    progress=progress,
                )
                rows[dataset.entry.content] = seen.rows
    return sum(rows.values())


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What several methods read of one model."""

    models: Models
    pool: list[Signal] = field(default_factory=list)
    reference: list[Signal] = field(default_factory=list)


def prepare_all(
    config: CurateConfig, pool: Path, reference: Path | None, progress: Progress | None = None
) -> list[dict[str, str]]:
    """Make (or find) the models that the methods need first; what the making had to say."""
    return [
        {"method": method_id(run.scorer), "said": sentence}
        for run in _ready(config, pool, reference, progress)
        for sentence in run.said or ()
    ]


def check_all(
    config: CurateConfig, pool: Path, reference: Path | None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """The self-checks of every method, a line each."""
    store = open_store(config.store)
    return [
        {"method": method_id(run.scorer), **check.row()}
        for run in _ready(config, pool, reference, progress)
        for check in check_scores(store, run, progress=progress)
    ]


def _ready(
    config: CurateConfig, pool: Path, reference: Path | None, progress: Progress | None
) -> list[ScoreRun]:
    store = open_store(config.store)
    models = bind(store, config.models, allow_network=config.allow_network)
    runs = [_run(config, s, models, pool, reference) for s in scorers(config).values()]
    return all_ready(runs, progress)


def all_ready(runs: Sequence[ScoreRun], progress: Progress | None) -> list[ScoreRun]:
    """The runs with their models made; what cannot work is refused before any is."""
    for run in runs:
        run.check()
    return [ready(run, progress=progress) for run in runs]


def score_one(
    config: CurateConfig,
    method: str,
    pool: Path,
    reference: Path | None,
    progress: Progress | None = None,
) -> Path:
    """Scores of one method; returns the folder of its table."""
    store = open_store(config.store)
    models = bind(store, config.models, allow_network=config.allow_network)
    run = _run(config, scorers(config)[method], models, pool, reference)
    return score(store, run, progress=progress).path


def select_rows(
    config: CurateConfig, scores: Mapping[str, Path], pool: Path, drops: Sequence[Path]
) -> Path:
    """Apply rule and budget, or a cascade of them; returns the folder of the ledger."""
    store = open_store(config.store)
    stages: list[StageConfig] = [*config.select.before, config.select]
    methods = [s.by or config.scorers[0].method for s in stages]
    for method in methods:
        if method not in scores:
            raise ValueError(f"select.by = {method!r} is none of the scorers: {', '.join(scores)}.")
    entries = {method: open_entry(path) for method, path in scores.items()}
    step = Step(
        name="select",
        version=2,
        settings={"methods": methods, "select": config.select.model_dump()},
        inputs={
            "pool": open_entry(pool).content,
            "drops": digest([open_entry(d).content for d in drops]),
            **{f"scores.{method}": entry.content for method, entry in entries.items()},
        },
    )

    def ledger() -> pl.DataFrame:
        frames = {method: entry.frame() for method, entry in entries.items()}
        dataset = Dataset.open(pool)
        extra = dataset.frame([*KEY, "license", "user_id"])
        gone = [open_entry(d).frame() for d in drops]
        steps = [
            Stage(
                name="select" if s is config.select else f"{i + 1}-{method}",
                scores=gathered(frames, method) if s is config.select else frames[method],
                rule=rule_named(s.rule, s.settings),
                budget=Budget.parse(s.budget) if s.budget else None,
            )
            for i, (s, method) in enumerate(zip(stages, methods, strict=True))
        ]
        return cascade(steps, drops=gone, extra=extra)

    return store.run(step, [table("ledger", ledger)]).path


def _ingest(config: CurateConfig, *, reference: bool, progress: Progress | None) -> Path:
    dataset = ingest(
        open_store(config.store),
        config.reference if reference else config.sources,
        max_bad_share=config.max_bad_share,
        shard_rows=config.shard_rows,
        max_row_bytes=config.max_row_bytes,
        allow_network=config.allow_network,
        progress=_counted("ingest, shards", progress),
    )
    return dataset.entry.path


def passes_of(config: CurateConfig) -> Passes:
    """How the run's models are run."""
    return Passes(**config.passes.model_dump())


def _run(
    config: CurateConfig, scorer: Scorer, models: Models, pool: Path, reference: Path | None
) -> ScoreRun:
    needs = scorer.reference != "none" and reference is not None
    return ScoreRun(
        scorer=scorer,
        dataset=Dataset.open(pool),
        models=models,
        reference=Dataset.open(reference) if needs and reference is not None else None,
        passes=passes_of(config),
    )


def verdicts(ledger: Path) -> list[dict[str, Any]]:
    """Rows by verdict and reason, for a table."""
    frame = open_entry(ledger).frame(["verdict", "reason"])
    counts = frame.group_by("verdict", "reason").agg(rows=pl.len())
    return counts.sort("rows", "verdict", "reason", descending=[True, False, False]).to_dicts()


def _counted(what: str, progress: Progress | None) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(what, done, total)
