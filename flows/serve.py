"""Serve: Prefect's server, a worker and the deployments of prefect.yaml, on one machine.

`make serve` runs it. The UI is at http://127.0.0.1:4200 (PREFECT_SERVER_API_PORT changes the port);
a run started from its form, or by the nightly schedule, runs in the worker below. Ctrl-C ends all.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]
POOL = "gristmill"
ZOMBIES = "gristmill: a run without heartbeat has crashed"


def main() -> None:
    """Start everything, then wait until a signal or until server or worker ends."""
    settings = environment()
    os.environ.update(settings)
    server = start(["prefect", "server", "start"])
    worker: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        wait_until_healthy(settings["PREFECT_API_URL"], server)
        prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
        prefect("--no-prompt", "deploy", "--all")
        asyncio.run(install_automations())
        worker = start(["prefect", "worker", "start", "--pool", POOL, "--type", "process"])
        say(f"serving: {settings['PREFECT_API_URL'].removesuffix('/api')} (Ctrl-C ends it)")
        while server.poll() is None and worker.poll() is None:
            time.sleep(1)
        say("server or worker has ended; stopping the other.")
    except KeyboardInterrupt:
        say("stopping.")
    finally:
        for process in (worker, server):
            if process is not None and process.poll() is None:
                process.terminate()
        for process in (worker, server):
            if process is not None:
                process.wait(timeout=60)


def environment() -> dict[str, str]:
    """Settings of server, worker and runs; what the user has set stays."""
    port = os.environ.get("PREFECT_SERVER_API_PORT", "4200")
    home = Path(os.environ.get("PREFECT_HOME", ROOT / "data" / "work" / "prefect"))
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
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {name: os.environ.get(name, value) for name, value in chosen.items()}


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a Prefect command in the project's folder."""
    return subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT)


def prefect(*words: str, attempts: int = 5) -> None:
    """Run a Prefect command; the first calls to a fresh SQLite server may answer 503."""
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
    raise ValueError(f"prefect {' '.join(words)} failed: {done.stderr.strip()[-500:]}")


def wait_until_healthy(api: str, server: subprocess.Popen[bytes], seconds: float = 180) -> None:
    """Wait for the server's health endpoint."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.poll() is not None:
            raise ValueError("the Prefect server ended at once: is its port taken?")
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise ValueError(f"the Prefect server did not answer at {api} within {seconds:.0f} s.")


async def install_automations() -> None:
    """Mark runs whose process died without a word as crashed; Prefect itself never does."""
    from prefect.automations import Automation, EventTrigger, Posture
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState

    ended = [f"prefect.flow-run.{s}" for s in ("Completed", "Failed", "Cancelled", "Crashed")]
    wanted = Automation(
        name=ZOMBIES,
        description="no heartbeat for 90 s",
        enabled=True,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ended},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=90),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message="no heartbeat for 90 s: the process is gone"
            )
        ],
    )
    try:
        await Automation.aread(name=ZOMBIES)
    except ValueError:  # it is not there yet
        await wanted.acreate()


def say(text: str) -> None:
    """Tell the person at the terminal."""
    sys.stderr.write(f"gristmill: {text}\n")


if __name__ == "__main__":
    main()
