"""Events: what happened to a dataset, for automations: to alert people, to start a training.

| event | when | payload |
|---|---|---|
| `gristmill.dataset.published` | a new version is there; `latest` names it | version, rows |
| `gristmill.dataset.held` | a new version is there, and its gate held it | the same, and why |
| `gristmill.dataset.unchanged` | a nightly run had nothing new to publish | the sentence |
| `gristmill.dataset.drift` | a nightly run is beyond a limit | the sentences, and the counts |
| `gristmill.dataset.takedown` | rows that were published fall by a takedown list | how many, ids |

The resource is `gristmill.dataset.<name>`; the flow run is related. An event that cannot be sent
never stops a run.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from prefect.events import emit_event

from gristmill.flows import assets, publishing
from gristmill.flows.config import RunConfig
from gristmill.pipeline.export.diff import Diff

_IDS = 100  # of a takedown, in an event


def made(config: RunConfig, folder: Path, known: Collection[Path]) -> None:
    """A version was published, whatever its gate said; a rerun that finds one says nothing.

    Args:
        config: of the run.
        folder: the version.
        known: those that there were before.
    """
    if folder in known:
        return
    told = publishing.facts(folder)
    gate = publishing.verdict(folder)
    if gate is not None and not gate["promoted"]:
        _emit("held", config.name, {**told, "why": gate["sentence"]})
    else:
        _emit("published", config.name, told)
    assets.dataset(config, folder)


def unchanged(dataset: str, sentence: str) -> None:
    """Nothing new was there to publish."""
    _emit("unchanged", dataset, {"why": sentence})


def drifted(dataset: str, diff: Diff, alarms: Sequence[str]) -> None:
    """Rows lie beyond a limit, if there are alarms."""
    if alarms:
        told = {"before": diff.before, "counts": dict(diff.counts), "shift": diff.shift}
        _emit("drift", dataset, {**told, "alarms": list(alarms)})


def taken_down(dataset: str, ids: Sequence[str]) -> None:
    """Rows that were published fall by a takedown list, if there are any."""
    if ids:
        _emit("takedown", dataset, {"rows": len(ids), "ids": list(ids[:_IDS])})


def _emit(what: str, dataset: str, payload: dict[str, Any]) -> None:
    name = f"gristmill.dataset.{dataset}"
    emit_event(
        event=f"gristmill.dataset.{what}",
        resource={"prefect.resource.id": name, "prefect.resource.name": dataset},
        payload={"dataset": dataset, **payload},
    )
