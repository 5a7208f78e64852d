"""Servers: who may ask them, which one a run finds, and that none outlives what it serves."""

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml
from curation import settings

from gristmill.flows import connection, processes, serve
from gristmill.flows.server import Names, guarded

NAMES = Names.of({"PREFECT_SERVER_API_PORT": "4200"})
SHARED = Names.of(
    {
        "PREFECT_SERVER_API_PORT": "4200",
        "PREFECT_SERVER_API_HOST": "0.0.0.0",
        "PREFECT_UI_API_URL": "https://Prefect.example.org/api",
    }
)


# ---------------------------------------------------------------------------- the guard


@pytest.mark.parametrize(
    ("names", "host", "origin", "answered"),
    [
        (NAMES, "127.0.0.1:4200", None, True),
        (NAMES, "LOCALHOST:4200", "http://localhost:4200", True),
        (NAMES, "[::1]:4200", "http://[::1]:4200", True),
        (NAMES, "127.0.0.1:4200", "http://evil.example", False),
        (NAMES, "127.0.0.1:4200", "http://localhost:8080", False),
        (NAMES, "127.0.0.1:4200", "https://127.0.0.1:4200", False),
        (NAMES, "127.0.0.1:4200", "null", False),
        (NAMES, "127.0.0.1:4200", "http://127.0.0.1:4200.evil.example", False),
        (NAMES, "evil.example:4200", None, False),  # rebinding: the name leads here
        (NAMES, "evil.example:4200", "http://evil.example:4200", False),
        (NAMES, "127.0.0.1.evil.example", None, False),
        (NAMES, "127.0.0.1@evil.example", None, False),
        (NAMES, "[", None, False),
        (NAMES, "", None, False),
        (NAMES, None, None, False),
        (SHARED, "prefect.example.org", "https://prefect.example.org", True),
        (SHARED, "prefect.example.org", "http://prefect.example.org", False),
        (SHARED, "0.0.0.0:4200", None, False),
        (SHARED, "other.example.org", None, False),
    ],
)
def test_foreign_hosts_and_origins_are_refused(names, host, origin, answered):
    headers = [(b"Host", host), (b"origin", origin)]
    headers = [(k, v.encode()) for k, v in headers if v is not None]
    for kind in ("http", "websocket"):
        got, sent = asyncio.run(asked(names, kind, headers))
        assert got == answered
        refusal = {"http": "http.response.start", "websocket": "websocket.close"}[kind]
        assert [m["type"] for m in sent[:1]] == ([] if answered else [refusal])
        assert all(m.get("status", 403) == 403 for m in sent)


def test_a_second_host_header_is_refused():
    headers = [(b"host", b"127.0.0.1:4200"), (b"host", b"evil.example")]
    assert asyncio.run(asked(NAMES, "http", headers))[0] is False


async def asked(names, kind, headers):
    """Whether the app behind the guard was reached, and what the guard sent itself."""
    reached, sent = [], []

    async def app(scope, receive, send):
        reached.append(scope["type"])

    async def receive():
        return {"type": f"{kind}.connect"}

    async def send(message):
        sent.append(message)

    await guarded(app, names)({"type": kind, "headers": headers}, receive, send)
    return bool(reached), sent


def test_serve_names_its_own_origins_whatever_is_set(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "*")
    monkeypatch.delenv("PREFECT_UI_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", "4321")
    origins = serve.environment()["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert origins == ["http://127.0.0.1:4321", "http://[::1]:4321", "http://localhost:4321"]


# ------------------------------------------------------------------- secret and address


def test_the_secret_is_made_once_and_read_by_its_owner_alone(monkeypatch, tmp_path):
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    first = serve.secret(tmp_path)
    assert re.fullmatch(r"gristmill:[\w-]{32}", first)
    assert serve.secret(tmp_path) != first
    path = connection.address_file(tmp_path)
    path.write_text("{}")
    path.chmod(0o644)
    connection.Address(url="http://127.0.0.1:1/api", secret=first).save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert serve.secret(tmp_path) == first
    assert [p.name for p in tmp_path.iterdir()] == ["server.json"]
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "mine:own")
    assert serve.secret(tmp_path) == "mine:own"


def test_a_server_counts_only_while_someone_serves_and_it_answers(tmp_path):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        address = connection.Address(url=url, secret="a:b")
        address.save(connection.address_file(tmp_path))
        assert connection.served(tmp_path) is None, "a file that a dead server left"
        threading.Thread(target=answer_once, args=(listening,), daemon=True).start()
        with connection.serving(tmp_path):
            assert connection.served(tmp_path) == address
            with pytest.raises(BlockingIOError), connection.serving(tmp_path):
                pass


def answer_once(listening):
    taken, _ = listening.accept()
    with taken:
        taken.recv(4096)
        taken.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ntrue")


