"""Approving: a run that pauses before publication, and how it learns what somebody decided.

The request and the decision lie in the store, so that every way leads to the same place:

| the run | waits | and goes on with |
|---|---|---|
| by itself, its Prefect server its own | not: it ends, with its own exit code | the same command |
| under a server that stays | as `Paused`, in the UI | command line, page, form or API |

A process that waits holds its place in the worker, and nothing else: what it has computed is in the
store. One that is cut off while it waits asks the same again when it is run again. Prefect's own
`pause_flow_run` would know nothing of decisions in the store or of a run that was cancelled while
it waited, and at its timeout it fails a run that is set to publish then.
"""

import logging
import os
import shlex
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from gristmill.flows import nightly_steps, reports
from gristmill.flows.config import RunConfig
from gristmill.flows.connection import ALONE
from gristmill.flows.nightly_config import NightlyConfig
from gristmill.flows.pause_config import PauseConfig
from gristmill.flows.steps import Curation, Rows
from gristmill.pipeline.compare.compared import told
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.store import open_entry
from gristmill.pipeline.review import approval
from gristmill.pipeline.review.approval import Approval, Rejected, WaitsForApproval

LOG = logging.getLogger(__name__)
LOOK = 3.0  # seconds between two looks at store and server
_TIMED_OUT = "nobody"


def request(run: Curation, rows: Rows, comparison: Path | None = None) -> Approval | None:
    """What a run puts up for approval; None: it publishes at once.

    Args:
        run: the curation.
        rows: as the last stage left them.
        comparison: what the run's gate was told; None: it has no gate.
    """
    config = run.config
    assert isinstance(config, RunConfig), "what is published has settings for it"
    assert rows.ledger is not None, "a stage has decided, or all rows are kept"
    pause = _pause(config)
    if pause is None:
        return None
    since = nightly_steps.compared(run, rows) if isinstance(config, NightlyConfig) else None
    alarms = since.alarms if since is not None else ()
    if config.pause is None and not alarms:
        return None
    return approval.asked(
        run.context.store,
        config.name,
        Dataset.open(rows.pool),
        open_entry(rows.ledger),
        rows=pause.sample,
        gate=told(comparison)["verdict"] if comparison else None,
        alarms=alarms,
        changes=nightly_steps.page(run, since) if since is not None else None,
    )


def _pause(config: RunConfig) -> PauseConfig | None:
    """How a run waits, if it does: always, or beyond a limit of its drift; None: never."""
    if config.pause is None and isinstance(config, NightlyConfig) and config.drift.then == "pause":
        return config.drift.pause
    return config.pause


def demanded(run: Curation, rows: Rows, comparison: Path | None = None) -> dict[str, Any] | None:
    """The approval that a publication bears; None: it needs none.

    Raises:
        WaitsForApproval: nobody has decided.
        Rejected: somebody decided against it.
    """
    asked = request(run, rows, comparison)
    if asked is None:
        return None
    decision = _decision(run, asked)
    if decision is None:
        raise WaitsForApproval(waits(asked))
    if decision["verdict"] == "rejected":
        raise Rejected(rejected(asked, decision))
    drawn = asked.sampled().height
    return {k: decision[k] for k in ("verdict", "by", "reason", "at")} | {"sample": drawn}


def wait(run: Curation, rows: Rows, comparison: Path | None = None) -> None:
    """Wait for the decision in the flow run that goes on here; return once it has fallen.

    Where nobody could see a run that waits, this returns at once.
    """
    from prefect.context import FlowRunContext

    asked = request(run, rows, comparison)
    here = FlowRunContext.get()
    if asked is None or _decision(run, asked) is not None:
        return
    if here is None or here.flow_run is None or os.environ.get(ALONE):
        return
    LOG.warning("%s", waits(asked))
    _paused(run, asked, here.flow_run.id)


