"""What the tasks of a curation do: its settings as the pipeline's nouns, paths in, paths out.

No Prefect here: the command line, a flow and a test run the same code.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gristmill.flows import asked, cleaning, engines, limits
from gristmill.flows.config import CurateConfig, PoolConfig
from gristmill.flows.nightly_config import NightlyConfig
from gristmill.pipeline.clean.cleaning import Cleaning, clean, second_look
from gristmill.pipeline.clean.listed import Listed, ruled_out
from gristmill.pipeline.contracts import Scorer
from gristmill.pipeline.ingest.ingest import ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.mirror import mirror_of
from gristmill.pipeline.records.place import address_of, folder_of
from gristmill.pipeline.records.store import Entry, Store, open_entry
from gristmill.pipeline.review.folder import said
from gristmill.pipeline.review.reviewed import Reviewed, reviewed
from gristmill.pipeline.road import stages
from gristmill.pipeline.road.earlier import earlier
from gristmill.pipeline.road.stages import Stage, rows_left
from gristmill.pipeline.score.diagnostics import check_scores
from gristmill.pipeline.score.score import ScoreRun, check_some_scored, method_id, score
from gristmill.pipeline.selection import possible

LOG = logging.getLogger(__name__)
VERIFY = "GRISTMILL_VERIFY"
_CURRENT: ContextVar["Curation | None"] = ContextVar("curation", default=None)


def open_store(root: str | Path) -> Store:
    """The store at `root`, made if it is not there; GRISTMILL_VERIFY=1 rehashes every hit.

    Args:
        root: its folder, or `s3://bucket/prefix`.
    """
    address, path = address_of(root), folder_of(root)
    remote = None if address is None else mirror_of(address, path)
    path.mkdir(parents=True, exist_ok=True)
    return Store(root=path, verify=bool(os.environ.get(VERIFY)), remote=remote)


def bind(
    store: Store, models: Mapping[str, str | list[str]], *, allow_network: bool = False
) -> Models:
    """Roles to ordered tuples of references."""
    roles = {r: (m,) if isinstance(m, str) else tuple(m) for r, m in models.items()}
    return Models(store=store, roles=roles, allow_network=allow_network)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Where the rows of a run lie, as paths: what tasks hand to one another.

    Attributes:
        pool: the ingested pool.
        reference: the target rows, if the run has any.
        drops: what cleaning dropped, by cleaner.
        ledger: the ledger after the stage before; None: no stage has decided.
    """

    pool: Path
    reference: Path | None = None
    drops: tuple[Path, ...] = ()
    ledger: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Curation:
    """One run of `curate` or `clean`: its settings, and the one context that all steps share.

    Attributes:
        config: the settings.
        progress: told of stages of work.
        makes: False: its steps find what is in the store, and raise where something is not.
    """

    config: PoolConfig
    progress: Progress | None = None
    makes: bool = True

    @cached_property
    def context(self) -> RunContext:
        """Store, models, passes and progress of the run."""
        config = self.config
        store = replace(open_store(config.store), makes=self.makes)
        return RunContext(
            models=bind(
                store,
                asked.models(config, list(self.scorers.values())),
                allow_network=config.allow_network,
            ),
            passes=Passes(**config.passes.model_dump()),
            progress=self.progress,
            caps=limits.current(config.limits),
            engine=engines.made(config.engine),
        )

    @cached_property
    def scorers(self) -> dict[str, Scorer]:
        """The scorers of the run, by name."""
        return asked.scorers(self.config)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The cascade, and the selection at its end; nothing, where no method is asked."""
        return asked.stages(self.config, self.scorers)

    @cached_property
    def lists(self) -> Listed:
        """The lists of ids that the settings name."""
        return cleaning.lists_of(self.config)

    @cached_property
    def reviewed(self) -> Reviewed | None:
        """The pool after what people said of its rows; None: nobody was asked."""
        if self.config.review is None:
            return None
        raw = self._ingested("pool")
        assert raw is not None, "a run has sources"
        fall = ruled_out(raw.blocks(["id", "user_id", "source"]), self.lists)
        return reviewed(self.context.store, raw, said(Path(self.config.review)), apart=fall)

    @cached_property
    def cleaning(self) -> Cleaning:
        """The cleaners, with the evaluation sets and earlier datasets that they read."""
        made = cleaning.made(self.config.clean, self.context.store, self.lists)
        if isinstance(self.config, NightlyConfig):
            home = Path(self.config.export.root, self.config.name)
            latest = self.config.against == "latest"
            made = replace(made, versions=earlier(self.context.store, home, latest=latest))
        return made if self.reviewed is None else replace(made, judged=self.reviewed.dropped)

    def ingest(self, part: str) -> Path | None:
        """Ingest the "pool" or the "reference" rows; None: the run has no such rows.

        The pool's rows are as people left them, where they were asked.
        """
        if part == "pool" and self.reviewed is not None:
            return self.reviewed.dataset.entry.path
        found = self._ingested(part)
        return None if found is None else found.entry.path

    def _ingested(self, part: str) -> Dataset | None:
        sources = self.config.sources if part == "pool" else self.config.reference
        if not sources:
            return None
        return ingest(
            self.context.store,
            sources,
            max_bad_share=self.config.max_bad_share,
            shard_rows=self.config.shard_rows,
            max_row_bytes=self.config.max_row_bytes,
            allow_network=self.config.allow_network,
            progress=counted(f"ingest {part}, shards", self.progress),
            engine=self.context.engine,
        )

    def clean(self, rows: Rows) -> list[Path]:
        """Run the cleaners; the folders of their drops, in order.

        Before the first of them, what would only fail after the passes is refused.
        """
        self.refuse(rows)
        pool, reference = Dataset.open(rows.pool), _dataset(rows.reference)
        return [e.path for e in clean(self.context, pool, self.cleaning, reference)]

    def refuse(self, rows: Rows) -> None:
        """Refuse what would only fail later: methods, rules and trainings that do not fit."""
        pool, reference = Dataset.open(rows.pool), _dataset(rows.reference)
        if isinstance(self.config, CurateConfig) and self.config.finetune is not None:
            self.config.finetune.of_records(pool.kind)
        for stage in self.stages:
            stages.score_runs(self.context, stage, pool, reference)
            possible.refuse(possible.lacking(pool, stage.rule))

    def second_look(self, rows: Rows, scores: Path) -> list[Path]:
        """With `keep: best`, drop the copies that are worse scored; else nothing."""
        if self.config.clean.keep == "first" or rows.ledger is not None:
            return []
        found = second_look(
            self.context,
            Dataset.open(rows.pool),
            self.cleaning,
            [open_entry(d) for d in rows.drops],
            open_entry(scores),
        )
        return [entry.path for entry in found]

    def prepare(self, number: int, rows: Rows) -> list[dict[str, str]]:
        """Make (or find) the models that a stage's methods need; what the making had to say."""
        return [
            {"method": name, "notes": sentence}
            for name, run in self._ready(number, rows).items()
            for sentence in run.notes or ()
        ]

    def observe(self, number: int, rows: Rows) -> int:
        """One pass per model and view for all that a stage's methods read."""
        return stages.observe_together(list(self._ready(number, rows).values()))

    def score(self, number: int, name: str, rows: Rows) -> Path:
        """Scores of one method on the rows of a stage; the folder of its table."""
        stage = self.stages[number]
        only = Stage(name=stage.name, scorers={name: stage.scorers[name]}, by=name, rule=stage.rule)
        run = stages.score_runs(self.context, only, self.left(rows), _dataset(rows.reference))[name]
        entry = score(run)
        check_some_scored(run, entry)
        return entry.path

    def select(self, number: int, rows: Rows, scores: Mapping[str, Path]) -> Path:
        """Rule and budget of a stage; the folder of the ledger after it."""
        for sentence in chosen_rule(self, number):
            LOG.warning("%s", sentence)
        entry = stages.select_stage(
            self.context,
            self.stages[: number + 1],
            Dataset.open(rows.pool),
            {name: open_entry(path) for name, path in scores.items()},
            [open_entry(d) for d in rows.drops],
            _entry(rows.ledger),
        )
        for sentence in stages.short_of(entry)[len(stages.short_of(_entry(rows.ledger))) :]:
            LOG.warning("%s", sentence)
        return entry.path

    def keep_all(self, rows: Rows) -> Path:
        """Where no method is asked: the ledger that keeps what cleaning left."""
        drops = [open_entry(d) for d in rows.drops]
        return stages.without_scores(self.context, Dataset.open(rows.pool), drops).path

    def check(self, number: int, rows: Rows) -> list[dict[str, Any]]:
        """The self-checks of a stage's methods, a line each."""
        return [
            {"method": name, **check.row()}
            for name, run in self._ready(number, rows).items()
            for check in check_scores(run)
        ]

    def left(self, rows: Rows) -> Dataset:
        """The rows that are still there."""
        ledger = _entry(rows.ledger)
        return rows_left(
            Dataset.open(rows.pool),
            [open_entry(d).frame() for d in rows.drops],
            ledger.scan() if ledger else None,
        )

    def _ready(self, number: int, rows: Rows) -> dict[str, ScoreRun]:
        runs = stages.score_runs(
            self.context, self.stages[number], self.left(rows), _dataset(rows.reference)
        )
        return stages.prepared(runs)


