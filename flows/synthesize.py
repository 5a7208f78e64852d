"""Synthesize: documents in, verified question-answer pairs out, curated if wanted.

    gather chunks ─▶ warm up? ─▶ pull: rounds of choose, extract, verify, reward ─▶ curate?

Every task takes settings and paths and returns a path. Resumption is the store's and the completion
cache's: killed anywhere, a rerun goes on where it stopped and asks no model twice.
"""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from gristmill.flows import artifacts, followed, logs, processes, stopping
from gristmill.flows import synthesis_steps as steps
from gristmill.flows.curate import curate, shown_progress
from gristmill.flows.synthesis_config import SynthesizeConfig


@task(name="gather", cache_policy=NO_CACHE, persist_result=False)
def gather(config: SynthesizeConfig) -> str:
    """Documents to chunks."""
    return str(steps.gather(config))


@task(name="warm-up", cache_policy=NO_CACHE, persist_result=False)
def warm_up(config: SynthesizeConfig, chunks: str) -> str | None:
    """Pairs of a random share of the documents, to tune the embedder on."""
    found = steps.warm_up(config, Path(chunks))
    return str(found) if found else None


@task(name="pull", cache_policy=NO_CACHE, persist_result=False)
def pull(config: SynthesizeConfig, chunks: str, warm: str | None) -> str:
    """The rounds, and what came out of them."""
    folder = steps.pull(config, Path(chunks), Path(warm) if warm else None, shown_progress())
    artifacts.records(config.name, steps.announcement(config.name, folder))
    return str(folder)


@flow(
    name="synthesize",
    flow_run_name="synthesize-{config.name}",
    persist_result=False,
    validate_parameters=True,
)
@stopping.stopping
def synthesize(config: SynthesizeConfig) -> str:
    """Documents in, verified question-answer pairs out.

    Args:
        config: the run; the same settings as the YAML file of `gristmill run synthesize`.
    """
    processes.end_with_server()
    with logs.to_run():
        chunks = gather(config)
        warm = warm_up(config, chunks)
        folder = pull(config, chunks, warm)
    then = followed.curation(config, str(Path(folder) / "records.parquet"))
    if then is None:
        return folder
    steps.demand_pairs(Path(folder))
    return curate(then)
