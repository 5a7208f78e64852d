"""Nightly: a curate run over a pool that grows; what was observed once is not observed again.

    ingest ─▶ clean, against every version ─▶ prepare ▶ observe what is new ▶ score ▶ select
           ─▶ compare with the version before ─▶ nothing new: the run ends
                                              └▶ gate? ▶ pause, beyond a limit? ▶ publish ▶ train?

The tasks are those of `curate`, but for the comparison.
"""

import logging
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateType

from gristmill.flows import artifacts, events, logs, nightly_steps, processes, steps, stopping
from gristmill.flows import curate as tasks
from gristmill.flows.nightly_config import NightlyConfig
from gristmill.flows.steps import Rows

LOG = logging.getLogger(__name__)


@task(name="changes", cache_policy=NO_CACHE, persist_result=False)
def changes(config: NightlyConfig, rows: Rows) -> str | None:
    """What changed since the version before, with alarms; a sentence if there is nothing new."""
    found = nightly_steps.compared(steps.current(config), rows)
    if found.diff is None or found.unchanged is not None:
        return found.unchanged
    artifacts.changed(config.name, found.diff, found.alarms)
    events.drifted(config.name, found.diff, found.alarms)
    events.taken_down(config.name, found.taken_down)
    for sentence in found.alarms:
        LOG.warning("%s is beyond a limit: %s", config.name, sentence)
    return None


@flow(
    name="nightly",
    flow_run_name="nightly-{config.name}",
    persist_result=False,
    validate_parameters=True,
)
@stopping.stopping
def nightly(config: NightlyConfig) -> Any:  # noqa: ANN401  (the published folder, or a state with it)
    """New raw rows in, the next version of a curated dataset out, if there is anything new.

    Args:
        config: the run; the same settings as the YAML file of `gristmill run nightly`.
    """
    processes.end_with_server()
    with logs.to_run(), steps.running(config, tasks.shown_progress()) as run:
        decided = tasks.decided(run, tasks.ingested(config))
        sentence = changes(config, decided.rows)
        if sentence is not None:
            return _unchanged(config, sentence)
        return tasks.shipped(run, decided)


def _unchanged(config: NightlyConfig, sentence: str) -> Any:  # noqa: ANN401  (a state of Prefect)
    """A run that had nothing new to publish: done, under a name that tells."""
    nightly_steps.announce(sentence)
    events.unchanged(config.name, sentence)
    folder = str(nightly_steps.stands(config))
    return State(type=StateType.COMPLETED, name="Unchanged", message=sentence, data=folder)
