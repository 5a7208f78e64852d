"""`refine-pairs` from its file to a published dataset: it waits for people, and repeats nothing."""

import json

import polars as pl
import pytest
import yaml
from fake_openai import FakeOpenAI
from repository import ROOT
from rows import write_jsonl

from gristmill.flows import files, planning, refine_steps, refining, stopping
from gristmill.pipeline.export.verify import verify
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.caps import CapReached
from gristmill.pipeline.records.store import sha256, walk
from gristmill.synthesis.curation.people import Simulated, VerdictsNeeded

TOPICS = ("ships", "bread", "rain", "clocks")


def rows():
    """Pairs whose better answer says so; every fifth is the wrong way round; one is a benchmark's."""
    found = []
    for n in range(60):
        prompt = f"Question {n} about {TOPICS[n % 4]}, asked by person number {n * 7}?"
        sides = [f"A right answer {n} on {TOPICS[n % 4]}.", f"A wrong answer {n}, sadly."]
        chosen, rejected = sides[::-1] if n % 5 == 0 else sides
        found.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    item = json.loads((ROOT / "data/demo/eval/gsm8k_test.jsonl").read_text().splitlines()[0])
    words = item["question"].split()
    for count in (13, 12):
        prompt = f"Number {count}: {' '.join(words[:count])}"
        found.append({"prompt": prompt, "chosen": "A right answer.", "rejected": "A wrong answer."})
    return found


def judge(body):
    text = body["messages"][-1]["content"].rpartition("Now judge this pair:")[2]
    better = "1" if text.index("right answer") < text.index("wrong answer") else "2"
    return json.dumps({"verdict": better, "reason": "It is right."})


def written(root, tiny, url, **more):
    settings = {
        "name": "checked",
        "sources": [{"path": str(write_jsonl(root / "pairs.jsonl", rows())), "license": "MIT"}],
        "models": {"embedder": str(tiny), "target": str(tiny)},
        "clean": {
            "decontaminate": {
                "folder": str(ROOT / "data/demo"),
                "sets": ["gsm8k_test"],
                "similarity": None,
            }
        },
        "people": {"judgements": str(root / "verdicts.parquet"), "start": 12, "each_round": 2},
        "judges": [{"model": "judge", "url": url}],
        "rounds": {"number": 2, "start_labels": 10, "labels": 6},
        "reward_model": {"kind": "linear"},
        "passes": {"max_length": 256},
        "export": {"root": str(root / "curated")},
        "store": str(root / "store"),
        **more,
    }
    path = root / "refine.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def say(root):
    """What people say of the pairs that wait for them."""
    table = root / "verdicts.parquet"
    items = pl.read_parquet(root / "verdicts.items.parquet")
    texts = [m[0]["content"] for m in items["chosen"]]
    truth = {
        i: "chosen" if "right" in t else "rejected" for i, t in zip(items["id"], texts, strict=True)
    }
    made = Simulated(truth=truth).judgements(items, "")
    before = [pl.read_parquet(table)] if table.exists() else []
    pl.concat([*before, made]).write_parquet(table)


def finished(path, root):
    """Run it until it is done; how often it waited for people, and its folder."""
    waited = []
    while len(waited) < 9:
        _, config = files.read_any(path)
        try:
            return waited, refine_steps.walk(refining.Refining(config=config))
        except VerdictsNeeded as stop:
            waited.append(str(stop))
            say(root)
    raise AssertionError(waited)


def published_bytes(folder):
    return {str(p.relative_to(folder)): sha256(p) for p in walk(folder) if p.name != "run.json"}


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