def chosen_rule(run: Curation, number: int) -> list[str]:
    """A sentence if a stage's rule is its method's own, and not simply the top."""
    stage = run.stages[number]
    own = run.scorers[stage.by].rule
    if list(asked.stages_asked(run.config).values())[number].rule is not None or own == "top":
        return []
    return [
        f"stage {stage.name!r} takes rows by the rule {own}, which is that of {stage.by}: no rule "
        "was named."
    ]


@contextmanager
def running(config: PoolConfig, progress: Progress | None = None) -> Iterator[Curation]:
    """The curation that all steps in this block share."""
    token = _CURRENT.set(Curation(config=config, progress=progress))
    try:
        yield current(config)
    finally:
        _CURRENT.reset(token)


def current(config: PoolConfig) -> Curation:
    """The curation that is running here, or, in a process of its own, one of these settings."""
    found = _CURRENT.get()
    return found if found is not None and found.config == config else Curation(config=config)


def walk(run: Curation) -> tuple[Rows, Rows, dict[str, Path]]:
    """All steps but publishing, without Prefect.

    Returns:
        The rows as the last stage left them, the rows that it was given, the scores by scorer.
    """
    pool = run.ingest("pool")
    assert pool is not None, "a run has sources"
    rows = Rows(pool=pool, reference=run.ingest("reference"))
    rows = replace(rows, drops=tuple(run.clean(rows)))
    seen = rows
    scores: dict[str, Path] = {}
    for number, stage in enumerate(run.stages):
        seen = rows
        run.prepare(number, rows)
        run.observe(number, rows)
        scores |= {name: run.score(number, name, rows) for name in stage.scorers}
        again = run.second_look(rows, scores[stage.by])
        rows = replace(rows, drops=(*rows.drops, *again))
        rows = replace(rows, ledger=run.select(number, rows, scores))
    if not run.stages:
        rows = replace(rows, ledger=run.keep_all(rows))
    return rows, seen, scores


def verdicts(ledger: Path) -> list[dict[str, Any]]:
    """Rows by verdict and reason, for a table."""
    return stages.verdicts(open_entry(ledger).scan())


def notes(scores: Mapping[str, Path]) -> list[dict[str, str]]:
    """What preparing and reading models had to say, by scorer, from the scores that came of it."""
    found = {name: open_entry(path).note for name, path in scores.items()}
    return [
        {"method": name, "notes": sentence}
        for name, note in found.items()
        for sentence in (*(note.get("prepared") or ()), *(note.get("read") or ()))
    ]


def methods_of(scorers: Mapping[str, Scorer]) -> dict[str, str]:
    """The method of each scorer."""
    return {name: method_id(scorer) for name, scorer in scorers.items()}


def _dataset(path: Path | None) -> Dataset | None:
    return Dataset.open(path) if path else None


def _entry(path: Path | None) -> Entry | None:
    return open_entry(path) if path else None


def counted(what: str, progress: Progress | None) -> Callable[[int, int], None] | None:
    """Progress of one thing, of which (done, in all) is told."""
    if progress is None:
        return None
    return lambda done, total: progress(what, done, total)
