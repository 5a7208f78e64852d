"""Flows: the same run under Prefect, twice; killed at random moments; settings that are none."""

import base64
import html
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
import warm
import yaml
from curation import published_bytes, settings, walk_through
from repository import ROOT
from rows import chat_rows, pair_rows, write_jsonl

from gristmill.flows import config as configs
from gristmill.flows import console, publishing, synthesis_config


@pytest.mark.parametrize(
    ("one", "other"),
    [("a.b", "a_b"), ("A", "a"), ("demo", "demo-"), ("demo--scores", "demo"), ("x-y", "x--y")],
)
def test_each_dataset_has_keys_of_its_own(one, other):
    from gristmill.flows import artifacts

    keys = [artifacts.key(name, part) for name in (one, other) for part in ("", "scores")]
    assert len(set(keys)) == 4
    assert all(re.fullmatch("[a-z0-9-]+", key) for key in keys)
    assert artifacts.key("demo") == "demo"


def test_an_asset_has_a_key_that_prefect_takes_and_no_other_has(tmp_path):
    from prefect.assets import Asset

    from gristmill.flows import assets

    paths = ["a b", "a#b", "a_b", "data/*.jsonl", "x" * 600, "x" * 601, "hf://org/name@main"]
    keys = [assets.key(path) for path in paths]
    assert len(set(keys)) == len(paths)
    assert all(Asset(key=key).key == key for key in keys)
    assert keys[-1] == "hf://org/name@main"
    assert assets.key(str(tmp_path)) == f"file://{tmp_path}"


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
    shows_what_came_of_it(folder)
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


def test_a_nightly_run_under_prefect_says_what_changed_and_ends_unchanged(
    prefect_backend, tiny, tmp_path
):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    from gristmill.flows import artifacts
    from gristmill.flows.nightly import nightly
    from gristmill.flows.nightly_config import NightlyConfig

    folder = tmp_path / "incoming"
    write_jsonl(folder / "a.jsonl", chat_rows(30))
    given = settings(tmp_path, tiny, name="grows", scorers=[{"method": "length"}], reference=[])
    given |= {"sources": [{"path": f"{folder}/*.jsonl"}], "select": {"budget": "100%"}}
    config = NightlyConfig.model_validate({**given, "drift": {"new_sources": 0}})
    first = Path(nightly(config))
    write_jsonl(folder / "b.jsonl", chat_rows(2, start=50))
    second = Path(nightly(config))
    assert Path(nightly(config)) == second != first
    with get_client(sync_client=True) as client:
        runs = [r for r in client.read_flow_runs() if r.name == "nightly-grows"]
        keys = [artifacts.key("grows", part) for part in ("diff", "diff-changes")]
        mine = ArtifactFilter(key=ArtifactFilterKey(any_=keys))
        told = {a.key: a.data for a in client.read_artifacts(artifact_filter=mine)}
    states = {r.state.name: r.state.message for r in runs}
    assert states["Unchanged"].startswith("there is nothing new: grows v2-")
    assert len(runs) == 3
    said, changes = (told[key] for key in keys)
    assert "kept rows: 30 before, 32 now; 2 came, 0 went" in said
    assert "**beyond a limit:** new_sources: 1 came" in said
    assert json.loads(changes) == [{"change": "added", "reason": "new in the pool", "rows": 2}]


def test_a_run_at_a_cap_ends_in_a_state_that_says_so(prefect_backend, tiny, tmp_path):
    from prefect.client.orchestration import get_client

    from gristmill.flows import planning
    from gristmill.flows.curate import curate
    from gristmill.pipeline.models.caps import CapReached

    quick = settings(tmp_path, tiny, name="capped", scorers=[{"method": "perplexity"}])
    whole = planning.planned(configs.CurateConfig.model_validate(quick), "run.yaml").total
    limits = {"max_tokens": int(whole.tokens.value)}  # what it takes to the last token
    run = configs.CurateConfig.model_validate({**quick, "limits": limits})
    with pytest.raises(CapReached, match="run the same command again"):
        curate(run)
    with get_client(sync_client=True) as client:
        (stopped,) = [r for r in client.read_flow_runs() if r.name == "curate-capped"]
    assert (stopped.state.name, stopped.state.type.value) == ("Capped", "CANCELLED")
    assert f"max_tokens = {limits['max_tokens']:,}" in stopped.state.message
    assert Path(curate(run)).is_dir(), "the same run goes on to its end"


