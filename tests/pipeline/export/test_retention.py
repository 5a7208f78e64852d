"""What a store holds, what of it is needed, and what may go."""

import fcntl
import json
import os
import time

import polars as pl
import pytest

from gristmill.pipeline.export import retention
from gristmill.pipeline.export.listing import listed
from gristmill.pipeline.records.store import Step, Store, sha256

DAYS = retention.DAY


@pytest.fixture
def store(tmp_path):
    return Store(root=tmp_path / "store")


def put(store, name, days=0.0, **inputs):
    entry = store.put(Step(name=name, version=1, inputs=inputs), pl.DataFrame({"a": [name]}))
    os.utime(entry.path / ".stamps.json", (time.time() - days * DAYS,) * 2)
    return entry


def version(tmp_path, **inputs):
    folder = tmp_path / "curated" / "toy" / "v1-0123abcd"
    folder.mkdir(parents=True)
    told = {"inputs": inputs, "rows": {"default/train": 3, "ledger/pool": 9}, "kind": "example"}
    (folder / "manifest.json").write_text(json.dumps(told))
    (folder / "_SUCCESS").touch()
    return folder


def names(found):
    return sorted(h.step for h in found)


def test_records_and_models_of_published_versions_stay_and_the_rest_goes(tmp_path, store):
    raw = put(store, "raw", days=90)
    pool = put(store, "ingest", days=90, file=raw.content)
    folder = version(tmp_path, dataset=pool.content)
    sft = put(store, "sft", days=90)
    put(store, "finetuned", 90, trained=sft.content, dataset=sha256(folder / "manifest.json"))
    put(store, "observe", days=90)
    (put(store, "select", days=90).path / "mine.txt").touch()
    put(store, "score", days=3)
    (store.root / "observe" / "notes.txt").write_text("mine")
    (store.root / "mine").mkdir()
    found = retention.holdings(store, [tmp_path / "curated"])
    needed = [h for h in found if h.needed]
    assert names(needed) == ["finetuned", "ingest", "raw", "select", "sft"]
    assert {h.needed for h in needed} == {"toy v1-0123abcd", "mine.txt, which is not ours"}
    chosen = retention.idle(found, 30)
    assert names(chosen) == ["observe"]
    assert retention.collect(chosen) == chosen
    assert not chosen[0].path.exists()
    assert (store.root / "observe" / "notes.txt").read_text() == "mine"
    assert names(retention.holdings(store)) == [
        *("finetuned", "ingest", "raw", "score", "select", "sft")
    ]
    assert sum(line["bytes"] for line in retention.by_step(found)) == sum(h.bytes for h in found)


def test_an_entry_that_a_run_finds_is_used(store):
    put(store, "score", days=90)
    assert len(retention.idle(retention.holdings(store), 30)) == 1
    assert store.find(Step(name="score", version=1)) is not None
    assert retention.idle(retention.holdings(store), 30) == []


def test_what_is_found_or_made_meanwhile_stays(store):
    used, made = put(store, "score", days=90), put(store, "observe", days=90)
    chosen = retention.idle(retention.holdings(store), 30)
    assert store.find(Step(name="score", version=1)) is not None
    with (made.path.parent / f".lock-{made.key}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert retention.collect(chosen) == []
    assert used.path.exists()
    assert made.path.exists()


def test_leftovers_of_killed_runs_and_of_damage_go_with_time(store):
    entry = put(store, "score")
    left = [entry.path.parent / f".{kind}-{'0' * 32}" for kind in ("work", "done", "gone")]
    left.append(store.root / "damaged" / "score-00-0")
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "part").write_text("x")
    found = retention.holdings(store)
    assert sorted(h.kind for h in found) == ["damaged", "entry", *["unfinished"] * 3]
    assert retention.idle(found, 1) == []
    chosen = retention.idle(found, 1, now=time.time() + 2 * DAYS)
    retention.collect([h for h in chosen if h.kind != "entry"])
    assert not any(folder.exists() for folder in left)
    assert entry.path.exists()


def test_a_day_is_the_least(store):
    put(store, "score")
    with pytest.raises(ValueError, match="give 1 or more"):
        retention.idle(retention.holdings(store), 0.5)


def test_no_dataset_where_one_is_named_is_refused(tmp_path, store):
    put(store, "score")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no published dataset"):
        retention.holdings(store, [tmp_path / "empty"])
    with pytest.raises(ValueError, match="there is no store"):
        retention.holdings(Store(root=tmp_path / "nowhere"))


def test_versions_are_listed(tmp_path):
    version(tmp_path, dataset="0")
    (line,) = listed(tmp_path / "curated")
    assert (line["rows"], line["of"], line["gate"], line["state"]) == (3, 9, None, "whole")
    with pytest.raises(ValueError, match="there is no published dataset under"):
        listed(tmp_path / "nowhere")
