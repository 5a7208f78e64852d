"""Curate: raw files in, a published dataset out.

    ingest pool ──┬─▶ clean ─▶ a stage: prepare ▶ observe ▶ score ▶ select ─▶ ... ─▶ publish
    ingest target ┘            on the rows that are still there, and no others   └▶ train, if asked

Every task takes settings and paths and returns a path. Prefect gives visibility, schedules and
retries; caching and resumption are the store's, so Prefect's own are off.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateType
from prefect.context import TaskRunContext

from gristmill.flows import (
    approving,
    artifacts,
    assets,
    comparing,
    events,
    finetune_steps,
    logs,
    processes,
    publishing,
    steps,
    stopping,
)
from gristmill.flows.config import CurateConfig, PoolConfig, RunConfig
from gristmill.flows.finetune_config import FinetuneRunConfig
from gristmill.flows.progress import LISTENER, Progress, remaining
from gristmill.flows.steps import Rows


def shown_progress() -> Progress:
    """Progress as a Prefect artifact of the running task, and to the terminal if one listens."""
    listener = LISTENER.get()
    artifacts: dict[str, object] = {}
    told: dict[str, int] = {}
    began: dict[str, tuple[float, int]] = {}

    def tell(stage: str, done: int, total: int) -> None:
        if listener is not None:
            listener(stage, done, total)
        percent = 100 * done // max(1, total)
        task = TaskRunContext.get()
        what = f"{task.task_run.name}: {stage}" if task else stage
        if task is None or percent < told.get(what, -10) + 10:
            return  # at most eleven updates a stage: each is a request
        told[what] = percent
        since, first = began.setdefault(what, (time.monotonic(), done))
        rest = remaining(time.monotonic() - since, done - first, total - done)
        text = f"{what}: {done:,} of {total:,}{rest if done < total else ''}"
        if what not in artifacts:
            artifacts[what] = create_progress_artifact(float(percent), description=text)
        else:
            update_progress_artifact(artifacts[what], float(percent), description=text)  # type: ignore[arg-type]

    return tell


@task(name="ingest", task_run_name="ingest-{part}", cache_policy=NO_CACHE, persist_result=False)
def ingest(config: PoolConfig, part: str) -> str | None:
    """Raw files to records; bad rows to the quarantine."""
    found = steps.current(config).ingest(part)
    return str(found) if found else None


@task(name="clean", cache_policy=NO_CACHE, persist_result=False)
def clean(config: PoolConfig, rows: Rows) -> list[str]:
    """Reference rows, filters, evaluation items, duplicates: before any model is asked."""
    run = steps.current(config)
    drops = run.clean(rows)
    comparing.refuse_held_out(run, replace(rows, drops=tuple(drops)))
    return [str(d) for d in drops]


@task(name="prepare", task_run_name="prepare-{stage}", cache_policy=NO_CACHE, persist_result=False)
def prepare(config: CurateConfig, stage: int, rows: Rows) -> None:
    """The models that methods need first: warm-ups, proxies, validation-tuned models."""
    notes = steps.current(config).prepare(stage, rows)
    if notes:
        artifacts.listed(config.name, "prepared", notes, "models made for the methods")


@task(name="observe", task_run_name="observe-{stage}", cache_policy=NO_CACHE, persist_result=False)
def observe(config: CurateConfig, stage: int, rows: Rows) -> None:
    """One pass per model and view for the union of what a stage's methods read."""
    run = steps.current(config)
    before = run.context.caps.spent_tokens
    records = run.observe(stage, rows)
    read = run.context.caps.spent_tokens - before
    told = {"stage": run.stages[stage].name, "records": records, "tokens read by models": read}
    artifacts.listed(config.name, "observed", [told], "what the store had was not read again")


@task(name="score", task_run_name="score-{scorer}", cache_policy=NO_CACHE, persist_result=False)
def score(config: CurateConfig, stage: int, scorer: str, rows: Rows) -> str:
    """A method's scores of the rows that are left."""
    return str(steps.current(config).score(stage, scorer, rows))


@task(name="second look", cache_policy=NO_CACHE, persist_result=False)
def second_look(config: CurateConfig, rows: Rows, scores: str) -> list[str]:
    """Of several copies, all but the best scored one are dropped."""
    return [str(d) for d in steps.current(config).second_look(rows, Path(scores))]


