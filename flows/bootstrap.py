"""Bootstrap: what a Prefect server needs before it runs our flows, made where it is lacking.

A work pool, the deployments of prefect.yaml, and automations: one marks runs as crashed whose
process died without a word, which Prefect itself never does, one tells people of those that failed.
All of it may be done again at any time; a pool's limit and what was switched off in the UI stay.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gristmill.flows.connection import HEARTBEAT, ROOT, TAG

if TYPE_CHECKING:
    from prefect.automations import Automation
    from prefect.client.orchestration import PrefectClient

POOL = "gristmill"
ZOMBIES = "gristmill: a run without heartbeat has crashed"
ALERTS = "gristmill: a run needs somebody"
SILENCE = 3 * int(HEARTBEAT)  # seconds
_FAILED = ("Failed", "TimedOut", "Crashed")
_ABOUT = "{{ flow.name }}: {{ flow_run.name }} is {{ flow_run.state.name }}"
_BODY = "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}"


async def bootstrap(*, runs: int | None = None, alert: str | None = None) -> list[str]:
    """Make pool, deployments and automations on the server that Prefect's settings name.

    Args:
        runs: at once in the pool; None: as it is, or two in a new one.
        alert: notification block that is told, `slack-webhook/team`; None: as it is.

    Returns:
        What there is now, a line each.

    Raises:
        ValueError: a deployment is refused, or there is no such block.
    """
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        block = None if alert is None else await _block(client, alert)
        limit = await _pool(client, runs)
        done = [f"work pool {POOL}: {limit} runs at once"]
        prefect("--no-prompt", "deploy", "--all")
        done.append("the deployments of prefect.yaml")
        wanted = [_zombies()]
        if block is not None:
            wanted.append(_alerts(block))
        for automation in wanted:
            await _installed(automation)
            done.append(f"automation {automation.name!r}")
    return done


async def _pool(client: "PrefectClient", runs: int | None) -> int:
    """The work pool, for processes of the machine that the worker runs on; how many at once."""
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        there = await client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        there = await client.create_work_pool(
            WorkPoolCreate(
                name=POOL,
                type=ProcessWorker.type,
                description="runs of gristmill, as processes of the worker's machine",
                base_job_template=template,
                concurrency_limit=runs or 2,
            )
        )
    limit = runs or there.concurrency_limit or 2
    if limit != there.concurrency_limit:
        await client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=limit))
    return limit


def prefect(*words: str, attempts: int = 5) -> None:
    """Run a Prefect command; the first calls to a fresh SQLite server may answer 503.

    Raises:
        ValueError: it failed each time; the sentence ends with what it said.
    """
    for attempt in range(attempts):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return
        time.sleep(2 * (attempt + 1))
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    raise ValueError(f"prefect {' '.join(words)} failed: {said[-500:]}")


def _zombies() -> "Automation":
    """Marks a run as crashed that is silent for three heartbeats and has not ended."""
    from prefect.automations import Automation, EventTrigger, Posture
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState

    from gristmill.flows.stopping import STATES

    beat = "prefect.flow-run.heartbeat"
    ended = ("Completed", "Held", "Cancelled", *_FAILED, *STATES.values())
    message = f"no heartbeat for {SILENCE} s: the process is gone"
    return Automation(
        name=ZOMBIES,
        description=f"no heartbeat for {SILENCE} s",
        trigger=EventTrigger(
            after={beat},
            expect={beat, *_named(ended)},
            posture=Posture.Proactive,
            within=timedelta(seconds=SILENCE),
            **_of_ours(),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def _alerts(block: Any) -> "Automation":  # noqa: ANN401  (its id)
    """Tells people of a run that failed, stopped, waits for them, or is held by its gate."""
    from prefect.automations import Automation, EventTrigger, Posture
    from prefect.events.actions import SendNotification

    from gristmill.flows.stopping import STATES

    return Automation(
        name=ALERTS,
        description="it failed, stopped, waits, or its dataset is held",
        trigger=EventTrigger(
            expect=set(_named((*_FAILED, "Held", "Paused", *STATES.values()))),
            posture=Posture.Reactive,
            within=timedelta(seconds=0),
            **_of_ours(),
        ),
        actions=[SendNotification(block_document_id=block, subject=_ABOUT, body=_BODY)],
    )


def _named(states: Sequence[str]) -> list[str]:
    """The events of runs that come into these states."""
    return [f"prefect.flow-run.{state}" for state in states]


def _of_ours() -> dict[str, Any]:
    """Events of single runs of ours, and of nobody else's."""
    return {
        "match": {"prefect.resource.id": ["prefect.flow-run.*"]},
        "match_related": {"prefect.resource.id": [f"prefect.tag.{TAG}"]},
        "for_each": {"prefect.resource.id"},
        "threshold": 1,
    }


async def _block(client: "PrefectClient", name: str) -> Any:  # noqa: ANN401
    """The id of a notification block."""
    from prefect.exceptions import ObjectNotFound

    kind, _, called = name.partition("/")
    try:
        found = await client.read_block_document_by_name(called, kind)
    except ObjectNotFound:
        raise ValueError(
            f"there is no notification block {name!r}: make one on the UI's page Blocks and name "
            "it as TYPE/NAME, e.g. slack-webhook/team or custom-webhook/alerts."
        ) from None
    return found.id


async def _installed(wanted: "Automation") -> None:
    """The automation as it should be; one that somebody switched off stays off."""
    from prefect.automations import Automation

    try:
        there = await Automation.aread(name=wanted.name)
    except ValueError:  # it is not there yet
        await wanted.acreate()
        return
    same = {"trigger", "actions", "description"}
    if there.model_dump(include=same) != wanted.model_dump(include=same):
        await wanted.model_copy(update={"id": there.id, "enabled": there.enabled}).aupdate()