class Waiting(threading.Thread):
    """A flow over pairs that pauses for people, in a thread; `result`: its folder, or its error."""

    def __init__(self, root, name, **more):
        super().__init__(daemon=True)
        pool = write_jsonl(root / "pairs.jsonl", pair_rows(8))
        self.config = configs.CleanRunConfig.model_validate(
            {
                "name": name,
                "sources": [{"path": str(pool)}],
                "store": str(root / "store"),
                "export": {"root": str(root / "curated"), "trainer_rows": False},
                "pause": "review",
                **more,
            }
        )
        self.result: object = None
        self.start()

    def run(self):
        from gristmill.flows.cleaned import clean

        try:
            self.result = clean(self.config)
        except BaseException as error:
            self.result = error

    def paused(self):
        """The flow run, once it is paused."""
        return self.state("Paused")

    def state(self, name):
        from prefect.client.orchestration import get_client

        until = time.monotonic() + 120
        with get_client(sync_client=True) as client:
            while time.monotonic() < until:
                for run in client.read_flow_runs():
                    if run.name == f"clean-{self.config.name}" and run.state.name == name:
                        return run
                time.sleep(0.1)
        raise AssertionError(f"it is never {name}: {self.result}")

    def ended(self):
        self.join(120)
        assert not self.is_alive(), "it still waits"
        return self.result


@pytest.fixture
def looks_often(monkeypatch):
    from gristmill.flows import approving

    monkeypatch.setattr(approving, "LOOK", 0.1)


def test_a_run_that_waits_goes_on_by_the_api(prefect_backend, looks_often, tmp_path):
    from prefect.client.orchestration import get_client

    waiting = Waiting(tmp_path, "by-api")
    run = waiting.paused()
    with get_client(sync_client=True) as client:
        nobody = client.resume_flow_run(run.id, run_input={"decision": "approve", "by": ""})
        assert nobody.status.value == "REJECT", "a decision has a name"
        assert not (tmp_path / "curated").exists()
        taken = client.resume_flow_run(run.id, run_input={"decision": "approve", "by": "ann"})
        assert taken.status.value == "ACCEPT"
    folder = Path(waiting.ended())
    assert "**Approved by ann**" in (folder / "README.md").read_text()
    assert waiting.state("Completed")


def test_a_run_that_waits_goes_on_by_the_store(prefect_backend, looks_often, tmp_path):
    """As the page and the command line decide; and a rejection ends it, with nothing published."""
    from gristmill.pipeline.review import approval

    waiting = Waiting(tmp_path, "by-store")
    waiting.paused()
    (request,) = approval.waiting(tmp_path / "store")
    request.decide("rejected", "bob", "copies")
    assert isinstance(waiting.ended(), approval.Rejected)
    assert "copies" in waiting.state("Rejected").state.message
    assert not (tmp_path / "curated").exists()
    again = Waiting(tmp_path, "by-store")
    assert isinstance(again.ended(), approval.Rejected), "at once: it is decided"
    request.decide("approved", "bob")
    assert Path(Waiting(tmp_path, "by-store").ended()).is_dir()


def test_a_run_that_is_cancelled_while_it_waits_ends(prefect_backend, looks_often, tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    waiting = Waiting(tmp_path, "cancelled")
    run = waiting.paused()
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Cancelling())
    assert isinstance(waiting.ended(), BaseException)
    assert not (tmp_path / "curated").exists()


def test_a_run_of_a_server_of_its_own_does_not_wait(
    prefect_backend, looks_often, tmp_path, monkeypatch
):
    from gristmill.flows import connection
    from gristmill.pipeline.review import approval

    monkeypatch.setenv(connection.ALONE, "1")
    waiting = Waiting(tmp_path, "alone")
    assert isinstance(waiting.ended(), approval.WaitsForApproval)
    assert waiting.state("Waiting").state.type.value == "CANCELLED"


