"""A server that is out of reach, and a run that stands still: the right data, or a sentence."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from curation import published_bytes, settings, walk_through
from outage import Way
from serving import ENDED, call, eventually, made_to_serve, state_of, without_prefect

from gristmill.flows import config as configs
from gristmill.pipeline.export import verify
from gristmill.pipeline.records.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    process, address = made_to_serve(tmp_path_factory.mktemp("served") / "prefect")
    try:
        yield process, address
    finally:
        process.terminate()
        process.wait(timeout=90)


@pytest.fixture(scope="module")
def truth(tmp_path_factory, tiny) -> dict[str, str]:
    """The bytes of an undisturbed run."""
    run = configs.CurateConfig.model_validate(settings(tmp_path_factory.mktemp("calm"), tiny))
    return published_bytes(walk_through(run))


def command(root: Path, tiny: Path, **environment: str) -> subprocess.Popen:
    (root / "run.yaml").write_text(yaml.safe_dump(settings(root, tiny)))
    code = "from gristmill.flows.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", "curate", str(root / "run.yaml")],
        env=without_prefect(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(root: Path, step: str, process: subprocess.Popen) -> None:
    journal = root / "store" / "journal.jsonl"
    eventually(lambda: step in journal.read_text(), seconds=200, process=process)


def ended(process: subprocess.Popen, seconds: float) -> tuple[int, str]:
    try:
        _, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"it has not ended within {seconds} s: {process.communicate()[1][-2_000:]}")
    return process.returncode, err


def right(root: Path, truth: dict[str, str]) -> None:
    folder = root / "curated" / "toy" / "latest"
    assert verify.verify(folder) == []
    assert published_bytes(folder.resolve()) == truth
    made = [(e["step"], e["key"], e["part"]) for e in Store(root=root / "store").computed()]
    assert len(made) == len(set(made)), "each part was made once"


@pytest.mark.fault("unreachable server: at the start of a run", ends="refused")
def test_a_run_whose_server_is_not_there_says_so_and_starts_nothing(tiny, tmp_path):
    nowhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    code, err = ended(command(tmp_path, tiny, **nowhere), 60)
    assert code == 2
    assert "no Prefect server answers at PREFECT_API_URL = http://127.0.0.1:9/api" in err
    assert not (tmp_path / "curated").exists()


@pytest.mark.fault("unreachable server: for five seconds in the middle of a run")
def test_a_run_goes_on_when_its_server_is_reached_again(served, tiny, tmp_path, truth):
    _, address = served
    way = Way(address["url"])
    known = {"PREFECT_API_URL": way.url, "PREFECT_API_AUTH_STRING": address["secret"]}
    with command(tmp_path, tiny, **known) as run:
        until(tmp_path, "observe", run)
        way.cut()
        time.sleep(5)
        way.mend()
        code, err = ended(run, 240)
    way.cut()
    assert code == 0, err
    right(tmp_path, truth)


@pytest.mark.fault("unreachable server: from the middle of a run on", ends="refused")
def test_a_run_whose_server_stays_away_ends_in_a_sentence(served, tiny, tmp_path, truth):
    _, address = served
    way = Way(address["url"])
    known = {"PREFECT_API_URL": way.url, "PREFECT_API_AUTH_STRING": address["secret"]}
    with command(tmp_path, tiny, **known, PREFECT_CLIENT_MAX_RETRIES="0") as run:
        until(tmp_path, "observe", run)
        way.cut()
        code, err = ended(run, 240)
    assert code == 2, err
    assert "no longer answers; every finished part is kept in the store" in err
    direct = {**known, "PREFECT_API_URL": address["url"]}
    code, err = ended(command(tmp_path, tiny, **direct), 240)
    assert code == 0, err
    right(tmp_path, truth)


@pytest.mark.fault("stopped by SIGSTOP until the server took it for dead, then let go on")
def test_a_run_that_stood_still_and_the_one_after_it_end_in_the_same_data(
    served, tiny, tmp_path, truth, record_property
):
    process, address = served
    deployment = call(address, "/deployments/name/curate/curate")
    path = f"/deployments/{deployment['id']}/create_flow_run"
    config = json.loads(json.dumps(settings(tmp_path, tiny)))

    def start():
        return eventually(
            lambda: call(address, path, {"parameters": {"config": config}}), 60, process
        )

    first = start()
    until(tmp_path, "observe", process)
    (flow,) = flows_of(process)
    os.kill(flow.pid, signal.SIGSTOP)
    try:
        state = eventually(state_of(address, first, *ENDED), seconds=300, process=process)
        assert state["type"] == "CRASHED", state
        second = start()
        eventually(state_of(address, second, "RUNNING", *ENDED), seconds=200, process=process)
        time.sleep(5)  # it comes to what the first one has begun
    finally:
        os.kill(flow.pid, signal.SIGCONT)
    state = eventually(state_of(address, second, *ENDED), seconds=300, process=process)
    assert state["type"] == "COMPLETED", state
    eventually(lambda: not flow.is_running(), seconds=120, process=process)
    right(tmp_path, truth)
    record_property("fault", ("right", 2))


def flows_of(process: subprocess.Popen) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            line = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        found += [child] if "prefect.engine" in line else []
    return found