def waits(asked: Approval) -> str:
    """Where a run stands that waits, and what to do."""
    folder = shlex.quote(str(asked.path))
    return (
        f"{asked.name} waits for approval: {asked.request['rows']:,} of "
        f"{asked.request['of']:,} rows would be published. Look at {asked.path / approval.PAGE} "
        f"and say `gristmill approve {folder}`, or `gristmill approve {folder} --reject --reason "
        f"...`; or decide on the page of `gristmill review {folder}`. The same command goes on."
        + "".join(f" Beyond a limit: {s}" for s in asked.alarms)
    )


def rejected(asked: Approval, decision: Mapping[str, Any]) -> str:
    """What became of a run that somebody rejected."""
    return (
        f"{asked.name} was rejected by {decision['by']} at {decision['at']}: {decision['reason']}. "
        "Nothing was published. Change the run's settings or its data; or, if that was a mistake, "
        f"`gristmill approve {shlex.quote(str(asked.path))}` and run the same command again."
    )


def _decision(run: Curation, asked: Approval) -> Mapping[str, Any] | None:
    """The decision; that of the settings, once time is over."""
    assert isinstance(run.config, RunConfig), "what is published has settings for it"
    pause = _pause(run.config)
    assert pause is not None, "it was asked for"
    if not asked.overdue(pause.hours):
        return asked.decision
    verdict: Literal["approved", "rejected"] = "approved" if pause.then == "publish" else "rejected"
    why = f"no decision within {pause.hours:g} hours: the run's settings say {pause.then}"
    return asked.decide(verdict, _TIMED_OUT, why)


def _paused(run: Curation, asked: Approval, ident: Any) -> None:  # noqa: ANN401  (a UUID)
    """Stand as paused until there is a decision, wherever it falls.

    A server that does not answer for a while is waited for: the store may decide meanwhile.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State, StateType
    from prefect.exceptions import Abort
    from prefect.input.run_input import keyset_from_paused_state
    from prefect.states import Paused, Running

    # No name is in the key: Prefect takes lowercase letters, digits and dashes, and names have more.
    state: State[Any] = Paused(reschedule=False, pause_key=str(uuid.uuid4()))
    keyset = keyset_from_paused_state(state)
    state.state_details.run_input_keyset = {str(k): str(v) for k, v in keyset.items()}
    form = _form(asked)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(ident, state)
        form.save(keyset, ident)  # now: a run that begins to pause loses what it was given before
        while (decision := _decision(run, asked)) is None:
            with suppress(httpx.HTTPError):
                now = client.read_flow_run(ident).state
                if now is None or now.type in (StateType.CANCELLING, StateType.CANCELLED):
                    raise Abort(f"{asked.name} was cancelled while it waited for approval")
                if now.is_running():
                    _take(asked, form.load(keyset, ident))
                    return
            time.sleep(LOOK)
        LOG.warning("%s was %s by %s.", asked.name, decision["verdict"], decision["by"])
        client.set_flow_run_state(ident, Running())


def _form(asked: Approval) -> Any:  # noqa: ANN401  (a class that is made here)
    """The form of the UI, with a link to the sample where the server shows it."""
    from prefect.input import RunInput
    from pydantic import Field

    class Decision(RunInput):
        decision: Literal["approve", "reject"] = Field(description="publish these rows, or not")
        by: str = Field(min_length=1, description="your name: it stands in card and ledger")
        reason: str = Field("", description="why not; it stands in the request")

    link = reports.link(asked.path)
    changed = reports.link(asked.path, reports.CHANGES)
    page = f"[look at the sample]({link})" if link else f"look at `{asked.path / approval.PAGE}`"
    words = (
        f"**{asked.name}** would publish {asked.request['rows']:,} of {asked.request['of']:,} "
        f"rows: {page}, or decide on the page of `gristmill review {asked.path}`."
        + "".join(f"\n\nBeyond a limit: {s}" for s in asked.alarms)
        + (f"\n\n[what changed]({changed})" if changed else "")
    )
    return Decision.with_initial_data(description=words)


def _take(asked: Approval, form: Any) -> None:  # noqa: ANN401
    """Put on the disk what somebody said in the form; a decision there already is the same."""
    if asked.decision is None:
        verdict: approval.Verdict = "approved" if form.decision == "approve" else "rejected"
        asked.decide(verdict, form.by, form.reason or "no reason was given")
