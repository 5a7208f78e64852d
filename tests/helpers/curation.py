"""A curation of toy rows, and its tasks without Prefect"""

from pathlib import Path

from rows import chat_rows, write_jsonl

from gristmill.flows import comparing, publishing, steps
from gristmill.flows import config as configs
from gristmill.pipeline.records.store import sha256, walk


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
    curation = steps.Curation(config=run)
    rows, seen, scores = steps.walk(curation)
    comparing.refuse_overlap(curation, rows)
    comparison = comparing.of_gate(curation, rows).made().path if run.gate else None
    return publishing.publish(curation, rows, seen, scores, comparison)


def gated(root: Path, tiny: Path, **gate) -> dict:
    """The same run with one method, a recipe of seconds, and a gate."""
    talk = [
        ("Which way is north?", "Up the hill and past the mill, as ever."),
        ("Who sings at dawn?", "The kettle, softly, and the lark."),
        ("What is left of the bread?", "A crust, and butter for it."),
        ("When does the ferry leave?", "At nine, unless fog comes up."),
    ]
    held = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in talk
    ]
    tests = write_jsonl(root / "held_out.jsonl", held)
    recipe = {"epochs": 1, "batch_size": 8, "learning_rate": 0.003, "max_length": 128}
    asked = {"tests": {"talk": [{"path": str(tests)}]}, "draws": 2, "controls": ["random"], **gate}
    return settings(
        root,
        tiny,
        scorers=[{"method": "length"}],
        finetune={"training": recipe},
        gate=asked,
    )


def published_bytes(folder: Path) -> dict[str, str]:
    """The hash of every file that equal runs write alike."""
    return {str(p.relative_to(folder)): sha256(p) for p in walk(folder) if p.name != "run.json"}
