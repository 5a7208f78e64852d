"""`refine-pairs` from its file to a published dataset: it waits for people, and repeats nothing."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from fake_openai import FakeOpenAI
from hidden_reward import world
from refine_run import finished, judge, published_bytes, written
from repository import ROOT

from gristmill.flows import files, planning, stopping
from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward
from gristmill.pipeline.finetune.settings import Training
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.caps import CapReached
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.records.store import Store
from gristmill.synthesis.curation.people import VerdictsNeeded
from gristmill.synthesis.curation.reward_models import TrainedReward


@pytest.fixture(scope="module")
def refined(tmp_path_factory, tiny):
    root = tmp_path_factory.mktemp("refined")
    with FakeOpenAI(answer=judge) as fake:
        path = written(root, tiny, fake.url)
        waited, folder = finished(path, root)
        first = len(fake.bodies)
        again = finished(path, root)
        yield root, path, waited, folder, fake, first, again


def test_the_run_stops_for_people_at_the_start_and_in_each_round(refined):
    *_, waited, _, _, _, _ = refined
    assert [w.split(" (", 1)[1].split(")")[0] for w in waited] == [
        "the first pairs",
        "round 1",
        "round 2",
    ]
    assert waited[0].startswith("12 of 12 pairs wait for people")


def test_nothing_is_asked_twice_and_a_rerun_publishes_the_same_folder(refined):
    *_, folder, fake, first, (waited, again) = refined
    bodies = [json.dumps(b, sort_keys=True) for b in fake.bodies]
    assert len(set(bodies)) == len(bodies) == first
    assert (waited, again) == ([], folder)


def test_wrong_labels_are_turned_and_every_input_row_has_its_verdict(refined, store):
    _, _, _, folder, *_ = refined
    assert not verify(folder)
    ledger = pl.concat([pl.read_parquet(p) for p in sorted(folder.rglob("ledger*/*.parquet"))])
    assert ledger.height == 62
    assert ledger.filter(pl.col("verdict") == "dropped")["reason"].null_count() == 0
    reasons = ledger["reason"].drop_nulls().to_list()
    assert reasons.count("contaminated: gsm8k_test") == 1, "13 words are caught, 12 are not"
    labels = pl.read_parquet(folder / "labels.parquet")
    assert labels.height == 61
    origins = set(labels["origin"].drop_nulls())
    assert {"people", "judges"} <= origins
    dataset = ingest(store, [Source(path=str(folder))], kind="pair")
    kept = dataset.frame()
    assert kept.height == ledger.filter(verdict="kept").height > 20
    assert ledger.filter(verdict="kept")["origin"].null_count() == 0
    said = kept.join(labels, on="id", how="left", validate="m:1")
    sure = said.filter(pl.col("origin").is_in(["people", "judges"]))
    assert sure.height > 20
    for row in sure.iter_rows(named=True):
        assert "right" in row["chosen"][0]["content"]
        assert "wrong" in row["rejected"][0]["content"]
    assert sure.filter(pl.col("id") != pl.col("given_id")).height > 2, "some were turned round"


def test_a_run_stopped_at_caps_publishes_the_same_bytes(refined, tmp_path, tiny):
    *_, folder, _, first, _ = refined
    with FakeOpenAI(answer=judge) as fake:
        path = written(tmp_path, tiny, fake.url, limits={"max_tokens": 9_000})
        stops, ended = 0, None
        while ended is None and stops < 40:
            try:
                _, ended = finished(path, tmp_path)
            except CapReached:
                stops += 1
        bodies = [json.dumps(b, sort_keys=True) for b in fake.bodies]
    assert stops >= 1
    assert len(set(bodies)) == len(bodies) == first
    labels = [pl.read_parquet(f / "labels.parquet") for f in (folder, ended)]
    assert labels[0].equals(labels[1])


def test_the_plan_counts_calls_and_people(refined):
    _, path, *_ = refined
    _, config = files.read_any(path)
    told = planning.planned(config, str(path)).table()
    data = " | ".join(str(line["data"]) for line in told)
    assert "at most 16 pairs" in data or "at most 16" in data
    assert "at most 66 calls" in data, "22 pairs, 3 samples each"
    assert "stage 2: at most 120 calls" in data


def test_a_flow_that_waits_for_people_ends_in_a_state_of_its_own(refined):
    _, path, *_ = refined
    _, config = files.read_any(path)

    @stopping.stopping
    def flow(config):
        raise VerdictsNeeded("2 of 2 pairs wait for people: for a test")

    state = flow(config)
    assert (state.name, state.is_cancelled()) == (stopping.STATES[VerdictsNeeded], True)
    assert isinstance(state.data, VerdictsNeeded), "what a direct call raises"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": {"reward": "one"}}, "a router chooses among several"),
        ({"models": {"reward": ["a", "b"]}}, "keep one of them"),
        ({"reward_model": {}, "models": {}}, "none is bound"),
        ({"people": {"start": 5}, "rounds": {"labels": 10}}, "people between 0"),
        ({"limits": {"max_money": 1.0}}, "limits.max_money caps nothing"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_sentence(tmp_path, tiny, change, said):
    path = written(tmp_path, tiny, "http://localhost:1/v1", **change)
    if change.get("models") == {"reward": "one"}:
        text = yaml.safe_load(path.read_text())
        text.pop("judges")
        path.write_text(yaml.safe_dump(text))
    with pytest.raises(ValueError, match=said):
        files.read_any(path)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from refine_run import finished
print(finished(Path(sys.argv[1]), Path(sys.argv[2]))[1])
"""


