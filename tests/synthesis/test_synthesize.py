"""The synthesize flow: files of every kind to records, again for nothing, and into a dataset."""

import json
import random
import subprocess
import sys
import time
from collections import Counter

import polars as pl
import pytest
import yaml
from fake_openai import FakeOpenAI
from repository import ROOT
from rows import write_jsonl
from synthesis_run import record_answers, walk_through, written

from gristmill.flows import synthesis_config, synthesis_steps
from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.models.load import loaded
from gristmill.pipeline.records.schema import EXAMPLE, check, digest
from gristmill.pipeline.records.store import sha256, walk

ITEM = "a train leaves the station at noon and travels sixty miles an hour to the next town"


def test_files_of_every_kind_become_records_once(tiny, tmp_path):
    path = written(tmp_path, tiny)
    record_answers(tmp_path, path)
    folder = walk_through(path)
    rows = pl.read_parquet(folder / "records.parquet")
    check(rows, EXAMPLE, "records")
    told = json.loads((folder / "summary.json").read_text())
    assert told["documents"] == told["documents sent"] == 16
    assert told["pairs kept"] == len(rows) == 15
    assert dict(rows.group_by("license").len().iter_rows()) == {"CC0-1.0": 8, "MIT": 7}
    made = [json.loads(m)["synthesis"] for m in rows["meta"]]
    assert all(m["document"] in m["parents"] and m["span"][0] < m["span"][1] for m in made)
    bad = pl.read_parquet(
        next((tmp_path / "store" / "chunks").glob("[0-9a-f]*")) / "documents/quarantine.parquet"
    )
    assert set(bad["source"]) == {"copy.txt", "noise.bin"}
    html = (folder / "report.html").read_text()
    assert html.startswith("<!doctype html>")
    assert "Topic" in html  # clusters are named by their headings
    before, first = len(loaded()), {p.name: sha256(p) for p in walk(folder)}
    again = walk_through(path)
    assert {p.name: sha256(p) for p in walk(again)} == first
    assert len(loaded()) == before  # no model: every round, and its reward, is in the store


def test_a_folder_that_is_not_ours_is_refused_and_kept(tiny, tmp_path):
    thesis = tmp_path / "home" / "thesis"
    thesis.mkdir(parents=True)
    (thesis / "chapter1.tex").write_text("ten years of work")
    path = written(tmp_path, tiny, name="thesis", out=str(tmp_path / "home"))
    record_answers(tmp_path, path)
    with pytest.raises(ValueError, match=r"thesis holds chapter1\.tex and no published version"):
        walk_through(path)
    assert [p.name for p in walk(tmp_path / "home")] == ["chapter1.tex"]
    assert (thesis / "chapter1.tex").read_text() == "ten years of work"


def test_records_are_a_version_that_loads_and_verifies(tiny, tmp_path):
    import datasets

    path = written(tmp_path, tiny)
    record_answers(tmp_path, path)
    folder = walk_through(path)
    assert folder.parent == tmp_path / "out" / "weights"
    assert (folder.parent / "latest").resolve() == folder
    assert verify(folder) == []
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    kept = pl.read_parquet(folder / "records.parquet")
    assert sorted(rows["id"]) == sorted(kept["id"])
    ledger = pl.concat([pl.read_parquet(p) for p in (folder / "ledger").glob("*.parquet")])
    refused = pl.read_parquet(folder / "rejected.parquet")
    out = ledger.filter(verdict="dropped")
    assert len(out) == len(refused)
    assert sorted(out["detail"]) == sorted(refused["reason"])
    card = (folder / "README.md").read_text()
    assert "- synthetic" in card
    assert "arXiv:2505.12250" in card
    settings = yaml.safe_load(path.read_text()) | {"bandit": {"share": 0.5, "batch": 2, "arms": 2}}
    path.write_text(yaml.safe_dump(settings))
    second = walk_through(path)
    assert [second.name[:3], folder.is_dir()] == ["v2-", True]


def test_when_no_pair_is_kept_nothing_is_published_and_the_reasons_are_told(tiny, tmp_path):
    path = written(tmp_path, tiny)
    config = synthesis_config.read(path)
    chunks = pl.read_parquet(synthesis_steps.gather(config) / "documents" / "chunks.parquet")
    names = [f"{kind}/{i}" for i in chunks["id"] for kind in ("extract", "refine")]
    write_jsonl(tmp_path / "answers.jsonl", [{"id": n, "text": '{"pairs": []}'} for n in names])
    folder = walk_through(path)
    assert not (tmp_path / "out").exists()
    assert folder.is_relative_to(tmp_path / "store")
    assert "- pairs kept: 0" in synthesis_steps.announcement("weights", folder)
    assert "Refused" in (folder / "report.html").read_text()
    assert walk_through(path) == folder


