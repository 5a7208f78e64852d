"""Prefer: prompts in, preference pairs out, curated if wanted.

    gather prompts ─▶ answer: candidates ─▶ judge: verifier, then a judge ─▶ pair ─▶ curate?

Every task takes settings and paths and returns a path. Resumption is the store's and the completion
cache's: killed anywhere, a rerun goes on where it stopped and asks no model twice.
"""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from gristmill.flows import artifacts, followed, logs, processes, stopping
from gristmill.flows import prefer_steps as steps
from gristmill.flows.curate import curate, shown_progress
from gristmill.flows.prefer_config import PreferConfig


@task(name="gather", cache_policy=NO_CACHE, persist_result=False)
def gather(config: PreferConfig) -> str:
    """Rows to prompts."""
    return str(steps.gather(config))


@task(name="answer", cache_policy=NO_CACHE, persist_result=False)
def answer(config: PreferConfig, prompts: str) -> str:
    """Candidates of every writer."""
    return str(steps.answer(config, Path(prompts), shown_progress()))


@task(name="judge", cache_policy=NO_CACHE, persist_result=False)
def judge(config: PreferConfig, prompts: str, answers: str) -> str:
    """What verifier and judge say of them."""
    return str(steps.judge(config, Path(prompts), Path(answers), shown_progress()))


@task(name="pair", cache_policy=NO_CACHE, persist_result=False)
def pair(config: PreferConfig, prompts: str, answers: str, verdicts: str) -> str:
    """Pairs, and the version that holds them."""
    folder = steps.publish(config, Path(prompts), Path(answers), Path(verdicts))
    artifacts.records(config.name, steps.announcement(config.name, folder))
    return str(folder)


@flow(
    name="prefer",
    flow_run_name="prefer-{config.name}",
    persist_result=False,
    validate_parameters=True,
)
@stopping.stopping
def prefer(config: PreferConfig) -> str:
    """Prompts in, preference pairs out.

    Args:
        config: the run; the same settings as the YAML file of `gristmill run prefer`.
    """
    processes.end_with_server()
    with logs.to_run():
        prompts = gather(config)
        answers = answer(config, prompts)
        folder = pair(config, prompts, answers, judge(config, prompts, answers))
    then = followed.curation(config, str(Path(folder) / "records.parquet"))
    return folder if then is None else curate(then)
