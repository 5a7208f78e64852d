"""What a run reads: no row that cleaning or an earlier stage dropped, and no row twice.

    python benchmarks/road.py [--repeats 3] [--hidden 256] [--layers 6]

400 real rows, of the demo's sources and of the fidelity benchmark's. By construction half of them
fall: copies, questions of an evaluation set that is written here, and answers of one or two words.
Tokens are those that go through the decoder, a row a batch, so none is padding. Counts are of the
1.25 M-parameter model of `data/lds`; the cascade's processor time is of a larger, untrained one,
over that of each stage run by itself on the rows that it was given (ingest and score, in a fresh
store), in turns, model in memory, the smallest of each. Exits with 1 if a figure is not as it
should be.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import polars as pl
from transformers.models.llama.modeling_llama import LlamaModel

from gristmill.flows.config import CurateConfig
from gristmill.flows.steps import Curation, Rows, walk
from gristmill.pipeline import Models, Passes, ScoreRun, Source, Store, ingest, observe, score
from gristmill.pipeline.clean.exact import fingerprints
from gristmill.pipeline.clean.text import word_counts
from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.gradients.engine import GradientEngine
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import KEY
from gristmill.pipeline.records.store import open_entry
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors import catalog

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "benchmarks" / "data" / "lds" / "base"
TARGET = ROOT / "data" / "demo" / "target.jsonl"
SURVIVORS, CONTAMINATED, FILTERED, COPIES, MORE = 200, 60, 40, 100, 20
LEAST_WORDS = 3  # of an answer; what the filter asks
NGRAM = 13  # words of an evaluation item that a row may not repeat
MOST = 1.1  # processor time of the cascade over that of its stages

Row = tuple[str, str]


def real_rows(store: Store) -> list[Row]:
    """Questions with answers, no two alike, none of the target's, in an order drawn once."""
    files = (ROOT / "data" / "demo" / "pool", ROOT / "benchmarks" / "data" / "lds" / "rows.jsonl")
    pool = ingest(store, [Source(path=str(f)) for f in files]).frame()
    target = ingest(store, [Source(path=str(TARGET))]).frame()
    apart = fingerprints(pool).unique("fingerprint", keep="first", maintain_order=True)
    apart = apart.join(fingerprints(target), on="fingerprint", how="anti")
    talks = pool.join(apart, on=KEY, how="semi", maintain_order="left")["messages"].to_list()
    rows = [(m[0]["content"], m[1]["content"]) for m in talks if len(m) == 2]
    random.Random(0).shuffle(rows)
    return rows


@dataclass(frozen=True, kw_only=True)
class Pool:
    """400 rows as two files, and what is to become of them."""

    survivors: list[Row]
    folder: Path

    @property
    def sources(self) -> list[Path]:
        # of two copies the first by source stays
        return [self.folder / "pool.jsonl", self.folder / "pool_copies.jsonl"]

    @property
    def more(self) -> Path:
        return self.folder / "pool_more.jsonl"


