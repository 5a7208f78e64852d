"""EQUAL on documents whose pairs are known: what do its rules win over uniform draws?

    python benchmarks/equal.py [--seeds 20] [--share 0.25] [--batch 2]

Documents are the paragraphs of XQuAD (English) and the reports of TAT-QA; their human questions and
answers represent an extractor's. Two targets: the pairs of a third of the reports ("finance"), and
those of a third of the paragraphs of some articles ("articles"); these are out of the pool. Every
document is extracted and verified once; all rules and seeds replay from the cache, which the count
of answers proves. Uniform draws documents by chance. Reward at equal documents:

    W = transport distance from all kept pairs of the documents sent to the target (lower: better)

and the share of documents that are the target's own. Intervals: 95 %, over the seeds' differences
from uniform.
"""

import argparse
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from make_recorded_qa import DATA, MINILM, Known, tatqa, xquad

from gristmill.pipeline.models.completion.recorded import Recorded
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.records.schema import DOCUMENT, canonical_json, content_id, uniform
from gristmill.pipeline.records.store import Store
from gristmill.synthesis import rounds
from gristmill.synthesis.bandit import Mode
from gristmill.synthesis.clusters import cluster
from gristmill.synthesis.embedding import Loader, stored
from gristmill.synthesis.equal import Equal, Outcome
from gristmill.synthesis.extraction import QA, Extraction
from gristmill.synthesis.reward import Transport, text_of, transport_reward
from gristmill.synthesis.transport import Array
from gristmill.synthesis.verified_extraction import VerifiedExtraction

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
    parser.add_argument("--store", type=Path, help="keeps the embeddings for a next time")
    asked = parser.parse_args()
    parts = world(DATA / "docs")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        place = asked.store or root / "store"
        place.mkdir(parents=True, exist_ok=True)
        row_of = embeddings(parts, Store(root=place))
        for target in ("finance", "articles"):
            compare(target, parts, row_of, root / target, asked)


def embeddings(parts: list[Part], store: Store) -> dict[str, Array]:
    """The row of every document and of every pair, by their text."""
    files, load = resolve(MINILM, store), Loader(device="cpu")
    texts = {p.row["text"] for p in parts} | {text_of(q) for p in parts for q in p.pairs}
    order = sorted(texts, key=lambda t: (len(t), t))
    return dict(zip(order, stored(files, load, store, batch=32)(order), strict=True))


def compare(
    target: str,
    parts: list[Part],
    row_of: dict[str, Array],
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
    extraction = VerifiedExtraction(
        extractor=backend, cache=root / "answers", extraction=extraction
    )
    ids = frame["id"].to_list()
    rows_ND = np.stack([row_of[t] for t in frame["text"]])
    clusters = cluster(ids, rows_ND, clusters=asked.clusters, seed=0, rounds=100)

    def embed(texts: Sequence[str]) -> Array:
        return np.stack([row_of[t] for t in texts])

    worth: dict[Mode, Transport] = {
        mode: transport_reward(mode, aims, embed=embed, embed_name="MiniLM-L6") for mode in MODES
    }

    def go(mode: Mode, seed: int, share: float, batch: int) -> Outcome:
        place = Store(root=root / f"{mode}-{seed}-{share}")
        place.root.mkdir(parents=True)
        arms = None if mode == "paper" else 3
        equal = Equal(mode=mode, share=share, batch=batch, arms=arms, seed=seed)
        return equal.run(frame, clusters, extraction, worth[mode], place)

    whole = go("fixed", 0, 1.0, 10)
    paid = len(backend.asked)
    kept: dict[str, list[QA]] = {}
    for entry in whole.entries:
        kept |= rounds.kept_pairs(entry)
    candidates = whole.table("candidates")
    print(
        f"\n{target}: {len(frame)} documents, {len(own)} of them the target's own; "
        f"{len(candidates)} pairs, {candidates['reason'].is_null().sum()} kept; "
        f"{paid} answers paid, {asked.share:.0%} of the documents sent",
        flush=True,
    )
    judge = replace(worth["fixed"], points=10_000)
    size = math.ceil(asked.share * len(frame))

    def value(sent: Iterable[str]) -> tuple[float, float]:
        named = sorted(sent)
        pairs = [p for i in named for p in kept.get(i, [])]
        return judge.costs([pairs])[0], len(own & set(named)) / len(named)

    chance = [partial(uniform, seed, "uniform") for seed in range(asked.seeds)]
    base = [value(sorted(ids, key=drawn)[:size]) for drawn in chance]
    told("uniform", base, base)
    for mode in MODES:
        # The released rule draws nothing by chance: each of its seeds is the same run.
        seeds = range(1 if mode == "official" else asked.seeds)
        sent = [go(mode, s, asked.share, asked.batch).table("sent")["document"] for s in seeds]
        found = [value(s) for s in sent]
        told(mode, found * (asked.seeds // len(found)), base)
    assert len(backend.asked) == paid, "a replay asked the extractor"


def world(folder: Path) -> list[Part]:
    """Every document of both sets."""
    found: list[Part] = []

    def add(known: Known, source: str, of: str | None) -> None:
        ident = content_id("document", {"text": known.text})
        place = {"id": ident, "source": source, "row": known.place, "text": known.text}
        held_out = of if known.place % 3 == 0 else None
        row = {**dict.fromkeys(DOCUMENT), **place}
        found.append(Part(row=row, pairs=list(known.pairs), of=of, held_out=held_out))

    paragraphs = xquad(folder)
    number = {title: i for i, title in enumerate(dict.fromkeys(k.group for k in paragraphs))}
    for known in paragraphs:
        of = "articles" if number[known.group] % EVERY == 0 else None
        add(known, known.group, of)
    for known in tatqa(folder):
        add(known, known.group, "finance")
    return found


def told(name: str, found: list[tuple[float, float]], base: list[tuple[float, float]]) -> None:
    """A line of the table: means, and the difference from uniform with its interval."""
    w, share = np.array(found).T
    gain = np.array(base)[:, 0] - w
    half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
    print(
        f"{name:10} W {w.mean():.4f}  saved {gain.mean():+.4f} ± {half:.4f}  "
        f"the target's own {share.mean():.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
