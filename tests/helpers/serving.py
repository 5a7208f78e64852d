"""`make serve` as a test has it: a process of its own, asked as a browser or a command would."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from gristmill.flows import connection

BUSY = 503  # SQLite is locked: Prefect asks to be asked again


def call(
    address: dict, path: str, body: dict | None = None, *, method: str | None = None, **headers: str
) -> dict | list | None:
    data = None if body is None else json.dumps(body).encode()
    known = {"Content-Type": "application/json"}
    if address["secret"]:
        token = base64.b64encode(address["secret"].encode()).decode()
        known["Authorization"] = f"Basic {token}"
    url = address["url"] + path
    request = urllib.request.Request(url, data=data, headers=known | headers, method=method)
    for pause in (1, 2, 4, 8, 0):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code != BUSY or not pause:
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def without_prefect(**more: str) -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}, **more}


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


def made_to_serve(home: Path, **more: str) -> tuple[subprocess.Popen, dict]:
    """`make serve` in a Prefect home of its own: its process, and its address once it is up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = without_prefect(PREFECT_SERVER_API_PORT=str(port), PREFECT_HOME=str(home), **more)
    process = subprocess.Popen([sys.executable, "-m", "gristmill.flows.serve"], env=environment)

    def address():
        known = connection.Address.load(connection.address_file(home))
        if known is not None:
            call(vars(known), "/deployments/name/curate/curate")
        return known

    try:
        return process, vars(eventually(address, seconds=300, process=process))
    except BaseException:
        process.terminate()
        raise


def state_of(address: dict, run: dict, *wanted: str):
    def ask():
        state = call(address, f"/flow_runs/{run['id']}")["state"]
        return state if state["type"] in wanted else None

    return ask


ENDED = ("COMPLETED", "FAILED", "CRASHED")