def test_a_server_of_the_users_is_asked_and_none_started(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.org/api")
    for name in ("PREFECT_HOME", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    with monkeypatch.context() as change:
        change.setattr(processes, "start", lambda *_, **__: pytest.fail("a server was started"))
        change.setattr(os, "environ", dict(os.environ))
        connection.connect(str(tmp_path))
        assert os.environ["PREFECT_API_URL"] == "https://prefect.example.org/api"
        assert "PREFECT_API_AUTH_STRING" not in os.environ


# ------------------------------------------------------------------------------ children

PARENT = """
import subprocess, sys, time
from gristmill.flows import processes
child = processes.start("family")
print(child.process.pid, flush=True)
time.sleep(600)
"""
FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A module that starts a process of its own, as Prefect's worker does."""
    (tmp_path / "family.py").write_text(FAMILY)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)


def grown(pid: int) -> list[psutil.Process]:
    """A process and its one child, once that is there."""
    parent = psutil.Process(pid)
    until = time.monotonic() + 60
    while not parent.children():
        assert time.monotonic() < until
        time.sleep(0.05)
    return [parent, *parent.children(recursive=True)]


def test_children_end_when_their_parent_is_killed(family):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    with parent:
        below = grown(int(parent.stdout.readline()))
        parent.kill()
    _, left = psutil.wait_procs(below, timeout=60)
    assert left == []


def test_what_a_killed_child_has_started_is_ended(family):
    child = processes.start("family")
    below = grown(child.process.pid)
    assert child.alive()
    child.process.kill()
    child.process.wait()
    assert not child.alive()
    assert below[1].is_running()
    child.stop()
    assert not below[1].is_running()


def test_what_dies_too_often_is_given_up(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    deaths = []
    for _ in range(4):
        serve.pause("worker", deaths)
    assert waits == [1, 5, 15, 60]
    with pytest.raises(ValueError, match=r"the worker died, the 5th death within 10 minutes"):
        serve.pause("worker", deaths)
    old = [d - 601 for d in deaths]
    serve.pause("worker", old)
    assert waits[-1] == 1


# ------------------------------------------------------------------------- real servers


def call(address: dict, path: str, body: dict | None = None, **headers: str) -> dict | list:
    data = None if body is None else json.dumps(body).encode()
    known = {"Content-Type": "application/json"}
    if address["secret"]:
        token = base64.b64encode(address["secret"].encode()).decode()
        known["Authorization"] = f"Basic {token}"
    request = urllib.request.Request(address["url"] + path, data=data, headers=known | headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def refused_as(address: dict, **headers: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as refused:
        call(address, "/flow_runs/count", {}, **headers)
    with refused.value as answer:
        return answer.code


def answers_its_own_alone(address: dict) -> None:
    assert call(address, "/flow_runs/count", {}) >= 0
    own = address["url"].removesuffix("/api")
    assert call(address, "/flow_runs/count", {}, Origin=own) >= 0
    assert refused_as(address | {"secret": ""}) == 401
    assert refused_as(address | {"secret": "gristmill:guess"}) == 401
    assert refused_as(address, Origin="http://evil.example") == 403
    assert refused_as(address, Host="evil.example") == 403


CONNECTED = """
import json, os, sys, time
from gristmill.flows import connection
connection.connect(sys.argv[1])
url, secret = os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"]
print(json.dumps({"url": url, "secret": secret}), flush=True)
time.sleep(float(sys.argv[2]))
"""


def without_prefect(**more: str) -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}, **more}


def connected(store: Path, environment: dict[str, str], seconds: float) -> subprocess.Popen:
    """A process that has connected as a run does, and waits."""
    return subprocess.Popen(
        [sys.executable, "-c", CONNECTED, str(store), str(seconds)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_runs_own_server_is_guarded_and_ends_with_it_however_it_dies(tmp_path):
    (tmp_path / "temporary").mkdir()
    environment = without_prefect(TMPDIR=str(tmp_path / "temporary"))
    with connected(tmp_path / "store", environment, 600) as run:
        address = json.loads(run.stdout.readline())
        answers_its_own_alone(address)
        below = psutil.Process(run.pid).children(recursive=True)
        assert len(below) == 1
        assert any((tmp_path / "temporary").glob("gristmill-prefect-*/prefect.db"))
        run.kill()
    _, left = psutil.wait_procs(below, timeout=60)
    assert left == []
    assert not list((tmp_path / "temporary").glob("gristmill-prefect-*"))
    kept = sorted(p.name for p in (tmp_path / "store" / "prefect").iterdir())
    assert kept[0] == ".serving"
    assert re.fullmatch(r"empty-[\d.]+\.db", kept[1])  # tables and no run, for the next start
    assert len(kept) == 2


def eventually(ask, seconds, process):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, "the server ended"
        try:
            found = ask()
        except OSError:
            found = None
        if found:
            return found
        time.sleep(1)
    raise AssertionError(f"nothing within {seconds} s")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`make serve` in a Prefect home of its own: its process, and its address once it is up."""
    home = tmp_path_factory.mktemp("served") / "prefect"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = without_prefect(PREFECT_SERVER_API_PORT=str(port), PREFECT_HOME=str(home))
    process = subprocess.Popen([sys.executable, "-m", "gristmill.flows.serve"], env=environment)

    def address():
        known = connection.Address.load(connection.address_file(home))
        if known is not None:
            call(vars(known), "/deployments/name/curate/nightly")
        return known

    try:
        yield process, vars(eventually(address, seconds=300, process=process)), home
        below = psutil.Process(process.pid).children(recursive=True)
        assert below
    finally:
        process.terminate()
        process.wait(timeout=90)
    assert process.returncode == 128 + signal.SIGTERM
    _, left = psutil.wait_procs(below, timeout=10)
    assert left == []


def started(address: dict, config: dict, process: subprocess.Popen) -> dict:
    """What the UI's form does: a run with a changed parameter; asked again while told 503."""
    deployment = call(address, "/deployments/name/curate/nightly")
    path, body = (
        f"/deployments/{deployment['id']}/create_flow_run",
        {"parameters": {"config": config}},
    )
    return eventually(lambda: call(address, path, body), seconds=60, process=process)


def state_of(address: dict, run: dict, *wanted: str):
    def ask():
        state = call(address, f"/flow_runs/{run['id']}")["state"]
        return state if state["type"] in wanted else None

    return ask


ENDED = ("COMPLETED", "FAILED", "CRASHED")


@pytest.mark.slow
def test_a_deployed_run_with_a_changed_parameter_completes_and_the_cron_schedules(
    served, tiny, tmp_path
):
    import datasets

    process, address, _ = served
    run = started(address, settings(tmp_path, tiny, select={"budget": "7"}), process)
    state = eventually(state_of(address, run, *ENDED), seconds=300, process=process)
    assert state["type"] == "COMPLETED", state
    data = datasets.load_dataset(
        str(tmp_path / "curated" / "toy" / "latest"), cache_dir=str(tmp_path / "cache")
    )
    assert data["train"].num_rows == 7

    def scheduled():
        wanted = {
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
            "deployments": {"id": {"any_": [run["deployment_id"]]}},
        }
        return call(address, "/flow_runs/filter", wanted) or None

    runs = eventually(scheduled, seconds=120, process=process)
    assert all(r["auto_scheduled"] for r in runs)


@pytest.mark.slow
def test_serve_answers_its_own_alone_and_a_run_beside_it_asks_it(served, tmp_path):
    process, address, home = served
    answers_its_own_alone(address)
    with urllib.request.urlopen(address["url"].removesuffix("/api") + "/ui-settings") as answer:
        assert json.loads(answer.read())["auth"] == "BASIC"  # the UI asks for the secret
    with connected(tmp_path, without_prefect(PREFECT_HOME=str(home)), 0) as run:
        assert json.loads(run.stdout.readline()) == address
    second = subprocess.run(
        [sys.executable, "-m", "gristmill.flows.serve"],
        env=without_prefect(PREFECT_HOME=str(home)),
        check=False,
        capture_output=True,
        text=True,
    )
    assert (second.returncode, "is served already" in second.stderr) == (2, True)
    assert process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["gristmill.flows.server", "worker"])
def test_a_run_cut_off_by_a_crash_ends_and_the_next_one_runs(served, tiny, tmp_path, victim):
    process, address, _ = served
    config = settings(tmp_path, tiny)
    run = started(address, config, process)
    eventually(state_of(address, run, "RUNNING", *ENDED), seconds=200, process=process)
    family = psutil.Process(process.pid).children(recursive=True)
    (one,) = [p for p in family if victim in p.cmdline()]
    flows = [p for p in family if "prefect.engine" in p.cmdline()]
    assert flows, "the run has ended already"
    one.kill()
    state = eventually(state_of(address, run, *ENDED), seconds=300, process=process)
    assert state["type"] == "CRASHED", state
    again = started(address, config, process)
    state = eventually(state_of(address, again, *ENDED), seconds=300, process=process)
    assert state["type"] == "COMPLETED", state
    assert not any(p.is_running() for p in flows)


@pytest.mark.slow
def test_a_stopped_run_says_how_to_go_on_and_leaves_no_process(tiny, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path, tiny)))
    code = "import sys; from gristmill.flows.cli import main; main()"
    run = subprocess.Popen(
        [sys.executable, "-c", code, "run", "curate", str(path)],
        env=without_prefect(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with run:
        journal = tmp_path / "store" / "journal.jsonl"
        eventually(lambda: "observe" in journal.read_text(), seconds=300, process=run)
        below = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=90)
    assert run.returncode == 130, err
    assert err.strip().splitlines()[-1].startswith("gristmill: stopped by SIGINT")
    assert "Traceback" not in err
    _, left = psutil.wait_procs(below, timeout=60)
    assert left == []