def write(path: Path, rows: list[Row]) -> Path:
    lines = (json.dumps({"question": q, "answer": a}) for q, a in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def written(rows: list[Row], folder: Path) -> Pool:
    """The pool, its evaluation set and one source more."""
    words = word_counts(pl.Series([answer for _, answer in rows]))
    curt = [r for r, n in zip(rows, words, strict=True) if n < LEAST_WORDS][:FILTERED]
    fine = [r for r, n in zip(rows, words, strict=True) if n >= LEAST_WORDS]
    known = [r for r in fine if len(r[0].split()) >= NGRAM][:CONTAMINATED]
    rest = [r for r in fine if r not in known]
    survivors, more = rest[:SURVIVORS], rest[SURVIVORS:][:MORE]
    assert [*map(len, (curt, known, survivors, more))] == [FILTERED, CONTAMINATED, SURVIVORS, MORE]
    long = sorted(survivors, key=lambda r: len(" ".join(r).split()))[-COPIES // 2 :]
    other = [r for r in survivors if r not in long][: COPIES // 2]
    copies = [(q.upper(), f" {a}  ") for q, a in other] + [(q, f"{a} Done.") for q, a in long]
    first = [*survivors, *known, *curt]
    random.Random(1).shuffle(first)
    pool = Pool(survivors=survivors, folder=folder)
    for path, part in zip([*pool.sources, pool.more], (first, copies, more), strict=True):
        write(path, part)
    items = [json.dumps({"question": q}) for q, _ in known]
    (folder / "exam.jsonl").write_text("\n".join(items))
    (folder / "exams.yaml").write_text(
        "exam: {files: exam.jsonl, fields: [question], license: MIT}\n"
    )
    return pool


def curation_of(
    pool: Pool,
    store: str,
    *,
    filters: tuple[int, ...] = (LEAST_WORDS,),
    more: tuple[Path, ...] = (),
) -> Curation:
    """A run over the pool; each filter is a least number of words."""
    config = {
        "name": "road",
        "sources": [{"path": str(p)} for p in (*pool.sources, *more)],
        "models": {"target": str(MODEL)},
        "scorers": [{"method": "perplexity"}, {"method": "length"}],
        "clean": {
            "filters": [{"filter": "length", "settings": {"min_words": n}} for n in filters],
            "near": {},
            "decontaminate": {
                "folder": str(pool.folder),
                "config": str(pool.folder / "exams.yaml"),
                "n": NGRAM,
                "similarity": None,
            },
        },
        "select": {"budget": "10%"},
        "passes": {"device": "cpu", "batch_tokens": 8},  # less than any row: a row a batch
        "store": str(pool.folder / store),
        "export": {"root": str(pool.folder / "curated")},
        "shard_rows": 64,
    }
    return Curation(config=CurateConfig.model_validate(config))


@contextmanager
def tokens_read() -> Iterator[list[int]]:
    """Tokens that go through the decoder, a number a batch."""
    inner, read = LlamaModel.forward, []

    @wraps(inner)
    def counted(self, input_ids=None, **rest):
        read.append(input_ids.numel())
        return inner(self, input_ids=input_ids, **rest)

    with mock.patch.object(LlamaModel, "forward", counted):
        yield read


@contextmanager
def rows_read_backwards() -> Iterator[list[tuple[int, ...]]]:
    """The token rows that go through the gradient engine."""
    inner, read = GradientEngine.run, []

    @wraps(inner)
    def counted(self, ids_BT, mask_BT, labels_BT, **rest):
        read.extend(tuple(i[m.bool()].tolist()) for i, m in zip(ids_BT, mask_BT, strict=True))
        return inner(self, ids_BT, mask_BT, labels_BT, **rest)

    with mock.patch.object(GradientEngine, "run", counted):
        yield read


def token_rows(rows: pl.DataFrame, chat: ChatTokenizer) -> list[tuple[int, ...]]:
    return [tuple(Dialogue().encode(r, chat).ids) for r in rows.iter_rows(named=True)]


def run_of(curation: Curation) -> tuple[Rows, int]:
    """A run without publishing, and the tokens that it reads."""
    with tokens_read() as read:
        rows, _, _ = walk(curation)
    return rows, sum(read)


def chat_of(curation: Curation) -> ChatTokenizer:
    models = curation.context.models
    return models.load(models.files("target")[0], curation.context.passes).chat


def cleaned_and_grown(pool: Pool) -> tuple[dict[str, object], list[str]]:
    """The run over the pool, and the same run with a filter more and with a source more."""
    curation = curation_of(pool, "store")
    rows, first = run_of(curation)
    ledger = open_entry(rows.ledger).frame()
    everything = Dataset.open(rows.pool)
    chat = chat_of(curation)
    given = everything.frame()
    stayed = given.join(ledger.filter(pl.col("stage") != "clean"), on=KEY, how="semi")
    texts = [(m[0]["content"], m[1]["content"]) for m in stayed["messages"].to_list()]
    expected = sum(map(len, token_rows(stayed, chat)))

    again, unchanged = run_of(curation_of(pool, "store"))
    strict, filtered = run_of(curation_of(pool, "store", filters=(LEAST_WORDS, 8)))
    grown, added = run_of(curation_of(pool, "store", more=(pool.more,)))
    new = Dataset.open(grown.pool).frame().filter(source=pool.more.stem)
    new_tokens = sum(map(len, token_rows(new, chat)))
    fell = open_entry(strict.ledger).frame().filter(stage="clean").height
    fell -= ledger.filter(stage="clean").height

    unclean = curation_of(pool, "unclean")
    with tokens_read() as read:
        observe(unclean.context, everything, unclean.scorers["perplexity"].signals)

    reasons = ledger.filter(stage="clean")["reason"].value_counts(sort=True).rows()
    figures = {
        "rows": given.height,
        "dropped_by_cleaning": dict(reasons),
        "survivors": len(texts),
        "tokens_of_survivors": expected,
        "tokens_read": first,
        "tokens_read_without_cleaning": sum(read),
        "read_over_all": round(first / sum(read), 3),
        "rerun_tokens_read": unchanged,
        "one_filter_more": {"rows_dropped_more": fell, "tokens_read": filtered},
        "one_source_more": {"rows": new.height, "tokens": new_tokens, "tokens_read": added},
    }
    checks = {
        "other rows survive than were meant to": Counter(texts) == Counter(pool.survivors),
        "the run reads other tokens than the survivors'": first == expected,
        "without cleaning not all is read": sum(read) == sum(map(len, token_rows(given, chat))),
        "a rerun reads tokens": unchanged == 0 and again.ledger == rows.ledger,
        "a filter more reads tokens, or drops nothing": filtered == 0 < fell,
        "a source more reads other rows than its own": added == new_tokens > 0,
    }
    return figures, [what for what, fine in checks.items() if not fine]


CASCADE = ("length", "rds_plus", "gradient_cosine")


def cascade_of(source: Path, model: Path, store: Path) -> Curation:
    config = {
        "name": "narrow",
        "sources": [{"path": str(source)}],
        "reference": [{"path": str(TARGET)}],
        "models": {"target": str(model)},
        "scorers": [{"method": m} for m in CASCADE],
        "select": {
            "by": CASCADE[2],
            "budget": "10%",
            "before": [
                {"by": CASCADE[0], "budget": "80%"},
                {"by": CASCADE[1], "budget": "25%"},
            ],
        },
        "passes": {"device": "cpu"},
        "store": str(store),
        "export": {"root": str(store / "curated")},
    }
    return Curation(config=CurateConfig.model_validate(config))


def by_hand(method: str, source: Path, model: Path, store: Path) -> float:
    """Processor seconds of one method on a pool of its own."""
    store.mkdir(parents=True)
    models = Models(store=Store(root=store), roles={"target": (str(model),)})
    context = RunContext(models=models, passes=Passes(device="cpu"))
    models.load(models.files("target")[0], context.passes)
    scorer = catalog.make(method)
    begun = time.process_time()
    pool = ingest(models.store, [Source(path=str(source))])
    target = None
    if scorer.reference != "none":
        target = ingest(models.store, [Source(path=str(TARGET))])
    score(ScoreRun(scorer=scorer, dataset=pool, context=context, reference=target))
    return time.process_time() - begun


def given_to(stage: int, rows: pl.DataFrame, ledger: pl.DataFrame) -> pl.DataFrame:
    """The rows of the pool that no stage before this one dropped."""
    before = ["clean", *(f"{n + 1}-{m}" for n, m in enumerate(CASCADE[:stage]))]
    return rows.join(ledger.filter(pl.col("stage").is_in(before)), on=KEY, how="anti")


def narrowed(
    rows: list[Row], folder: Path, *, repeats: int, hidden: int, layers: int
) -> tuple[dict[str, object], list[str]]:
    """The cascade, beside its stages one by one."""
    model = make_tiny(folder / "model", hidden=hidden, layers=layers)
    source = write(folder / "all.jsonl", rows)
    walk(cascade_of(write(folder / "few.jsonl", rows[:40]), model, folder / "warm"))
    spent: dict[str, list[float]] = {name: [] for name in ("cascade", *CASCADE)}
    wrong = set()
    for turn in range(repeats):
        curation = cascade_of(source, model, folder / f"cascade-{turn}")
        chat = chat_of(curation)  # the model is in memory
        with rows_read_backwards() as read:
            begun = time.process_time()
            kept, _, _ = walk(curation)
            spent["cascade"].append(time.process_time() - begun)
        pool, ledger = Dataset.open(kept.pool).frame(), open_entry(kept.ledger).frame()
        stages = [given_to(n, pool, ledger) for n in range(len(CASCADE))]
        target = Dataset.open(kept.reference).frame()
        backward = Counter(token_rows(stages[2], chat) + token_rows(target, chat))
        if Counter(read) != backward:
            wrong.add("backward passes are of other rows than the second stage kept")
        if stages[0].height != pool.height:
            wrong.add("cleaning dropped rows of the cascade's pool")
        for method, left in zip(CASCADE, stages, strict=True):
            pairs = [(m[0]["content"], m[1]["content"]) for m in left["messages"].to_list()]
            apart = write(folder / f"{method}.jsonl", pairs)
            spent[method].append(by_hand(method, apart, model, folder / f"{method}-{turn}"))
    least = {name: min(seconds) for name, seconds in spent.items()}
    ratio = least["cascade"] / sum(least[m] for m in CASCADE)
    if ratio > MOST:
        wrong.add(f"the cascade takes more than {MOST} times the time of its stages")
    figures = {
        "rows_of_stages": dict(zip(CASCADE, (s.height for s in stages), strict=True)),
        "rows_kept": ledger.filter(verdict="kept").height,
        "rows_read_backwards": {"pool": len(read) - target.height, "target": target.height},
        "cpu_seconds": {name: round(seconds, 2) for name, seconds in least.items()},
        "cpu_cascade_over_stages": round(ratio, 3),
    }
    return figures, sorted(wrong)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--layers", type=int, default=6)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "rows").mkdir()
        rows = real_rows(Store(root=folder / "rows"))
        pool = written(rows, folder)
        cleaned, wrong = cleaned_and_grown(pool)
        cascade, more = narrowed(rows, folder, **vars(asked))
    print(json.dumps({"cleaning": cleaned, "cascade": cascade}, indent=1))
    for what in (wrong := [*wrong, *more]):
        print(f"wrong: {what}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
