"""A shared server: PostgreSQL in the place of SQLite, bootstrap by itself, and an alert."""

import asyncio
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from curation import settings
from prefect.events import DeploymentEventTrigger
from serving import ENDED, call, eventually, made_to_serve, state_of, without_prefect

from gristmill.flows import bootstrap, connection

pytestmark = pytest.mark.slow


def program(name: str) -> str:
    """A program of PostgreSQL's server, which Debian keeps off PATH."""
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join([*map(str, places), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"no {name} on this machine: apt-get install postgresql")
    return found


@pytest.fixture(scope="module")
def database():
    """The address of an empty database; its server refuses to run as root."""
    import tempfile

    initdb, control, create = map(program, ("initdb", "pg_ctl", "createdb"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="gristmill-pg-") as folder:
        as_owner: list[str] = []
        if getpass.getuser() == "root":
            shutil.chown(folder, "postgres")
            as_owner = ["runuser", "-u", "postgres", "--"]

        def run(*words: str) -> None:
            subprocess.run([*as_owner, *words], check=True, stdout=subprocess.DEVNULL, cwd=folder)

        data = f"{folder}/data"
        run(initdb, "-D", data, "-A", "trust", "-U", "gristmill", "--no-sync")
        listens = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
        run(control, "-D", data, "-w", "-l", f"{folder}/log", "-o", listens, "start")
        try:
            run(create, "-h", "127.0.0.1", "-p", port, "-U", "gristmill", "prefect")
            yield f"postgresql+asyncpg://gristmill@127.0.0.1:{port}/prefect"
        finally:
            run(control, "-D", data, "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def served(database, tmp_path_factory):
    home = tmp_path_factory.mktemp("shared") / "prefect"
    process, address = made_to_serve(home, PREFECT_SERVER_DATABASE_CONNECTION_URL=database)
    yield process, address, home
    process.terminate()
    process.wait(timeout=90)


@contextmanager
def listening():
    """A web hook: its address, and what it was told."""
    told: list[dict] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            return None

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", told
    finally:
        server.shutdown()
        server.server_close()


BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock as Hook
Hook(name="alerts", url=sys.argv[1], json_data={"text": "{{subject}}: {{body}}"}).save("alerts")
"""
EVENT = """
import sys
from gristmill.flows import events
events._emit(sys.argv[1], "docs", {"folder": "data/curated/docs/v1-abc"})
"""


def bootstrapped(address: dict, *words: str) -> subprocess.CompletedProcess:
    code = "from gristmill.flows.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "bootstrap", *words],
        env=without_prefect(**connection.Address(**address).client),
        check=False,
        capture_output=True,
        text=True,
    )


def test_runs_are_kept_in_postgresql_and_a_failed_one_is_told(served, tiny, tmp_path):
    process, address, home = served
    assert not (home / "prefect.db").exists(), "SQLite is out of it"
    deployment = call(address, "/deployments/name/curate/curate")
    make = f"/deployments/{deployment['id']}/create_flow_run"

    unknown = bootstrapped(address, "--alert", "custom-webhook/nobody")
    assert (unknown.returncode, "there is no notification block" in unknown.stderr) == (2, True)
    with listening() as (hook, told):
        environment = without_prefect(**connection.Address(**address).client)
        subprocess.run([sys.executable, "-c", BLOCK, hook], env=environment, check=True)
        again = bootstrapped(address, "--alert", "custom-webhook/alerts", "--runs", "3")
        assert again.returncode == 0, again.stderr
        assert "work pool gristmill: 3 runs at once" in again.stdout
        found = call(address, "/automations/filter", {})
        assert {a["name"] for a in found} == {bootstrap.ZOMBIES, bootstrap.ALERTS}

        config = settings(tmp_path, tiny, select={"budget": "7"})
        good = call(address, make, {"parameters": {"config": config}})
        bad = call(address, make, {"parameters": {"config": {**config, "store": "/proc/no"}}})
        ask = state_of(address, good, *ENDED)
        assert eventually(ask, seconds=300, process=process)["type"] == "COMPLETED"
        ask = state_of(address, bad, *ENDED)
        assert eventually(ask, seconds=300, process=process)["type"] == "FAILED"
        eventually(lambda: told, seconds=60, process=process)
        assert len(told) == 1, "the run that completed is nobody's concern"
        assert "is Failed" in told[0]["text"]


def test_what_was_switched_off_in_the_ui_stays_off(served):
    _, address, _ = served
    (zombies,) = (
        a for a in call(address, "/automations/filter", {}) if a["name"] == bootstrap.ZOMBIES
    )
    call(address, f"/automations/{zombies['id']}", {"enabled": False}, method="PATCH")

    async def again():
        import prefect.settings as prefect_settings

        client = connection.Address(**address).client
        with prefect_settings.temporary_settings(
            {
                prefect_settings.PREFECT_API_URL: client["PREFECT_API_URL"],
                prefect_settings.PREFECT_API_AUTH_STRING: client["PREFECT_API_AUTH_STRING"],
            }
        ):
            await bootstrap._installed(
                bootstrap._zombies().model_copy(update={"description": "another"})
            )

    asyncio.run(again())
    found = call(address, f"/automations/{zombies['id']}")
    assert (found["enabled"], found["description"]) == (False, "another")


def test_the_automations_of_the_docs_are_taken_and_fire(served, tmp_path):
    process, address, _ = served
    page = (connection.ROOT / "docs" / "server.md").read_text("utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (alerts,) = (block for block in blocks if block.lstrip("# ").startswith("prefect automation"))
    (training,) = (yaml.safe_load(block)[0] for block in blocks if "  triggers:" in block)
    environment = without_prefect(**connection.Address(**address).client)
    with listening() as (hook, told):
        subprocess.run([sys.executable, "-c", BLOCK, hook], env=environment, check=True)
        (block,) = call(address, "/block_documents/filter", {})
        file = tmp_path / "alerts.yaml"
        file.write_text(alerts.replace("ID-OF-A-NOTIFICATION-BLOCK", block["id"]))
        words = ["prefect", "automation", "create", "--from-file", str(file)]
        subprocess.run([sys.executable, "-m", *words], env=environment, check=True)
        trigger = DeploymentEventTrigger.model_validate(
            {**training["triggers"][0], "match": {"prefect.resource.id": "gristmill.dataset.docs"}}
        )
        deployment = eventually(  # one of the last
            lambda: call(address, "/deployments/name/finetune/finetune"), 300, process
        )
        trigger.set_deployment_id(deployment["id"])
        call(address, "/automations/", trigger.as_automation().model_dump(mode="json"))
        for what in ("held", "published"):
            subprocess.run([sys.executable, "-c", EVENT, what], env=environment, check=True)
        eventually(lambda: told, seconds=60, process=process)
        assert "gristmill.dataset.held: docs" in told[0]["text"]
        wanted = {"deployments": {"id": {"any_": [deployment["id"]]}}}

        def started():
            return call(address, "/flow_runs/filter", wanted)

        (run,) = eventually(started, seconds=60, process=process)
        assert run["parameters"]["config"]["dataset"] == "data/curated/docs/v1-abc"
