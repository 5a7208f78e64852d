"""Cleaned: raw files in, a published dataset of the rows that cleaning leaves; no method is asked.

    ingest pool ──┬─▶ clean ─▶ keep what is left ─▶ publish
    ingest target ┘

The tasks are those of `curate`.
"""

from dataclasses import replace
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from gristmill.flows import (
    approving,
    artifacts,
    events,
    logs,
    processes,
    publishing,
    steps,
    stopping,
)
from gristmill.flows import curate as tasks
from gristmill.flows.config import CleanRunConfig
from gristmill.flows.steps import Rows


@task(name="keep", cache_policy=NO_CACHE, persist_result=False)
def keep(config: CleanRunConfig, rows: Rows) -> str:
    """One verdict per input row: what cleaning leaves is kept."""
    ledger = steps.current(config).keep_all(rows)
    artifacts.listed(config.name, "verdicts", steps.verdicts(ledger), "rows after cleaning")
    return str(ledger)


@flow(
    name="clean",
    flow_run_name="clean-{config.name}",
    persist_result=False,
    validate_parameters=True,
)
@stopping.stopping
def clean(config: CleanRunConfig) -> str:
    """Raw files in, and out again without what the cleaners drop.

    Args:
        config: the run; the same settings as the YAML file of `gristmill run clean`.
    """
    processes.end_with_server()
    with logs.to_run(), steps.running(config, tasks.shown_progress()) as run:
        rows = tasks.ingested(config)
        rows = replace(rows, ledger=Path(keep(config, rows)))
        approving.wait(run, rows)
        approving.demanded(run, rows)
        known = publishing.versions_of(config)
        published: str = tasks.publish(config, rows, rows, {})
        events.made(config, Path(published), known)
    return published
