"""Serve: Prefect's server, a worker and the deployments of prefect.yaml, on one machine.

`make serve` runs it. The UI is at http://127.0.0.1:4200 (PREFECT_SERVER_API_PORT changes the port)
and asks for a secret, which is made once and kept in `server.json` of the Prefect home; a run
started from its form, or by a schedule, runs in the worker below. Ctrl-C ends all.

What dies is started again: the worker alone, or both when the server died. A run whose process is
gone is marked as crashed at once, so the next one need not wait for it.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx

from gristmill.flows import connection, processes
from gristmill.flows.bootstrap import POOL, bootstrap
from gristmill.flows.connection import ROOT, Address, address_file, default_home
from gristmill.flows.processes import Child
from gristmill.flows.server import Names

ALERT = "GRISTMILL_ALERT"  # notification block that is told of runs that failed
_PAUSES = (1, 5, 15, 60)  # seconds before each further start
_LONG = 600  # seconds after which a death is not one of a series


def main() -> None:
    """Start everything and keep it up, until a signal or until it dies too often."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        say("stopping; every finished part is in the store, and the next run goes on from there.")
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        connection.demand_clone()
    except ValueError as error:
        fail(str(error))
    settings = environment()
    home = Path(settings["PREFECT_HOME"])
    try:
        with connection.serving(home, seconds=1):
            address = Address(
                url=settings["PREFECT_API_URL"],
                secret=secret(home),
                pages=settings["PREFECT_UI_API_URL"].removesuffix("/").removesuffix("/api"),
            )
            address.save(address_file(home))
            os.environ.update({**settings, **address.client})
            processes.serve_from_here()
            keep_up(address)
    except BlockingIOError:
        fail(f"{home} is served already: stop the other `make serve`, or set PREFECT_HOME.")
    except ValueError as error:
        fail(str(error))


def environment() -> dict[str, str]:
    """Settings of server, worker and runs; what the user has set stays, but for the origins."""
    port = os.environ.get("PREFECT_SERVER_API_PORT", "4200")
    home = Path(os.environ.get("PREFECT_HOME") or default_home())
    home.mkdir(parents=True, exist_ok=True)
    chosen = {
        "GRISTMILL_ROOT": str(ROOT),
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": port,
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    settings = {name: os.environ.get(name, value) for name, value in chosen.items()}
    origins = ",".join(sorted(Names.of(settings).origins))
    return settings | {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins}


def secret(home: Path) -> str:
    """What opens the server: given by the user, or made once and kept beside the database."""
    known = Address.load(address_file(home))
    given = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    return given or (known.secret if known is not None else connection.new_secret())


def keep_up(address: Address) -> None:
    """Run server and worker; start again what dies, a few times."""
    deaths: list[float] = []
    deployed = False  # once: what was changed in the UI since outlives a server that died
    while True:
        server = processes.start(
            "gristmill.flows.server",
            environment={"PREFECT_SERVER_API_AUTH_STRING": address.secret},
            folder=ROOT,
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_until_healthy(address.url, server)
            if not deployed:
                asyncio.run(bootstrap(alert=os.environ.get(ALERT)))
                deployed = True
            say(f"serving {address.url.removesuffix('/api')} (Ctrl-C ends it)")
            say(f"the UI asks for the secret in {address_file(Path(os.environ['PREFECT_HOME']))}")
            while server.alive():
                work(server)
                pause("worker" if server.alive() else "server", deaths)
        except httpx.HTTPError as error:  # it died, or was too busy, while it was asked
            say(f"the server did not answer: {type(error).__name__} {error}")
            pause("server", deaths)
        finally:
            server.stop()


def work(server: Child) -> None:
    """Run a worker until it or the server ends; then end it and the runs that it started."""
    asyncio.run(settle())
    worker = processes.start(
        "prefect", "worker", "start", "--pool", POOL, "--type", "process", folder=ROOT
    )
    try:
        while worker.alive() and server.alive():
            time.sleep(0.5)
    finally:
        worker.stop()


def pause(what: str, deaths: list[float]) -> None:
    """Wait before the next start, longer each time.

    Raises:
        ValueError: it died too often.
    """
    now = time.monotonic()
    deaths[:] = [*(d for d in deaths if now - d < _LONG), now]
    if len(deaths) > len(_PAUSES):
        raise ValueError(
            f"the {what} died, the {len(deaths)}th death within {_LONG // 60} minutes: everything "
            "was stopped; what it said stands above. Finished work is in the store."
        )
    seconds = _PAUSES[len(deaths) - 1]
    say(f"the {what} died; it starts again in {seconds} s.")
    time.sleep(seconds)


def wait_until_healthy(api: str, server: Child, seconds: float = 180) -> None:
    """Wait for the server's health endpoint."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not server.alive():
            raise ValueError("the Prefect server ended at once: what it said stands above.")
        if connection.healthy(api, seconds=0):
            return
        time.sleep(0.5)
    raise ValueError(f"the Prefect server did not answer at {api} within {seconds:.0f} s.")


async def settle() -> None:
    """Mark the runs of our pool that say they run as crashed: no worker of ours is up.

    So is one that waited for approval in its process; one that was suspended has none.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    open_ = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.PAUSED]
    async with get_client() as client:
        left = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=open_))
            ),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
        )
        for run in left:
            if run.state is not None and run.state.state_details.pause_reschedule:
                continue
            message = "cut off with the server or the worker; a new run goes on from there"
            await client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            say(f"the run {run.name} was cut off and is marked as crashed.")


def say(text: str) -> None:
    """Tell the person at the terminal."""
    sys.stderr.write(f"gristmill: {text}\n")


def fail(text: str) -> NoReturn:
    """End with a sentence."""
    say(text)
    sys.exit(2)


if __name__ == "__main__":
    main()