@pytest.mark.slow
@pytest.mark.fault("killed: curation of pairs, while an endpoint answers")
def test_killed_at_ten_moments_nothing_finished_is_asked_again(
    refined, tmp_path, tiny, record_property
):
    *_, whole, _, first, _ = refined
    helpers = str(ROOT / "tests" / "helpers")
    with FakeOpenAI(answer=judge, delay=0.03) as fake:
        judges = [{"model": "judge", "url": fake.url, "workers": 1}]
        path = written(tmp_path, tiny, fake.url, judges=judges)
        command = [sys.executable, "-c", KILLED, str(path), str(tmp_path), helpers]
        draw, kills, done = random.Random(0), 0, None
        while done is None:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            target = len(fake.bodies) + draw.randint(1, 5)
            while kills < 10 and len(fake.bodies) < target and process.poll() is None:
                time.sleep(0.002)
            if kills < 10:
                time.sleep(draw.choice([0, 0.02, 0.5, 1]))  # also between the judges' requests
                process.kill()
                kills += 1
            out, said = process.communicate()
            assert process.returncode in (0, -9), said
            done = out.strip() or None
        bodies = [json.dumps(b, sort_keys=True) for b in fake.bodies]
    assert kills == 10
    assert len(set(bodies)) == first, "the same was asked of the judge"
    assert len(bodies) - first <= 10, "one in flight at each kill, at most"
    assert published_bytes(Path(done)) == published_bytes(whole)
    record_property("fault", ("right", kills))


@pytest.mark.slow
def test_trained_reward_models_label_through_the_router(tmp_path, tiny):
    training = Training(epochs=1, batch_size=8, learning_rate=3e-3, max_length=64)
    store = Store(root=tmp_path / "arms")
    arms = [
        store.root
        / TrainedReward(
            base=str(tiny),
            settings=Reward(training=training),
            store=store,
            passes=Passes(max_length=64),
            run=Run(),
        ).fit(world(24, flips=0.0, seed=seed).pairs)[-1]
        for seed in (1, 2)
    ]
    settings = {
        "judges": [],
        "models": {"embedder": str(tiny), "target": str(tiny), "reward": [str(a) for a in arms]},
        "reward_model": {"kind": "trained", "training": {"epochs": 1, "learning_rate": 3e-3}},
        "router": {"width": 8},
        "people": {"judgements": str(tmp_path / "verdicts.parquet"), "start": 20, "each_round": 2},
    }
    path = written(tmp_path, tiny, "http://localhost:1/v1", **settings)
    waited, folder = finished(path, tmp_path)
    assert len(waited) >= 1
    assert not verify(folder)
    labels = pl.read_parquet(folder / "labels.parquet")
    assert {"people", "judges"} <= set(labels["origin"].drop_nulls())
    told = (folder / "curation.json").read_text()
    for one in json.loads(told)["rounds"]:
        assert sum(one["judges"]["arms"].values()) == pytest.approx(1)
    assert str(tmp_path) not in told, "where a reward model lies is nobody's matter"
    journal = len(Store(root=tmp_path / "store").computed())
    assert finished(path, tmp_path) == ([], folder)
    assert len(Store(root=tmp_path / "store").computed()) == journal, "no model is trained twice"
