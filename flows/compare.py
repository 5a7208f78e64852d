"""Compare: methods and random rows at several budgets, trained and asked alike.

ingest pool ──┬─▶ clean ─▶ compare: choose by every method ▶ train every cell ▶ ask ─▶ write
ingest target ┘
"""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from gristmill.flows import artifacts, comparing, logs, processes, steps
from gristmill.flows import curate as tasks
from gristmill.flows.compare_config import CompareConfig
from gristmill.flows.steps import Rows
from gristmill.flows.stopping import stopping
from gristmill.pipeline.compare.compared import written


@task(name="compare", cache_policy=NO_CACHE, persist_result=False)
def compared(config: CompareConfig, rows: Rows) -> str:
    """Rows of every method and control, a model of each, and what the models say of test rows."""
    entry = comparing.of_methods(steps.current(config), rows).made()
    artifacts.compared(config.name, entry.path)
    return str(written(entry, Path(config.root) / config.name))


@flow(
    name="compare",
    flow_run_name="compare-{config.name}",
    persist_result=False,
    validate_parameters=True,
)
@stopping
def compare(config: CompareConfig) -> str:
    """Which methods beat random rows, by how much, and how surely.

    Args:
        config: the run; the same settings as the YAML file of `gristmill run compare`.
    """
    processes.end_with_server()
    with logs.to_run(), steps.running(config, tasks.shown_progress()):
        rows = tasks.ingested(config)
        folder: str = compared(config, rows)
    return folder