@task(name="select", task_run_name="select-{stage}", cache_policy=NO_CACHE, persist_result=False)
def select(config: CurateConfig, stage: int, rows: Rows, scores: dict[str, str]) -> str:
    """Rule and budget; one verdict per input row."""
    paths = {name: Path(path) for name, path in scores.items()}
    ledger = steps.current(config).select(stage, rows, paths)
    artifacts.listed(
        config.name, "verdicts", steps.verdicts(ledger), f"rows after step {stage + 1}"
    )
    return str(ledger)


@task(name="compare", cache_policy=NO_CACHE, persist_result=False)
def compare(config: CurateConfig, rows: Rows) -> str:
    """The selection and its controls, trained and asked alike: what the gate judges by."""
    comparison = comparing.of_gate(steps.current(config), rows).made()
    artifacts.compared(config.name, comparison.path)
    return str(comparison.path)


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish(
    config: RunConfig, rows: Rows, seen: Rows, scores: dict[str, str], comparison: str | None = None
) -> str:
    """The dataset folder, with its report; a gate's verdict decides whether it is the latest."""
    paths = {name: Path(path) for name, path in scores.items()}
    folder = publishing.publish(steps.current(config), rows, seen, paths, _path(comparison))
    artifacts.published(config.name, folder)
    return str(folder)


@task(name="train", cache_policy=NO_CACHE, persist_result=False)
def train(config: FinetuneRunConfig) -> str:
    """The model of a published dataset, with its card; the folder of its weights."""
    made = finetune_steps.trained(config, shown_progress())
    artifacts.model(made, config.out)
    return made.reference


@flow(
    name="curate",
    flow_run_name="curate-{config.name}",
    persist_result=False,
    validate_parameters=True,
)
@stopping.stopping
def curate(config: CurateConfig) -> Any:  # noqa: ANN401  (the published folder, or a state with it)
    """Raw files in, a curated dataset out.

    Args:
        config: the run; the same settings as the YAML file of `gristmill run curate`.
    """
    processes.end_with_server()
    with logs.to_run(), steps.running(config, shown_progress()) as run:
        return shipped(run, decided(run, ingested(config)))


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What the stages of a run came to.

    Attributes:
        rows: as the last stage left them.
        seen: the rows that the last stage was given.
        scores: of every scorer, by name.
    """

    rows: Rows
    seen: Rows
    scores: dict[str, str]


def decided(run: steps.Curation, rows: Rows) -> Decided:
    """The stages of a run, one after the other, on the rows that cleaning left."""
    config = run.config
    assert isinstance(config, CurateConfig), "it has stages"
    seen = rows
    scores: dict[str, str] = {}
    for number, stage in enumerate(run.stages):
        seen = rows
        prepare(config, number, rows)
        observe(config, number, rows)
        scores |= {name: score(config, number, name, rows) for name in stage.scorers}
        if config.clean.keep == "best" and number == 0:
            again = second_look(config, rows, scores[stage.by])
            rows = replace(rows, drops=(*rows.drops, *_paths(again)))
        rows = replace(rows, ledger=Path(select(config, number, rows, scores)))
    return Decided(rows=rows, seen=seen, scores=scores)


def shipped(run: steps.Curation, found: Decided) -> Any:  # noqa: ANN401  (a folder, or a state)
    """What was decided, judged by the gate and by people, published, and trained on if asked."""
    config, rows = run.config, found.rows
    assert isinstance(config, CurateConfig), "it has stages"
    comparison = compare(config, rows) if config.gate is not None else None
    approving.wait(run, rows, _path(comparison))
    approving.demanded(run, rows, _path(comparison))
    known = publishing.versions_of(config)
    published: str = publish(config, rows, found.seen, found.scores, comparison)
    events.made(config, Path(published), known)
    verdict = publishing.verdict(Path(published))
    if config.finetune is not None:
        made = train(finetune_steps.after(config, published, verdict))
        assets.model(made, Path(published))
    if verdict is not None and not verdict["promoted"]:
        return held(published, verdict["sentence"])
    return published


def held(folder: str, sentence: str) -> Any:  # noqa: ANN401  (a state of Prefect)
    """A run whose dataset was published and not promoted: done, under a name that tells."""
    return State(type=StateType.COMPLETED, name="Held", message=sentence, data=folder)


def ingested(config: PoolConfig) -> Rows:
    """The rows of a run, and what cleaning drops of them."""
    pool = ingest(config, "pool")
    assert pool is not None, "a run has sources"
    rows = Rows(pool=Path(pool), reference=_path(ingest(config, "reference")))
    return replace(rows, drops=_paths(clean(config, rows)))


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _paths(texts: list[str]) -> tuple[Path, ...]:
    return tuple(map(Path, texts))
