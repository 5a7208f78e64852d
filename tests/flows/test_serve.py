"""Servers: who may ask them, which one a run finds, and that none outlives what it serves."""

import asyncio
import json
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl
import psutil
import pytest
import yaml
from curation import published_bytes, settings
from plain_diff import plain_diff
from rows import chat_rows, write_jsonl
from serving import ENDED, call, eventually, made_to_serve, state_of, without_prefect

from gristmill.flows import connection, logs, processes, reports, serve
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


# ------------------------------------------------------------------------------ reports


def test_a_report_opens_by_its_link_alone(monkeypatch, tmp_path):
    secret = "gristmill:secret"
    folder = tmp_path / "näme" / "v1"
    folder.mkdir(parents=True)
    monkeypatch.setenv(reports.PAGES, "https://prefect.example.org")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", secret)
    assert reports.link(folder) is None, "there is no report"
    (folder / "report.html").write_text("<p>here")
    (folder / "other.html").write_text("<p>hidden")
    link = reports.link(folder)
    path = link.removeprefix("https://prefect.example.org")
    written, proof = path.removeprefix("/gristmill/report/").split("/")
    assert answered(path, secret) == (200, b"<p>here")
    for wrong in (
        f"/gristmill/report/{written}/{'0' * len(proof)}",
        f"/gristmill/report/{written}",
        f"/gristmill/report/{written[:-2]}/{proof}",
        f"/gristmill/report/*/{proof}",
        f"/gristmill/report/ä/{proof}ä",
        "/gristmill/report/",
    ):
        assert answered(wrong, secret)[0] == 404
    assert answered(path, "another:secret")[0] == 404
    assert answered("/api/health", secret) == (0, b"the app")
    assert reports.link(folder, reports.CHANGES) is None, "there is no such page"
    (folder / reports.CHANGES).write_text("<p>changed")
    changed = reports.link(folder, reports.CHANGES).removeprefix("https://prefect.example.org")
    assert answered(changed, secret) == (200, b"<p>changed")
    assert answered(path, secret) == (200, b"<p>here")
    (folder / "report.html").unlink()
    assert answered(path, secret)[0] == 404
    monkeypatch.delenv(reports.PAGES)
    assert reports.link(folder) is None, "no server shows it"


def answered(path, secret):
    """Status and body of what a path gives, 0 for what the app behind answers."""
    sent = []

    async def app(scope, receive, send):
        sent.extend([{"status": 0}, {"body": b"the app"}])

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path}
    asyncio.run(reports.shown(app, secret)(scope, None, send))
    return sent[0]["status"], sent[1]["body"]


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


@pytest.fixture
def lone(monkeypatch, tmp_path):
    """No setting of Prefect, none to be kept, no server to be started; a clone that none serves."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(connection, "ROOT", tmp_path / "clone")
    monkeypatch.setattr(logs, "to_terminal", lambda: None)
    monkeypatch.setattr(processes, "start", lambda *_, **__: pytest.fail("a server was started"))
    return environment


@contextmanager
def answering():
    """The address of something that says once that it is well."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        threading.Thread(target=answer_once, args=(listening,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/api"


def test_a_server_of_the_users_is_asked_and_none_started(lone, tmp_path):
    with answering() as url:
        lone["PREFECT_API_URL"] = url
        connection.connect(str(tmp_path))
    assert lone["PREFECT_API_URL"] == url
    assert "PREFECT_API_AUTH_STRING" not in lone


