"""A synthesis run on small documents of every kind: its settings, recorded answers, its steps."""

from pathlib import Path

import polars as pl
import topic_world
import yaml
from rows import chat_rows, write_jsonl

from gristmill.flows import synthesis_config, synthesis_steps


def written(root: Path, tiny: Path, **more) -> Path:
    """Config and documents: rows, HTML and Markdown; one copy, one file that is none."""
    docs = root / "docs"
    docs.mkdir(parents=True)
    write_jsonl(root / "rows.jsonl", [{"text": topic_world.document(0, n)} for n in range(8)])
    for n in range(4):
        body = topic_world.document(1, n).replace("# Topic1\n\n", "")
        (docs / f"{n}.html").write_text(f"<html><body><h1>Topic1</h1><p>{body}</p></body></html>")
    for n in range(4):
        planted = "BARREN" if n == 3 else ""
        (docs / f"{n}.md").write_text(topic_world.document(2, n, planted))
    (docs / "copy.txt").write_text(topic_world.document(2, 0))
    (docs / "noise.bin").write_bytes(b"\0\1\2")
    write_jsonl(root / "target.jsonl", chat_rows(6))
    seed = {"messages": [{"role": "user", "content": "Weight of a thing unlike all others?"}]}
    seed["messages"].append({"role": "assistant", "content": "1"})
    write_jsonl(root / "seeds.jsonl", [seed])
    settings = {
        "name": "weights",
        "sources": [{"path": str(root / "rows.jsonl"), "license": "CC0-1.0"}],
        "files": [str(docs)],
        "license": "MIT",
        "reference": [{"path": str(root / "target.jsonl")}],
        "known": [{"path": str(root / "seeds.jsonl")}],
        "extractor": {"recorded": str(root / "answers.jsonl")},
        "embedder": str(tiny),
        "chunk_tokens": 400,
        "bandit": {"share": 1.0, "batch": 2, "arms": 2, "clusters": 3},
        "store": str(root / "store"),
        "out": str(root / "out"),
        **more,
    }
    path = root / "synthesize.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def record_answers(root: Path, path: Path) -> None:
    """Play the exact reader over all chunks once, as someone else's model would have."""
    chunks = synthesis_steps.gather(synthesis_config.read(path))
    frame = pl.read_parquet(chunks / "documents" / "chunks.parquet")
    extraction = topic_world.Extraction()
    rows = []
    for ident, text in frame.select("id", "text").iter_rows():
        request = extraction.extract(text, ident)
        answer = topic_world.read(request)
        rows += [{"id": f"{kind}/{ident}", "text": answer} for kind in ("extract", "refine")]
    write_jsonl(root / "answers.jsonl", rows)


def walk_through(path: Path) -> Path:
    config = synthesis_config.read(path)
    chunks = synthesis_steps.gather(config)
    return synthesis_steps.pull(config, chunks, synthesis_steps.warm_up(config, chunks))
