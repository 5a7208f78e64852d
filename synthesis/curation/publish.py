"""The outcome of a curation as a dataset: pairs turned as their labels say, with a ledger of all.

A pair whose label was the wrong way round is another record, with an id of its own; where a label
comes from stands in the record's `meta`, and the id that it came with beside it.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl

from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import LEDGER, canonical_json, check
from gristmill.pipeline.records.store import Entry, Step, Store, table
from gristmill.synthesis.curation.pairs import turned

STAGE = "refine-pairs"
_NAMES = {"id": pl.String, "new_id": pl.String}


def curated(pool: Dataset, outcome: Entry, store: Store) -> Dataset:
    """The pool with every pair turned as its label says; its ids are those of the new records."""
    step = Step(
        name="curated_pairs",
        version=1,
        inputs={"pool": pool.entry.content, "outcome": outcome.content},
    )
    found = {row["id"]: row for row in outcome.frame().iter_rows(named=True)}
    parts = [
        table(path.stem, partial(lambda p: _shard(pl.read_parquet(p), found), path))
        for path in pool.shards()
    ]
    note = {"kind": pool.kind, "sources": pool.sources}
    return Dataset(entry=store.run(step, parts, note=lambda _: note), kind=pool.kind)


def ledger(before: pl.DataFrame, pool: Dataset, published: Dataset, outcome: Entry) -> pl.DataFrame:
    """What became of every input row.

    Args:
        before: the ledger of cleaning, which keeps what it left.
        pool: the records as they came.
        published: `curated` of them.
        outcome: of the curation.
    """
    decided = outcome.frame().select("id", "label", why="reason")
    ids = [
        pl.DataFrame({"id": a["id"], "new_id": b["id"]}, schema=_NAMES)
        for a, b in zip(pool.blocks(["id"]), published.blocks(["id"]), strict=True)
    ]
    names = pl.concat([pl.DataFrame(schema=_NAMES), *ids]).unique("id")
    joined = before.join(decided, on="id", how="left").join(names, on="id", how="left")
    kept = pl.col("verdict") == "kept"
    gone = kept & pl.col("label").is_null()
    found = joined.with_columns(
        id=pl.when(kept).then(pl.col("new_id")).otherwise(pl.col("id")),
        verdict=pl.when(gone).then(pl.lit("dropped")).otherwise(pl.col("verdict")),
        reason=pl.when(gone).then(pl.col("why")).otherwise(pl.col("reason")),
        stage=pl.when(kept).then(pl.lit(STAGE)).otherwise(pl.col("stage")),
        weight=pl.when(~gone).then(pl.col("weight")),
    )
    return check(found.drop("label", "why", "new_id"), LEDGER, "ledger")


def _shard(records: pl.DataFrame, outcome: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """The records of a shard, turned and with their lineage."""
    rows = []
    for row in records.iter_rows(named=True):
        found = outcome.get(row["id"])
        if found is None:  # a row that cleaning dropped
            rows.append(row)
            continue
        label = found["label"] or "chosen"
        (new,) = turned(pl.DataFrame([row], schema=records.schema), {row["id"]: label}).to_dicts()
        told = {k: found[k] for k in ("origin", "reason", "round", "p_best", "p_gold")}
        told |= {"votes": json.loads(found["votes"] or "null"), "given_id": row["id"]}
        meta = json.loads(row["meta"] or "{}")
        rows.append({**new, "meta": canonical_json({**meta, "curation": told})})
    return pl.DataFrame(rows, schema=records.schema)


def told(rounds: list[Entry], outcome: Entry) -> dict[str, Any]:
    """What a reader wants to know: the rounds, and where labels come from."""
    counts = outcome.frame().group_by("origin").len().sort("origin").iter_rows()
    return {
        "rounds": [{k: v for k, v in dict(e.note).items() if k != "model"} for e in rounds],
        "labels": {origin or "dropped": n for origin, n in counts},
        **{k: outcome.note[k] for k in ("best_accuracy", "judged_again", "flip")},
    }