def test_seeds_and_benchmarks_keep_their_distance(tiny, tmp_path):
    path = written(tmp_path, tiny)
    record_answers(tmp_path, path)
    free = pl.read_parquet(walk_through(path) / "records.parquet")
    asked = [m[0]["content"] for m in free["messages"]]
    seed = {"messages": [{"role": "user", "content": asked[0]}]}
    seed["messages"].append({"role": "assistant", "content": "1"})
    write_jsonl(tmp_path / "seeds.jsonl", [seed])
    exam = tmp_path / "exams" / "eval"
    exam.mkdir(parents=True)
    answer = free["messages"][1][1]["content"]
    write_jsonl(exam / "gsm8k_test.jsonl", [{"question": f"{asked[1]} {answer}", "answer": "1"}])
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**settings, "benchmarks": str(tmp_path / "exams")}))
    kept = pl.read_parquet(walk_through(path) / "records.parquet")
    left = {m[0]["content"] for m in kept["messages"]}
    out = pl.read_parquet(tmp_path / "out" / "weights" / "latest" / "rejected.parquet")
    reason = dict(out.select("question", "reason").iter_rows())
    assert reason[asked[0]].startswith("not_novel: ROUGE-L 1.000")
    assert reason[asked[1]].startswith("contaminated: ")
    assert left == set(asked) - {asked[0], asked[1]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sources": [], "files": []}, "there are no documents"),
        ({"extractor": {}}, "exactly one of"),
        ({"extractor": {"model": "m", "recorded": "r"}}, "exactly one of"),
        (
            {"checker": {"recorded": "answers.jsonl"}, "extractor": {"recorded": "answers.jsonl"}},
            "checker is the extractor itself",
        ),
        ({"bandit": {"mode": "greedy"}}, "bandit.mode"),
        ({"bandit": {"share": 0}}, "bandit.share"),
        ({"curate": {"scorer": []}}, "curate: scorers"),
        ({"typo": 1}, "typo"),
    ],
)
def test_a_wrong_setting_is_named_at_once(tiny, tmp_path, change, said):
    path = written(tmp_path, tiny, **change)
    with pytest.raises(ValueError, match=said):
        synthesis_config.read(path)


def test_missing_files_are_named(tiny, tmp_path):
    path = written(tmp_path, tiny, files=[str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match=r"there is no .*nowhere"):
        walk_through(path)
    with pytest.raises(ValueError, match="there is no config file"):
        synthesis_config.read(tmp_path / "other.yaml")


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from synthesis_run import walk_through
print(walk_through(Path(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.fault("killed: a synthesis, while an endpoint answers")
def test_killed_at_an_endpoint_each_worker_repeats_one_request_at_most(
    tiny, tmp_path, workers, record_property
):
    def answer(body):
        number = int(digest(body)[:6], 16)
        pair = {"question": f"What is the weight of thing {number}?", "answer": "seven grams"}
        return json.dumps({"pairs": [{**pair, "evidence": None}]})

    draw = random.Random(workers)
    kills = 4
    with FakeOpenAI(answer=answer, delay=0.2) as fake:
        path = written(
            tmp_path,
            tiny,
            extractor={"model": "m", "url": fake.url, "workers": workers},
            bandit={"share": 1.0, "batch": 8, "arms": 2, "clusters": 2},
        )
        command = [sys.executable, "-c", KILLED, str(path), str(ROOT / "tests" / "helpers")]
        for _ in range(kills):
            target = len(fake.bodies) + draw.randint(2, 6)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while len(fake.bodies) < target:
                assert process.poll() is None
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.2))
            process.kill()
            process.wait()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        asked = Counter(digest(body) for body in fake.bodies)
    assert len(asked) == 2 * 16  # each document once, in two rounds
    assert sum(asked.values()) - len(asked) <= kills * workers
    record_property("fault", ("right", kills))


@pytest.mark.slow
def test_under_prefect_the_records_are_curated_into_a_dataset(tiny, tmp_path):
    import datasets
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    from gristmill.flows.synthesize import synthesize

    curation = {
        "scorers": [{"method": "length"}],
        "select": {"budget": "10"},
        "models": {"target": str(tiny)},
        "export": {"root": str(tmp_path / "curated")},
    }
    path = written(tmp_path, tiny, curate=curation)
    record_answers(tmp_path, path)
    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        folder = synthesize(synthesis_config.read(path))
    rows = datasets.load_dataset(str(folder), split="train")
    assert len(rows) == 10
    ledger = datasets.load_dataset(str(folder), "ledger", split="pool")
    assert len(ledger) == 15
    assert set(ledger["license"]) == {"CC0-1.0", "MIT"}


def test_a_synthesis_that_kept_nothing_is_not_curated(tmp_path):
    told = {"documents sent": 1_200, "pairs extracted": 7, "pairs kept": 0}
    (tmp_path / "summary.json").write_text(json.dumps(told))
    with pytest.raises(
        ValueError, match=r"1,200 documents that were sent, 7 pairs .* none was kept"
    ):
        synthesis_steps.demand_pairs(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({**told, "pairs kept": 1}))
    synthesis_steps.demand_pairs(tmp_path)
