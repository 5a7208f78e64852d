"""A small run of `refine-pairs`: pairs, judges at an endpoint, and people who answer in time."""

import json
from pathlib import Path

import polars as pl
import yaml
from repository import ROOT
from rows import write_jsonl

from gristmill.flows import files, refine_steps, refining
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


def say(root: Path) -> None:
    """What people say of the pairs that wait for them."""
    table = root / "verdicts.parquet"
    items = pl.read_parquet(root / "verdicts.items.parquet")
    texts = [m[0]["content"] for m in items["chosen"]]
    truth = {
        i: "chosen" if "right" in t else "rejected" for i, t in zip(items["id"], texts, strict=True)
    }
    made = Simulated(truth=truth).judgements(items, "")
    before = [pl.read_parquet(table)] if table.exists() else []
    pl.concat([*before, made]).write_parquet(table.with_suffix(".new"))
    table.with_suffix(".new").replace(table)  # a run that is killed here finds all or nothing


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