def shows_what_came_of_it(folder: Path) -> None:
    """The artifacts of the one run: the card, the plots as images, the verdicts."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        made = {a.key: a for a in client.read_artifacts() if a.key}
    assert set(made) == {
        "toy",
        *(f"toy--{p}" for p in ("scores", "mixture", "verdicts", "observed")),
    }
    (observed,) = json.loads(made["toy--observed"].data)
    assert observed["records"] > 60
    assert observed["tokens read by models"] > 1_000
    assert "## How rows were chosen" in made["toy"].data
    assert f"`{folder / 'report.html'}`" in made["toy"].data, "no server shows it"
    for part in ("scores", "mixture"):
        head, _, body = made[f"toy--{part}"].data.partition(",")
        assert head == "data:image/svg+xml;base64"
        drawn = ElementTree.fromstring(base64.b64decode(body))
        words = {t.text for t in drawn.iter("{http://www.w3.org/2000/svg}text")}
        assert {"scores": "score_ifd: pool and taken", "mixture": "pool"}[part] in words
    rows = {r["reason"]: r["rows"] for r in json.loads(made["toy--verdicts"].data)}
    assert rows["exact_duplicate"] == 5


def test_a_curate_run_ends_with_the_model_that_the_flow_alone_finds(
    prefect_backend, tiny, tmp_path
):
    from prefect.client.orchestration import get_client

    from gristmill.flows import finetune_steps
    from gristmill.flows.curate import curate
    from gristmill.flows.finetune import finetune

    asked = settings(
        tmp_path,
        tiny,
        sources=[{"path": str(write_jsonl(tmp_path / "few.jsonl", chat_rows(20)))}],
        reference=[],
        scorers=[{"method": "length"}],
        select={"budget": "50%"},
        finetune={
            "training": {"epochs": 1, "batch_size": 4, "max_length": 128},
            "lora": {"rank": 2},
        },
    )
    run = configs.CurateConfig.model_validate(asked)
    with finetune_steps.announced() as models:
        folder = Path(curate(run))
    (made,) = models
    assert folder.parent.name == "toy", "what a run returns is its dataset"
    assert made.facts["dataset"]["version"] == folder.name
    with get_client(sync_client=True) as client:
        artifacts = {a.key: a for a in client.read_artifacts() if a.key}
    assert {"toy", "toy-sft", "toy-sft--metrics", "toy-sft--loss"} <= artifacts.keys()
    assert made.reference in artifacts["toy-sft"].data
    assert "## How training went" in artifacts["toy-sft"].data
    steps = len(made.trained.metrics["loss"])
    assert json.loads(artifacts["toy-sft--metrics"].data)[0]["steps"] == steps
    alone = finetune_steps.after(run, str(folder), None)
    assert finetune(alone) == made.reference
    lines = (Path(asked["store"]) / "journal.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["step"] == "sft" for line in lines) == 2, "two parts, made once"


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
from curation import walk_through
print(walk_through(config.read(Path(sys.argv[1]))))
"""


