"""Curate: raw files in, a published dataset out.

    ingest pool ──┬─▶ observe ─▶ score (one task a method) ─▶ clean ─▶ select ─▶ publish
    ingest target ┘

Every task takes settings and paths and returns a path. Prefect gives visibility, schedules and
retries; caching and resumption are the store's, so Prefect's own are off.
"""

from pathlib import Path

from prefect import flow, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from gristmill.flows import cleaning, console, publishing, steps
from gristmill.flows.config import CurateConfig


def shown_progress() -> console.Progress:
    """Progress as a Prefect artifact of the running task, and to the terminal if one listens."""
    listener = console.LISTENER.get()
    artifacts: dict[str, object] = {}
    told: dict[str, int] = {}

    def tell(what: str, done: int, total: int) -> None:
        if listener is not None:
            listener(what, done, total)
        percent = 100 * done // max(1, total)
        if TaskRunContext.get() is None or percent < told.get(what, -10) + 10:
            return  # at most eleven updates a stage: each is a request
        told[what] = percent
        if what not in artifacts:
            artifacts[what] = create_progress_artifact(float(percent), description=what)
        else:
            update_progress_artifact(artifacts[what], float(percent))  # type: ignore[arg-type]

    return tell


@task(name="ingest", task_run_name="ingest-{part}", cache_policy=NO_CACHE, persist_result=False)
def ingest(config: CurateConfig, part: str) -> str | None:
    """Raw files to records; bad rows to the quarantine."""
    read = steps.ingest_pool if part == "pool" else steps.ingest_reference
    found = read(config, shown_progress())
    return str(found) if found else None


@task(name="prepare", cache_policy=NO_CACHE, persist_result=False)
def prepare(config: CurateConfig, pool: str, reference: str | None) -> None:
    """The models that methods need first: warm-ups, proxies, validation-tuned models."""
    said = steps.prepare_all(config, Path(pool), _path(reference), shown_progress())
    if said:
        create_table_artifact(said, key="prepared", description="models made for the methods")


@task(name="observe", cache_policy=NO_CACHE, persist_result=False)
def observe(config: CurateConfig, pool: str, reference: str | None) -> None:
    """One pass per model and view for the union of what all methods read."""
    steps.observe_all(config, Path(pool), _path(reference), shown_progress())


@task(name="score", task_run_name="score-{method}", cache_policy=NO_CACHE, persist_result=False)
def score(config: CurateConfig, method: str, pool: str, reference: str | None) -> str:
    """A method's scores."""
    return str(steps.score_one(config, method, Path(pool), _path(reference), shown_progress()))


@task(name="clean", cache_policy=NO_CACHE, persist_result=False)
def clean(config: CurateConfig, pool: str, reference: str | None, scores: str) -> list[str]:
    """Duplicates, contaminated rows and what filters reject."""
    return [str(d) for d in cleaning.clean(config, Path(pool), _path(reference), Path(scores))]


@task(name="select", cache_policy=NO_CACHE, persist_result=False)
def select(config: CurateConfig, scores: dict[str, str], pool: str, drops: list[str]) -> str:
    """Rule and budget; one verdict per input row."""
    paths = {method: Path(path) for method, path in scores.items()}
    ledger = steps.select_rows(config, paths, Path(pool), [Path(d) for d in drops])
    create_table_artifact(steps.verdicts(ledger), key="verdicts", description="rows decided")
    return str(ledger)


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish(config: CurateConfig, ledger: str, pool: str, reference: str | None) -> str:
    """The dataset folder, with its report."""
    folder = publishing.publish(config, Path(ledger), Path(pool), _path(reference))
    create_markdown_artifact(
        publishing.announcement(folder), key="dataset", description=config.name
    )
    return str(folder)


@flow(
    name="curate",
    flow_run_name="curate-{config.name}",
    persist_result=False,
    validate_parameters=True,
)
def curate(config: CurateConfig) -> str:
    """Raw files in, a curated dataset out.

    Args:
        config: the run; the same settings as the YAML file of `gristmill run curate`.
    """
    pool = ingest(config, "pool")
    assert pool is not None
    reference = ingest(config, "reference")
    prepare(config, pool, reference)
    observe(config, pool, reference)
    methods = [s.method for s in config.scorers]
    scores = {m: score(config, m, pool, reference) for m in methods}
    deciding = scores[config.select.by or methods[0]]
    drops = clean(config, pool, reference, deciding)
    ledger = select(config, scores, pool, drops)
    published: str = publish(config, ledger, pool, reference)
    return published


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
