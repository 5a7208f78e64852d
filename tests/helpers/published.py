"""Toy pools for the tests of export and report: records in a store, and a ledger over them."""

import json
from typing import Any

import polars as pl

from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import CONTENT, LEDGER, RECORDS, Kind, content_id, uniform
from gristmill.pipeline.records.store import Step, Store, table

# What a gate says of a version that it holds.
HELD = {
    "promoted": False,
    "sentence": "It did not beat random.",
    "flags": [],
    "effects": [],
    "unit": "log-likelihood",
    "level": 0.95,
    "seeds": [0],
    "draws": 2,
    "against": "random",
}
SELECTION = {"scorers": ["toy"], "rule": "top", "budget": {"rows": 30}}


def turn(role: str, content: str | None, extra: str | None = None) -> dict[str, Any]:
    return {"role": role, "content": content, "extra": extra}


def chats(n: int) -> list[dict[str, Any]]:
    """Single and double turns; every third row of another source without a licence."""
    rows = []
    for i in range(n):
        answer = turn("assistant", f"Answer {i}: " + "so it goes " * (1 + i % 7))
        messages = [turn("user", f"Question {i}, what is it?"), answer]
        if i % 4 == 1:
            messages += [turn("user", "And then?"), turn("assistant", f"Then {i * i}.")]
        second = i % 3 == 0
        rows.append(
            {
                "messages": messages,
                "source": "org/other" if second else "maths.jsonl",
                "license": None if second else "MIT",
                "revision": "abc123" if second else None,
            }
        )
    return rows


def pairs(n: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [turn("user", f"Please say number {i} aloud.")],
            "chosen": [turn("assistant", f"{i}, gladly" + "!" * (i % 5))],
            "rejected": [turn("assistant", "No. " * (1 + i % 3))],
            "source": "pairs.jsonl",
            "license": "Apache License 2.0",
        }
        for i in range(n)
    ]


def frame(rows: list[dict[str, Any]], kind: Kind = "example") -> pl.DataFrame:
    """Records of the schema; `row` counts within each source."""
    counts: dict[str, int] = {}
    made = []
    for row in rows:
        source = row.setdefault("source", "toy.jsonl")
        counts[source] = counts.get(source, -1) + 1
        content = {c: row.get(c) for c in CONTENT[kind]}
        ident = content_id(kind, content)
        made.append({**dict.fromkeys(RECORDS[kind]), **row, "id": ident, "row": counts[source]})
    return pl.DataFrame(made, schema=RECORDS[kind])


def stored(store: Store, records: pl.DataFrame, kind: Kind = "example", shards: int = 2) -> Dataset:
    """The records as a dataset of several shards."""
    size = -(-records.height // shards)
    parts = [
        table(f"records-{i:05d}", lambda i=i: records.slice(i * size, size)) for i in range(shards)
    ]
    sources = [{"name": s, "license": None, "revision": None} for s in records["source"].unique()]
    step = Step(name="ingest", version=1, inputs={"rows": str(records.hash_rows().sum())})
    entry = store.run(step, parts, note=lambda _: {"kind": kind, "sources": sources})
    return Dataset(entry=entry, kind=kind)


def ledger(records: pl.DataFrame, keep: int, kind: Kind = "example", **extra: Any) -> pl.DataFrame:
    """Scores drawn by id; the best `keep` rows are kept."""
    made = records.select("id", "source", "row").with_columns(
        score=pl.Series([uniform(0, "toy score", i) for i in records["id"]]),
        tokens=pl.Series([20 + 7 * (i % 11) for i in range(records.height)]),
    )
    made = made.sort("score", "id", descending=[True, False]).with_row_index("rank", offset=1)
    kept = pl.col("rank") <= keep
    made = made.with_columns(
        kind=pl.lit(kind),
        verdict=pl.when(kept).then(pl.lit("kept")).otherwise(pl.lit("dropped")),
        reason=pl.when(kept).then(None).otherwise(pl.lit("below_budget")),
        stage=pl.lit("select"),
        weight=pl.when(kept).then(1.0),
        order=pl.col("rank"),
    )
    made = made.with_columns(**extra)
    missing = [pl.lit(None).alias(c) for c in LEDGER if c not in made.columns]
    made = made.with_columns(missing)
    named = [pl.col(c).cast(t) for c, t in LEDGER.items()]
    return made.select(*named, *(c for c in made.columns if c not in LEDGER))


def publish(root, store, rows=None, keep=30, kind="example", n=90, shards=2, **options):
    records = frame(rows or (chats(n) if kind == "example" else pairs(n)), kind)
    book = options.pop("book", None)
    book = ledger(records, keep, kind) if book is None else book
    asked = Publication(root=root, name="toy", **{"selection": SELECTION, **options})
    return export(book, stored(store, records, kind, shards), asked)


def tool_chats() -> list[dict]:
    call = json.dumps({"tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]})
    rows = chats(12)
    rows[0]["messages"] = [
        turn("user", "Use it."),
        turn("assistant", "", call),
        turn("tool", "2", json.dumps({"name": "f"})),
        turn("assistant", "Two."),
    ]
    rows[0]["tools"] = json.dumps([{"type": "function", "function": {"name": "f"}}])
    return rows
