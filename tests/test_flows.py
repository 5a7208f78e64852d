"""Flows: the same run under Prefect, twice; killed at random moments; deployed and scheduled."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import polars as pl
import pytest
import yaml
from conftest import chat_rows, write_jsonl

from gristmill.flows import cleaning, publishing, steps
from gristmill.flows import config as configs
from gristmill.pipeline.store import sha256, walk

ROOT = Path(__file__).parents[1]


def settings(root: Path, tiny: Path, **more) -> dict:
    """A demo-like run on toy rows and the tiny model, with copies and broken rows."""
    rows = chat_rows(60)
    pool = write_jsonl(root / "pool.jsonl", rows + rows[:5])
    with pool.open("a") as file:
        file.write('{"messages": []}\n{"broken\n')
    target = write_jsonl(root / "target.jsonl", chat_rows(4, start=90))
    return {
        "name": "toy",
        "sources": [{"path": str(pool), "license": "MIT"}],
        "reference": [{"path": str(target)}],
        "models": {"target": str(tiny), "embedder": str(tiny)},
        "scorers": [
            {"method": m} for m in ("rds_plus", "ifd", "embedding_similarity", "length", "random")
        ],
        "select": {"budget": "20%"},
        "store": str(root / "store"),
        "export": {"root": str(root / "curated")},
        "shard_rows": 16,
        **more,
    }


def walk_through(run: configs.CurateConfig) -> Path:
    """The flow's tasks in order, without Prefect."""
    pool = steps.ingest_pool(run)
    reference = steps.ingest_reference(run)
    steps.prepare_all(run, pool, reference)
    steps.observe_all(run, pool, reference)
    scores = {s.method: steps.score_one(run, s.method, pool, reference) for s in run.scorers}
    drops = cleaning.clean(run, pool, reference, scores[run.select.by or run.scorers[0].method])
    ledger = steps.select_rows(run, scores, pool, drops)
    return publishing.publish(run, ledger, pool, reference)


def published_bytes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in walk(folder) if p.name != "run.json"}


@pytest.fixture(scope="module")
def prefect_backend():
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


def test_a_run_under_prefect_publishes_and_a_second_one_loads_no_model(
    prefect_backend, tiny, tmp_path, capsys
):
    import datasets

    from gristmill.flows import console
    from gristmill.flows.curate import curate
    from gristmill.pipeline.models.load import loaded

    run = configs.CurateConfig.model_validate(settings(tmp_path, tiny))
    before = len(loaded())
    found = []
    console.publishing(lambda: found.append(curate(run)) or found[0], tmp_path / "curated" / "toy")
    folder = Path(found[0])
    told = capsys.readouterr()
    assert f"published  {folder}" in told.out
    assert "target: dialogue" in told.err
    assert "nothing was to do" not in told.out
    assert len(loaded()) == before + 2, "target and embedder, once each"
    ledger = pl.concat([pl.read_parquet(p) for p in (folder / "ledger").glob("*.parquet")])
    assert ledger.height == 67
    reasons = dict(ledger.group_by("reason").len().iter_rows())
    assert reasons["exact_duplicate"] == 5
    assert ledger["verdict"].value_counts().sort("verdict")["count"].to_list() == [53, 12, 2]
    data = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert data["train"].num_rows == 12
    first = published_bytes(folder)

    console.publishing(lambda: found.append(curate(run)) or found[1], tmp_path / "curated" / "toy")
    told = capsys.readouterr()
    assert told.out.splitlines()[0].startswith("nothing was to do")
    assert "target: dialogue" not in told.err
    assert found[1] == found[0]
    assert len(loaded()) == before + 2, "the rerun loads no model"
    assert published_bytes(folder) == first


def test_the_same_inputs_elsewhere_give_the_same_bytes(tiny, tmp_path):
    folders = []
    for name in ("a", "b"):
        run = configs.CurateConfig.model_validate(settings(tmp_path / name, tiny))
        folders.append(walk_through(run))
    assert folders[0].name == folders[1].name
    assert published_bytes(folders[0]) == published_bytes(folders[1])


KILLED = """
import sys, yaml
from pathlib import Path
sys.path.insert(0, {tests!r})
from gristmill.flows import config
from test_flows import walk_through
print(walk_through(config.read(Path(sys.argv[1]))))
"""