def test_a_server_of_the_users_that_is_not_there_is_one_sentence(lone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        lone["PREFECT_API_URL"] = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    with pytest.raises(ValueError, match=r"no Prefect server answers at PREFECT_API_URL = http"):
        connection.connect(str(tmp_path))


@pytest.mark.parametrize("home", ["of the store", "of the clone", "named"])
def test_a_run_finds_the_server_that_is_there(lone, monkeypatch, tmp_path, home):
    store = tmp_path / "store"
    served = {
        "of the store": store / "prefect",
        "of the clone": connection.default_home(),
        "named": tmp_path / "named",
    }[home]
    served.mkdir(parents=True)
    if home == "named":
        lone["PREFECT_HOME"] = str(served)
    with answering() as url, connection.serving(served):
        connection.Address(url=url, secret="a:b").save(connection.address_file(served))
        connection.connect(str(store))
    assert (lone["PREFECT_API_URL"], lone["PREFECT_API_AUTH_STRING"]) == (url, "a:b")


def test_a_home_that_was_named_is_looked_at_alone(lone, monkeypatch, tmp_path):
    served = connection.default_home()
    served.mkdir(parents=True)
    lone["PREFECT_HOME"] = str(tmp_path / "named")
    own = connection.Address(url="http://127.0.0.1:1/api", secret="own:own")
    monkeypatch.setattr(connection, "temporary", lambda home: own)
    with connection.serving(served):
        other = connection.Address(url="http://127.0.0.1:1/api", secret="a:b")
        other.save(connection.address_file(served))
        monkeypatch.setattr(connection, "healthy", lambda url: pytest.fail(f"{url} was asked"))
        connection.connect(str(tmp_path / "store"))
    assert lone["PREFECT_API_AUTH_STRING"] == "own:own"


def test_who_asks_whether_a_home_is_served_keeps_no_one_from_serving_it(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        with connection.serving(tmp_path):
            waiting = pool.submit(served_after, tmp_path, 5.0)
            time.sleep(0.2)
        assert waiting.result()
        with connection.serving(tmp_path), pytest.raises(BlockingIOError):
            served_after(tmp_path, 0.1)


def served_after(home: Path, seconds: float) -> bool:
    with connection.serving(home, seconds):
        return True


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
    child.process.kill()
    child.process.wait()
    assert not child.alive()
    assert below[1].is_running()
    child.stop()
    _, left = psutil.wait_procs(below[1:], timeout=60)
    assert left == []


SERVED = """
import time
from gristmill.flows import processes
processes.end_with_server()
print("here", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_flow_ends_with_the_one_that_serves_it(monkeypatch, when):
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setenv("GRISTMILL_SERVED_BY", str(server.pid))
    if when == "before":
        server.kill()
        server.wait()
    with subprocess.Popen([sys.executable, "-c", SERVED], stdout=subprocess.PIPE) as flow:
        if when == "while":
            assert flow.stdout.readline() == b"here\n"
            server.kill()  # and nobody waits for it: it stays as a zombie
        assert flow.wait(timeout=30) == -signal.SIGTERM
    server.wait(timeout=30)


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


def connected(store: Path, environment: dict[str, str], seconds: float) -> subprocess.Popen:
    """A process that has connected as a run does, and waits."""
    return subprocess.Popen(
        [sys.executable, "-c", CONNECTED, str(store), str(seconds)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.fault("killed: a run with a server of its own")
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
    assert len(kept) == 1
    assert re.fullmatch(r"empty-[\d.]+\.db", kept[0])  # tables and no run, for the next start


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server for the tests below, which ends in order."""
    home = tmp_path_factory.mktemp("served") / "prefect"
    process, address = made_to_serve(home)
    try:
        yield process, address, home
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
    deployment = call(address, "/deployments/name/curate/curate")
    path, body = (
        f"/deployments/{deployment['id']}/create_flow_run",
        {"parameters": {"config": config}},
    )
    return eventually(lambda: call(address, path, body), seconds=60, process=process)


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

    (schedule,) = call(address, f"/deployments/{run['deployment_id']}")["schedules"]
    assert schedule["active"] is False, "nobody asked for a demo each night"
    path = f"/deployments/{run['deployment_id']}/schedules/{schedule['id']}"
    call(address, path, {"active": True}, method="PATCH")

    def scheduled():
        wanted = {
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
            "deployments": {"id": {"any_": [run["deployment_id"]]}},
        }
        return call(address, "/flow_runs/filter", wanted) or None

    runs = eventually(scheduled, seconds=120, process=process)
    assert all(r["auto_scheduled"] for r in runs)


@pytest.mark.slow
def test_a_paused_run_goes_on_by_the_api_and_by_the_page(served, tmp_path):
    from starlette.testclient import TestClient

    from gristmill.flows import reviewing
    from gristmill.pipeline.review import approval

    process, address, _ = served
    pool = write_jsonl(tmp_path / "pool.jsonl", chat_rows(12))

    def waits(name):
        config = {
            "name": name,
            "sources": [{"path": str(pool)}],
            "scorers": [{"method": "random"}],
            "select": {"budget": "50%"},
            "pause": "review",
            "store": str(tmp_path / "store"),
            "export": {"root": str(tmp_path / "curated")},
        }
        run = started(address, config, process)
        state = eventually(state_of(address, run, "PAUSED", *ENDED), seconds=200, process=process)
        assert state["type"] == "PAUSED", state
        return run

    def ended(run, *, as_):
        wanted = (*ENDED, "CANCELLED")
        state = eventually(state_of(address, run, *wanted), seconds=100, process=process)
        assert (state["type"], state["name"]) == as_, state

    def resumed(run, **said):
        return call(address, f"/flow_runs/{run['id']}/resume", {"run_input": said})["status"]

    def approved(name):
        folder = tmp_path / "curated" / name / "latest"
        return json.loads((folder / "manifest.json").read_text())["evaluation"]["approval"]

    run = waits("by_api")
    assert resumed(run, decision="approve") == "REJECT", "nobody's name"
    assert resumed(run, decision="approve", by="ann") == "ACCEPT"
    ended(run, as_=("COMPLETED", "Completed"))
    assert (approved("by_api")["verdict"], approved("by_api")["by"]) == ("approved", "ann")

    run = waits("by_page")
    (request,) = approval.waiting(tmp_path / "store")
    with TestClient(reviewing.approving(request.path).app) as page:
        sent = {"verdict": "approve", "by": "bob", "reason": ""}
        assert page.post("/decision", json=sent).status_code == 200
    ended(run, as_=("COMPLETED", "Completed"))
    assert approved("by_page")["by"] == "bob"

    run = waits("rejected")
    assert resumed(run, decision="reject", by="ann", reason="row 3 is rude") == "ACCEPT"
    ended(run, as_=("CANCELLED", "Rejected"))
    assert not (tmp_path / "curated" / "rejected").exists()


@pytest.mark.slow
def test_a_cron_deployment_fires_twice_and_the_second_run_reads_only_what_is_new(
    served, tiny, tmp_path
):
    process, address, _ = served
    incoming, home = tmp_path / "incoming", tmp_path / "curated" / "cron"
    write_jsonl(incoming / "a.jsonl", chat_rows(200))
    config = {
        "name": "cron",
        "sources": [{"path": f"{incoming}/*.jsonl"}],
        "models": {"target": str(tiny)},
        "scorers": [{"method": "perplexity"}],
        "select": {"budget": "100%"},
        "store": str(tmp_path / "store"),
        "export": {"root": str(home.parent)},
    }
    where = "/deployments/name/nightly/nightly"  # deployed some time after the first of them
    deployment = eventually(lambda: call(address, where), seconds=120, process=process)
    path = f"/deployments/{deployment['id']}"
    call(address, path, {"parameters": {"config": config}}, method="PATCH")
    minutely = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True}
    (schedule,) = call(address, f"{path}/schedules", [minutely])
    try:
        first = eventually(lambda: next(home.glob("v1-*/_SUCCESS"), 0), 400, process).parent
        new = write_jsonl(tmp_path / "b.jsonl", chat_rows(2, start=300))
        new.rename(incoming / "b.jsonl")
        second = eventually(lambda: next(home.glob("v2-*/_SUCCESS"), 0), 400, process).parent
    finally:
        call(address, f"{path}/schedules/{schedule['id']}", method="DELETE")

    def events(name: str, number: int):
        asked = {"filter": {"event": {"name": [name]}}}
        resource = {f"gristmill.dataset.{config['name']}", f"file://{home}"}

        def ask():
            found = call(address, "/events/filter", asked)["events"]
            mine = [e for e in found if e["resource"]["prefect.resource.id"] in resource]
            return mine if len(mine) >= number else None

        return eventually(ask, seconds=60, process=process)

    published = events("gristmill.dataset.published", 2)
    assert {e["payload"]["version"] for e in published} == {first.name, second.name}
    made = events("prefect.asset.materialization.succeeded", 2)
    assert {e["payload"]["version"] for e in made} == {first.name, second.name}
    of = {r["prefect.resource.id"] for r in made[0]["related"]}
    assert f"file://{incoming}/*.jsonl" in of, "what it was made from"

    runs = call(address, "/flow_runs/filter", {"deployments": {"id": {"any_": [deployment["id"]]}}})
    done = [r for r in runs if r["state_type"] == "COMPLETED"]
    assert len(done) >= 2
    assert all(r["auto_scheduled"] for r in done)
    asked = {"artifacts": {"key": {"any_": ["cron--observed"]}}, "sort": "ID_DESC"}
    told = [json.loads(a["data"])[0] for a in call(address, "/artifacts/filter", asked)]
    read = sorted(t["tokens read by models"] for t in told if t["tokens read by models"])
    assert len(read) == 2, "of all runs, two had anything to read"
    assert read[0] < 0.03 * read[1]
    ledgers = [pl.read_parquet(v / "ledger" / "*.parquet").to_dicts() for v in (first, second)]
    truth = plain_diff(*ledgers)
    told = json.loads((second / "diff.json").read_text("utf-8"))
    assert {(c["change"], c["reason"]): c["rows"] for c in told["changes"]} == truth["changes"]
    assert truth["changes"] == {("added", "new in the pool"): 2}
    assert [told["counts"][f"rows_{w}"] for w in ("before", "after")] == truth["rows"] == [200, 202]


@pytest.mark.slow
def test_serve_answers_its_own_alone_and_a_run_beside_it_asks_it(served, tmp_path):
    process, address, home = served
    answers_its_own_alone(address)
    with urllib.request.urlopen(address["url"].removesuffix("/api") + "/ui-settings") as answer:
        assert json.loads(answer.read())["auth"] == "BASIC"  # the UI asks for the secret
    with connected(tmp_path, without_prefect(PREFECT_HOME=str(home)), 0) as run:
        assert json.loads(run.stdout.readline()) == {k: address[k] for k in ("url", "secret")}
    second = subprocess.run(
        [sys.executable, "-m", "gristmill.flows.serve"],
        env=without_prefect(PREFECT_HOME=str(home)),
        check=False,
        capture_output=True,
        text=True,
    )
    assert (second.returncode, "is served already" in second.stderr) == (2, True)
    assert process.poll() is None


def command_line(process: psutil.Process) -> list[str]:
    """Of a process; nothing if it has ended meanwhile."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["gristmill.flows.server", "worker"])
@pytest.mark.fault("server or worker killed in the middle of a run")
def test_a_run_cut_off_by_a_crash_ends_and_the_next_one_runs(served, tiny, tmp_path, victim):
    process, address, _ = served
    config = settings(tmp_path, tiny)
    run = started(address, config, process)
    eventually(state_of(address, run, "RUNNING", *ENDED), seconds=200, process=process)
    family = [
        (p, line)
        for p in psutil.Process(process.pid).children(recursive=True)
        if (line := command_line(p))
    ]
    (one,) = [p for p, line in family if victim in line]
    flows = [p for p, line in family if "prefect.engine" in line]
    assert flows, "the run has ended already"
    one.kill()
    state = eventually(state_of(address, run, *ENDED), seconds=300, process=process)
    assert state["type"] == "CRASHED", state
    again = started(address, config, process)
    state = eventually(state_of(address, again, *ENDED), seconds=300, process=process)
    assert state["type"] == "COMPLETED", state
    assert not any(p.is_running() for p in flows)


@pytest.mark.slow
@pytest.mark.fault("server and worker killed at once")
def test_a_flow_ends_though_server_and_worker_are_killed_at_once(tiny, tmp_path):
    process, address = made_to_serve(tmp_path / "prefect")
    started(address, settings(tmp_path, tiny), process)
    journal = tmp_path / "store" / "journal.jsonl"
    eventually(lambda: "observe" in journal.read_text(), seconds=200, process=process)
    family = psutil.Process(process.pid).children(recursive=True)
    flows = [p for p in family if "prefect.engine" in command_line(p)]
    assert flows
    for one in {psutil.Process(process.pid), *family} - set(flows):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    _, left = psutil.wait_procs(family, timeout=60)
    assert left == []


@contextmanager
def command(root: Path, config: dict, **environment: str):
    """`gristmill run curate`, whose processes are marked, and all of them still there."""
    (root / "run.yaml").write_text(yaml.safe_dump(config))
    code = "from gristmill.flows.cli import main; main()"
    mark = uuid.uuid4().hex
    run = subprocess.Popen(
        [sys.executable, "-c", code, "run", "curate", str(root / "run.yaml")],
        env=without_prefect(GRISTMILL_TEST_RUN=mark, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with run:
        try:
            yield run, lambda: marked(mark)
        finally:
            run.kill()


def marked(mark: str) -> list[list[str]]:
    """The command lines of all processes of a run."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("GRISTMILL_TEST_RUN") == mark:
                found.append(command_line(process))
    return found


@pytest.mark.slow
def test_a_run_beside_a_server_completes_in_its_ui_and_starts_none(served, tiny, tmp_path):
    process, address, home = served
    config = settings(tmp_path, tiny, name="Beside_it", select={"budget": "100"})
    with command(tmp_path, config, PREFECT_HOME=str(home)) as (run, processes_of):
        eventually(runs_of(address, "curate-Beside_it"), seconds=120, process=run)
        assert len(processes_of()) == 1, "the run alone"
        out, err = run.communicate(timeout=200)
    assert (run.returncode, "published" in out) == (0, True), err
    (found,) = runs_of(address, "curate-Beside_it")()
    assert found["state"]["type"] == "COMPLETED"
    said = call(address, "/logs/filter", {"logs": {"flow_run_id": {"any_": [found["id"]]}}})
    warned = [line["message"] for line in said if line["level"] >= logging.WARNING]
    assert warned, "the budget asks for more rows than there are"
    assert set(warned) <= set(err.splitlines()), "said on the terminal and in the run's page"
    assert "Finished in state Completed()" in {line["message"] for line in said}
    assert "Finished in state" not in err
    assert process.poll() is None
    wanted = {"artifacts": {"flow_run_id": {"any_": [found["id"]]}, "key": {"like_": "beside"}}}
    made = {a["key"]: a for a in call(address, "/artifacts/filter", wanted)}
    whole, *parts = sorted(made)
    assert [p.removeprefix(whole) for p in parts] == ["--mixture", "--scores", "--verdicts"]
    (link,) = re.findall(r"\[open the report\]\((\S+)\)", made[whole]["data"])
    with urllib.request.urlopen(link) as answer:
        page = answer.read()
        assert "sandbox" in answer.headers["content-security-policy"]
    assert page == (tmp_path / "curated" / "Beside_it" / "latest" / "report.html").read_bytes()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{link[:-1]}{'0' if link[-1] != '0' else '1'}")


def runs_of(address: dict, name: str):
    wanted = {"flow_runs": {"name": {"any_": [name]}}}
    return lambda: call(address, "/flow_runs/filter", wanted)


@pytest.mark.slow
@pytest.mark.fault("stopped by Ctrl-C beside a server")
def test_a_run_stopped_beside_a_server_is_not_left_running_there(served, tiny, tmp_path):
    _, address, home = served
    config = settings(tmp_path, tiny, name="stopped")
    with command(tmp_path, config, PREFECT_HOME=str(home)) as (run, processes_of):
        journal = tmp_path / "store" / "journal.jsonl"
        eventually(lambda: "observe" in journal.read_text(), seconds=120, process=run)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
        assert not processes_of()
    assert (run.returncode, "run the same command again" in err) == (130, True)
    (found,) = runs_of(address, "curate-stopped")()
    assert found["state"]["type"] in ("CRASHED", "CANCELLED")
    with command(tmp_path, config, PREFECT_HOME=str(home)) as (run, _):
        out, err = run.communicate(timeout=200)
    assert (run.returncode, "published" in out) == (0, True), err


@pytest.mark.slow
@pytest.mark.fault("stopped by Ctrl-C twice, and by SIGTERM after it")
def test_a_run_that_is_stopped_again_while_it_stops_ends_as_after_once(tiny, tmp_path):
    config = settings(tmp_path, tiny)
    environment = {"PREFECT_HOME": str(tmp_path / "store" / "prefect")}
    with command(tmp_path, config, **environment) as (run, processes_of):
        until = time.monotonic() + 120
        while not reached("observing", tmp_path / "store"):
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            if run.poll() is None:
                run.send_signal(number)
            time.sleep(0.2)
        _, err = run.communicate(timeout=60)
        until = time.monotonic() + 30
        while processes_of() and time.monotonic() < until:
            time.sleep(0.2)
        assert not processes_of()
    # a later signal may find Python itself at its end, where nobody listens any more
    assert run.returncode in (128 + signal.SIGINT, -signal.SIGINT, -signal.SIGTERM), err
    assert "run the same command again" in err.splitlines()[-1]
    assert "Traceback" not in err
    with command(tmp_path, config, **environment) as (run, _):
        out, err = run.communicate(timeout=300)
    assert (run.returncode, "published" in out) == (0, True), err


@pytest.mark.slow
@pytest.mark.fault("cancelled from the UI in the middle of a run")
def test_a_run_cancelled_from_the_ui_ends_and_the_next_one_publishes(served, tiny, tmp_path):
    process, address, _ = served
    config = settings(tmp_path, tiny, name="cancelled")
    run = started(address, config, process)
    journal = tmp_path / "store" / "journal.jsonl"
    eventually(lambda: "observe" in journal.read_text(), seconds=200, process=process)
    asked = {"state": {"type": "CANCELLING", "name": "Cancelling"}}  # as its button does
    call(address, f"/flow_runs/{run['id']}/set_state", asked)
    ends = state_of(address, run, "CANCELLED", *ENDED)
    assert eventually(ends, seconds=200, process=process)["type"] == "CANCELLED"
    family = psutil.Process(process.pid).children(recursive=True)
    assert not [p for p in family if "prefect.engine" in command_line(p)]
    again = started(address, config, process)
    state = eventually(state_of(address, again, *ENDED), seconds=300, process=process)
    assert state["type"] == "COMPLETED", state
    assert published_bytes(tmp_path / "curated" / "cancelled" / "latest")


@pytest.mark.slow
@pytest.mark.fault("killed: the server of a run, as its subprocess", ends="refused")
def test_a_run_whose_own_server_is_killed_says_so_and_the_next_one_publishes(tiny, tmp_path):
    config = settings(tmp_path, tiny)
    (tmp_path / "temporary").mkdir()
    environment = {
        "PREFECT_HOME": str(tmp_path / "store" / "prefect"),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    with command(tmp_path, config, **environment) as (run, processes_of):
        until = time.monotonic() + 200
        while not reached("observing", tmp_path / "store"):
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        (server,) = psutil.Process(run.pid).children()
        server.kill()
        _, err = run.communicate(timeout=30)  # it does not wait for what nobody starts again
        assert not processes_of()
    assert not list((tmp_path / "temporary").glob("gristmill-prefect-*"))
    assert run.returncode == 2, err
    assert "run the same command again" in err.splitlines()[-1]
    assert "Traceback" not in err
    with command(tmp_path, config, **environment) as (run, _):
        out, err = run.communicate(timeout=300)
    assert (run.returncode, "published" in out) == (0, True), err


STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
MOMENTS = {
    "starting": lambda store: (store / "prefect").exists(),  # it connects: the server comes up
    "ingesting": lambda store: (store / "journal.jsonl").exists(),
    "observing": lambda store: "observe" in (store / "journal.jsonl").read_text(),
    "publishing": lambda store: '"select' in (store / "journal.jsonl").read_text(),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", STOPPED)
@pytest.mark.fault("stopped at four moments, by three signals")
def test_a_stopped_run_says_how_to_go_on_and_leaves_no_process(tiny, tmp_path, number, moment):
    (tmp_path / "temporary").mkdir()
    environment = {
        "PREFECT_HOME": str(tmp_path / "store" / "prefect"),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    with command(tmp_path, settings(tmp_path, tiny), **environment) as (run, processes_of):
        until = time.monotonic() + 120
        while not reached(moment, tmp_path / "store"):
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        if moment == "starting":
            time.sleep(random.uniform(0, 4))  # before, while and after the server comes up
        run.send_signal(number)
        _, err = run.communicate(timeout=60)
        until = time.monotonic() + 30
        while processes_of() and time.monotonic() < until:
            time.sleep(0.2)
        assert not processes_of()
    assert not list((tmp_path / "temporary").glob("gristmill-prefect-*"))
    assert run.returncode == STOPPED[number], err
    if number != signal.SIGKILL:
        said = err.strip().splitlines()[-1]
        assert said.startswith(f"gristmill: stopped by {number.name}"), err
        assert "is kept in the store" in said
        assert "run the same command again" in said
        assert "Traceback" not in err


def reached(moment: str, store: Path) -> bool:
    with suppress(OSError):
        return MOMENTS[moment](store)
    return False


def test_what_waited_in_a_process_that_is_gone_is_marked_as_crashed(monkeypatch):
    """A run that is paused holds its process; one that is suspended has none, and goes on later."""
    import prefect.client.orchestration
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Paused, Running, Suspended

    states = {"paused": Paused(), "suspended": Suspended(), "running": Running()}
    marked = {}

    class Client:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *error):
            return None

        async def read_flow_runs(self, *, flow_run_filter, work_pool_filter):
            asked = flow_run_filter.state.type.any_
            runs = [FlowRun(flow_id=uuid.uuid4(), name=n, state=s) for n, s in states.items()]
            self.names = {run.id: run.name for run in runs}
            return [run for run in runs if run.state.type in asked]

        async def set_flow_run_state(self, ident, state, force):
            marked[self.names[ident]] = state.name

    monkeypatch.setattr(prefect.client.orchestration, "get_client", Client)
    asyncio.run(serve.settle())
    assert marked == {"paused": "Crashed", "running": "Crashed"}
