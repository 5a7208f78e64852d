"""Evaluate: a model in, figures with their intervals out, and every answer as Parquet.

Cached and resumed by the store: what was measured before is found.
"""

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from gristmill.flows import artifacts, evaluate_steps, logs, processes
from gristmill.flows.curate import shown_progress
from gristmill.flows.evaluate_config import EvaluateConfig


@task(name="measure", cache_policy=NO_CACHE, persist_result=False)
def measure(config: EvaluateConfig) -> str:
    """Held-out losses, preferences, tasks and win rates; returns the folder of the tables."""
    found = evaluate_steps.run(config, shown_progress())
    artifacts.listed(config.name, "figures", evaluate_steps.lines(found), config.model)
    return str(evaluate_steps.folder(config))


@flow(
    name="evaluate",
    flow_run_name="evaluate-{config.name}",
    persist_result=False,
    validate_parameters=True,
)
def evaluate(config: EvaluateConfig) -> str:
    """A model in, figures with their intervals out.

    Args:
        config: the run; the same settings as the YAML file of `gristmill run evaluate`.
    """
    processes.end_with_server()
    with logs.to_run():
        return measure(config)
