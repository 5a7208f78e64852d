"""Refine pairs: preference pairs in, the same pairs with labels that models and people checked out.

    ingest ▶ clean ▶ describe? ▶ start ▶ round ▶ round … ▶ sweep ▶ publish

Every task takes settings and paths and returns a path. Resumption is the store's and the completion
cache's: killed anywhere, a rerun goes on where it stopped, asks no model twice and trains none
twice. Where people's verdicts are not there yet the run stops, and goes on once they are.
"""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from gristmill.flows import (
    artifacts,
    events,
    logs,
    processes,
    publishing,
    refine_steps,
    refining,
    steps,
    stopping,
)
from gristmill.flows import curate as tasks
from gristmill.flows.refine_config import RefineConfig
from gristmill.flows.steps import Rows


@task(name="describe", cache_policy=NO_CACHE, persist_result=False)
def describe(config: RefineConfig, rows: Rows) -> str | None:
    """What each pair is about, and what decides it."""
    found = refine_steps.describe(refining.current(config), rows)
    return str(found) if found else None


@task(name="round", task_run_name="round-{number}", cache_policy=NO_CACHE, persist_result=False)
def label(
    config: RefineConfig, number: int, rows: Rows, described: str | None, before: list[str]
) -> str | None:
    """Retrieve, label, verify, train; the start has no round before it."""
    paths = [Path(p) for p in before]
    found, told = refine_steps.label(refining.current(config), rows, _path(described), paths)
    if found is None:
        return None
    artifacts.listed(config.name, f"round-{number}", [told], f"round {number}")
    return str(found)


@task(name="sweep", cache_policy=NO_CACHE, persist_result=False)
def sweep(config: RefineConfig, rows: Rows, described: str | None, rounds: list[str]) -> str:
    """Keep, judge again, flip: every pair that is still unverified."""
    paths = [Path(p) for p in rounds]
    return str(refine_steps.sweep(refining.current(config), rows, _path(described), paths))


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish(config: RefineConfig, rows: Rows, rounds: list[str], found: str) -> str:
    """The dataset folder, with its ledger and report."""
    run, paths = refining.current(config), [Path(p) for p in rounds]
    folder = refine_steps.publish(run, steps.current(config), rows, paths, Path(found))
    artifacts.published(config.name, folder)
    return str(folder)


@flow(
    name="refine-pairs",
    flow_run_name="refine-pairs-{config.name}",
    persist_result=False,
    validate_parameters=True,
)
@stopping.stopping
def refine_pairs(config: RefineConfig) -> str:
    """Preference pairs in, the same pairs with checked labels out.

    Args:
        config: the run; the same settings as the YAML file of `gristmill run refine-pairs`.
    """
    processes.end_with_server()
    progress = tasks.shown_progress()
    with (
        logs.to_run(),
        steps.running(config, progress),
        refining.running(config, progress),
    ):
        rows = tasks.ingested(config)
        described = describe(config, rows)
        rounds: list[str] = []
        for number in range(config.rounds.number + 1):
            found = label(config, number, rows, described, rounds)
            if found is None:
                break
            rounds.append(found)
        known = publishing.versions_of(config)
        published: str = publish(config, rows, rounds, sweep(config, rows, described, rounds))
        events.made(config, Path(published), known)
    return published


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
