"""The leaderboard's rows as datasets of the store, and how they are read."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gristmill.pipeline import Models, Source, Store, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.records.dataset import Dataset

ROOT = Path(__file__).parents[2]
HOME = ROOT / "benchmarks" / "data" / "leaderboard"
BASE = "benchmarks/data/lds/base"  # from the root of the repository, where the command runs
TARGETS = ("maths", "medical")
TESTS = ("maths", "medical", "general")
PAIR_TARGET = "truthful"
PAIR_TESTS = ("truthful", "harmless", "instructions")


@dataclass(frozen=True, kw_only=True)
class Board:
    """What a part of the leaderboard works on.

    Attributes:
        context: store, models and passes.
        base: the model that every cell starts from.
        pool: what selectors choose from.
        planted: `id` and `planted` of its rows, which no selector sees.
        queries: reference rows by target.
        validation: rows by target, on which learning rates are chosen.
        tests: test rows by name.
    """

    context: RunContext
    base: str
    pool: Dataset
    planted: pl.DataFrame
    queries: dict[str, Dataset]
    validation: dict[str, pl.DataFrame]
    tests: dict[str, pl.DataFrame]


def examples(store: Store, passes: Passes) -> Board:
    """The pool of examples, its two targets and the test sets."""
    made = _parts("rows.jsonl")
    sets = {
        part: _ingested(store, part, [_example(r) for r in rows]) for part, rows in made.items()
    }
    return Board(
        context=_context(store, passes),
        base=BASE,
        pool=sets["pool"],
        planted=planted(sets["pool"], made["pool"]),
        queries={t: sets[f"query-{t}"] for t in TARGETS},
        validation={t: frame(sets[f"validation-{t}"]) for t in TARGETS},
        tests={t: frame(sets[f"test-{t}"]) for t in TESTS},
    )


def pairs(store: Store, passes: Passes) -> Board:
    """The pool of preference pairs, its target and the test sets."""
    made = _parts("pairs.jsonl")
    sets = {
        part: _ingested(store, f"pairs-{part}", [_pair(r) for r in rows])
        for part, rows in made.items()
    }
    return Board(
        context=_context(store, passes),
        base=BASE,
        pool=sets["pool"],
        planted=planted(sets["pool"], made["pool"]),
        queries={PAIR_TARGET: sets["query"]},
        validation={PAIR_TARGET: frame(sets["validation"])},
        tests={t: frame(sets[f"test-{t}"]) for t in PAIR_TESTS},
    )


def _parts(name):
    """The committed rows of a file by part."""
    raw = [json.loads(line) for line in (HOME / name).read_text("utf-8").splitlines()]
    return {p: [r for r in raw if r["part"] == p] for p in dict.fromkeys(r["part"] for r in raw)}


def frame(dataset: Dataset) -> pl.DataFrame:
    """The different records of a dataset, in order of id."""
    return dataset.frame().unique("id", keep="first", maintain_order=True).sort("id")


def planted(pool: Dataset, rows) -> pl.DataFrame:
    """What is wrong with each record, by id: a copy counts as what it repeats."""
    keys = pool.frame(["id", "row"]).sort("row")
    named = keys.with_columns(planted=pl.Series([r["planted"] for r in rows], dtype=pl.String))
    return named.unique("id", keep="first", maintain_order=True).select("id", "planted")


def _context(store: Store, passes: Passes) -> RunContext:
    """No role is bound: each method asks for its own, see `arms.roles`."""
    return RunContext(models=Models(store=store, roles={}), passes=passes)


def _example(row):
    turns = [("user", row["question"]), ("assistant", row["answer"])]
    return {
        "source": row["source"],
        "messages": [{"role": role, "content": text} for role, text in turns],
    }


def _pair(row):
    sides = {"prompt": row["question"], "chosen": row["chosen"], "rejected": row["rejected"]}
    return {"source": row["source"], **sides}


def _ingested(store: Store, name: str, rows) -> Dataset:
    path = store.root / "rows" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(text, "utf-8")
    part.replace(path)
    return ingest(store, [Source(path=str(path))])