def killed_run(root: Path, tiny: Path, after: float | None) -> subprocess.CompletedProcess:
    root.mkdir(parents=True, exist_ok=True)
    (root / "run.yaml").write_text(yaml.safe_dump(settings(root, tiny)))
    code = KILLED.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, str(root / "run.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def kill_at_random_moments(tmp_path, tiny, moments):
    begun = time.monotonic()
    whole = killed_run(tmp_path / "whole", tiny, None)
    seconds = time.monotonic() - begun
    assert whole.returncode == 0, whole.stderr
    truth = published_bytes(Path(whole.stdout.strip()))
    draw = random.Random(0)
    hit = 0
    for k in range(moments):
        root = tmp_path / f"killed-{k}"
        # the first part of a run is imports, where there is nothing to lose
        first = killed_run(root, tiny, seconds * draw.uniform(0.3, 1.0))
        hit += first.returncode == -signal.SIGKILL
        second = killed_run(root, tiny, None)
        assert second.returncode == 0, second.stderr
        folder = Path(second.stdout.strip())
        assert published_bytes(folder) == truth
        lines = (root / "store" / "journal.jsonl").read_text().splitlines()
        made = [(j["step"], j["key"], j["part"]) for j in map(json.loads, lines) if "part" in j]
        assert len(made) - len(set(made)) <= 1, "only the part in flight is made again"
    return hit


def test_killed_twice_a_rerun_ends_byte_identical(tmp_path, tiny):
    kill_at_random_moments(tmp_path, tiny, 2)


@pytest.mark.slow
def test_killed_at_twenty_random_moments_every_rerun_ends_byte_identical(tmp_path, tiny):
    assert kill_at_random_moments(tmp_path, tiny, 20) >= 10


def test_the_schema_of_the_form_refuses_what_the_run_would(tiny, tmp_path):
    good = settings(tmp_path, tiny)
    for wrong in (
        {"name": "../x"},
        {"scorers": []},
        {"sources": []},
        {"unknown": 1},
        {"shard_rows": 0},
    ):
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump(good | wrong))
        with pytest.raises(ValueError, match=next(iter(wrong))) as error:
            configs.read(tmp_path / "bad.yaml")
        assert len(str(error.value).splitlines()) == 1


def test_the_deployment_is_the_demo():
    deployment = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][0]
    run = configs.CurateConfig.model_validate(deployment["parameters"]["config"])
    demo = configs.read(ROOT / "data" / "demo" / "curate.yaml")
    assert [s.path for s in run.sources] == [s.path for s in demo.sources]
    assert run.models == demo.models


def call(api: str, path: str, body: dict | None = None) -> dict | list:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        api + path, data=data, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
def test_a_deployed_run_with_a_changed_parameter_completes_and_the_cron_schedules(tiny, tmp_path):
    """`make serve`, then what the UI's form does: create a run through the API."""
    import datasets

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_HOME": str(tmp_path / "prefect"),
    }
    serve = subprocess.Popen([sys.executable, "-m", "gristmill.flows.serve"], env=environment)
    try:
        deployment = eventually(
            lambda: call(api, "/deployments/name/curate/nightly"), seconds=240, process=serve
        )
        config = settings(tmp_path, tiny, select={"budget": "7"})
        run = call(
            api,
            f"/deployments/{deployment['id']}/create_flow_run",
            {"parameters": {"config": config}},
        )

        def ended():
            state = call(api, f"/flow_runs/{run['id']}")["state"]
            return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED"} else None

        state = eventually(ended, seconds=300, process=serve)
        assert state["type"] == "COMPLETED", state
        data = datasets.load_dataset(
            str(tmp_path / "curated" / "toy" / "latest"), cache_dir=str(tmp_path / "cache")
        )
        assert data["train"].num_rows == 7

        def scheduled():
            wanted = {
                "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
                "deployments": {"id": {"any_": [deployment["id"]]}},
            }
            return call(api, "/flow_runs/filter", wanted) or None

        runs = eventually(scheduled, seconds=120, process=serve)
        assert all(r["auto_scheduled"] for r in runs)
    finally:
        serve.terminate()
        serve.wait(timeout=90)


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