def fresh(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ran(start: Callable, root: Path, tiny: Path, after: float | None) -> tuple[int, str, str]:
    """The run in a process of its own, killed when `after` seconds are over."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "run.yaml").write_text(yaml.safe_dump(settings(root, tiny)))
    process = start(KILLED.format(tests=str(ROOT / "tests" / "helpers")), root / "run.yaml")
    try:
        out, err = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return process.returncode, out, err


def kill_at_random_moments(tmp_path, tiny, moments, *, start, imports):
    """How many of the runs were hit; `imports`: their share of a run, with nothing to lose yet."""
    begun = time.monotonic()
    code, out, err = ran(start, tmp_path / "whole", tiny, None)
    seconds = time.monotonic() - begun
    assert code == 0, err
    truth = published_bytes(Path(out.strip()))
    draw = random.Random(0)
    hit = 0
    for k in range(moments):
        root = tmp_path / f"killed-{k}"
        hit += ran(start, root, tiny, seconds * draw.uniform(imports, 1.0))[0] == -signal.SIGKILL
        code, out, err = ran(start, root, tiny, None)
        assert code == 0, err
        assert published_bytes(Path(out.strip())) == truth
        lines = (root / "store" / "journal.jsonl").read_text().splitlines()
        made = [(j["step"], j["key"], j["part"]) for j in map(json.loads, lines) if "part" in j]
        assert len(made) - len(set(made)) <= 1, "only the part in flight is made again"
    return hit


def test_killed_twice_a_rerun_ends_byte_identical(tmp_path, tiny):
    warm.Child("pass").communicate()  # whatever is imported is imported now
    kill_at_random_moments(tmp_path, tiny, 2, start=warm.Child, imports=0)
    here = walk_through(configs.CurateConfig.model_validate(settings(tmp_path / "here", tiny)))
    there = tmp_path / "whole" / here.relative_to(tmp_path / "here")
    assert published_bytes(here) == published_bytes(there), "and under another hash seed"


@pytest.mark.slow
def test_killed_at_twenty_random_moments_every_rerun_ends_byte_identical(tmp_path, tiny):
    assert kill_at_random_moments(tmp_path, tiny, 20, start=fresh, imports=0.3) >= 10


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


def odd_files(root: Path) -> dict[str, str]:
    """Config files that are none, and what is said of each."""
    (root / "folder.yaml").mkdir()
    os.mkfifo(root / "pipe.yaml")
    (root / "deep.yaml").write_text("name: " + "[" * 5_000 + "]" * 5_000)
    (root / "latin.yaml").write_bytes("name: café".encode("latin-1"))
    (root / "wide.yaml").write_text("name: x", "utf-16")
    (root / "zero.yaml").write_bytes(b"name: \0")
    (root / "number.yaml").write_text("name: " + "9" * 5_000)
    (root / "date.yaml").write_text("name: 2024-99-99")
    (root / "list.yaml").write_text("- a")
    return {
        "folder.yaml": "is a folder",
        "pipe.yaml": "is a pipe",
        "deep.yaml": "is no YAML: it nests more than 100 levels deep",
        "latin.yaml": "is not UTF-8: save it as UTF-8",
        "wide.yaml": "is not UTF-8: save it as UTF-8",
        "zero.yaml": "is no YAML",
        "number.yaml": "is no YAML: ",
        "date.yaml": "is no YAML: ",
        "list.yaml": "holds no settings",
    }


def test_a_config_that_is_none_is_one_sentence(tmp_path):
    for name, said in odd_files(tmp_path).items():
        for read in (configs.read, synthesis_config.read):
            with pytest.raises(ValueError, match=re.escape(f"{name} {said}")) as error:
                read(tmp_path / name)
            assert len(str(error.value).splitlines()) == 1


def test_the_deployment_is_the_demo():
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (deployment,) = (d for d in deployments if d["name"] == "curate")
    run = configs.CurateConfig.model_validate(deployment["parameters"]["config"])
    demo = configs.read(ROOT / "data" / "demo" / "curate.yaml")
    assert [s.path for s in run.sources] == [s.path for s in demo.sources]
    assert run.models == demo.models


def test_a_mixture_of_named_sources_finds_them_and_says_what_they_lack(tiny, tmp_path, capsys):
    """Rows with a `source` of their own: the name in the config is the group that rules see."""
    rows = [{**r, "source": f"site-{i % 3}"} for i, r in enumerate(chat_rows(30))]
    few = write_jsonl(tmp_path / "few.jsonl", rows[:4])
    many = write_jsonl(tmp_path / "many.jsonl", rows[4:])
    asked = settings(
        tmp_path,
        tiny,
        sources=[{"path": str(few), "name": "medquad"}, {"path": str(many), "name": "web"}],
        reference=[],
        scorers=[{"method": "length"}],
        select={
            "rule": "mixture",
            "settings": {"shares": {"medquad": 0.5, "web": 0.5}},
            "budget": 20,
        },
    )
    folder = walk_through(configs.CurateConfig.model_validate(asked))
    kept = pl.read_parquet(folder / "ledger/*.parquet").filter(verdict="kept")
    assert dict(kept.group_by("source").len().iter_rows()) == {"medquad": 4, "web": 10}
    assert kept["own_source"].null_count() == 0
    lacking = "source 'medquad' has 4 of the 10 that its share asks for."
    for file in ("README.md", "report.html", "manifest.json"):
        assert lacking in html.unescape((folder / file).read_text("utf-8")), file
    assert lacking in publishing.announcement(folder)
    console.published(folder)
    last = capsys.readouterr().out.splitlines()[-2:]
    assert "kept 14 of the 20 rows that its budget names" in last[0]
    assert lacking in last[1]

    asked["select"]["settings"] = {"shares": {"medqa": 0.5, "web": 0.5}}
    with pytest.raises(ValueError, match="source 'medqa', which no row has; there are: medquad"):
        walk_through(configs.CurateConfig.model_validate(asked))
