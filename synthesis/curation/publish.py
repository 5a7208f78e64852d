"""The outcome of a curation as a dataset: pairs turned as their labels say, with a ledger of all.

A pair whose label was the wrong way round is another record, with an id of its own. Where a label
comes from stands in the ledger, and with votes and rewards in `labels.parquet`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl

from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import LEDGER, check
from gristmill.pipeline.records.store import Entry, Step, Store, table
from gristmill.synthesis.curation.pairs import turned
from gristmill.synthesis.curation.votes import Label

STAGE = "refine-pairs"
_NAMES = {"given_id": pl.String, "id": pl.String}


def curated(pool: Dataset, outcome: Entry, store: Store) -> Dataset:
    """The pool with every pair turned as its label says; its ids are those of the new records."""
    step = Step(
        name="curated_pairs",
        version=1,
        inputs={"pool": pool.entry.content, "outcome": outcome.content},
    )
    found: dict[str, Label] = dict(
        outcome.frame().drop_nulls("label").select("id", "label").iter_rows()
    )
    parts = [
        table(path.stem, partial(lambda p: _shard(pl.read_parquet(p), found), path))
        for path in pool.shards()
    ]
    note = {"kind": pool.kind, "sources": pool.sources}
    return Dataset(entry=store.run(step, parts, note=lambda _: note), kind=pool.kind)


def names(pool: Dataset, published: Dataset) -> pl.DataFrame:
    """The ids of the pool's records beside those of the same rows in `curated` of it."""
    frames = [
        pl.DataFrame({"given_id": a["id"], "id": b["id"]}, schema=_NAMES)
        for a, b in zip(pool.blocks(["id"]), published.blocks(["id"]), strict=True)
    ]
    return pl.concat([pl.DataFrame(schema=_NAMES), *frames]).unique("given_id").sort("given_id")


def labels(outcome: Entry, named: pl.DataFrame) -> pl.DataFrame:
    """Where the label of each pair comes from: the outcome, under the ids that are published.

    Args:
        outcome: of the curation.
        named: `names` of the pool.
    """
    found = outcome.frame().rename({"id": "given_id"}).join(named, on="given_id", how="left")
    return found.select("id", "given_id", pl.exclude("id", "given_id")).sort("id")


def ledger(before: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """What became of every input row.

    Args:
        before: the ledger of cleaning, which keeps what it left.
        told: `labels`.
    """
    decided = told.select("given_id", "label", "origin", why="reason", new_id="id")
    joined = before.join(decided, left_on="id", right_on="given_id", how="left")
    kept = pl.col("verdict") == "kept"
    gone = kept & pl.col("label").is_null()
    found = joined.with_columns(
        id=pl.when(kept).then(pl.col("new_id")).otherwise(pl.col("id")),
        verdict=pl.when(gone).then(pl.lit("dropped")).otherwise(pl.col("verdict")),
        reason=pl.when(gone).then(pl.col("why")).otherwise(pl.col("reason")),
        stage=pl.when(kept).then(pl.lit(STAGE)).otherwise(pl.col("stage")),
        weight=pl.when(~gone).then(pl.col("weight")),
        origin=pl.when(kept).then(pl.col("origin")),
    )
    return check(found.drop("label", "why", "new_id"), LEDGER, "ledger")


def _shard(records: pl.DataFrame, outcome: Mapping[str, Label]) -> pl.DataFrame:
    """The records of a shard, turned; a row that cleaning dropped stays as it is."""
    labels: dict[str, Label] = {i: outcome.get(i, "chosen") for i in records["id"]}
    return turned(records, labels)


def told(rounds: list[Entry], outcome: Entry) -> dict[str, Any]:
    """What a reader wants to know: the rounds, and where labels come from."""
    counts = outcome.frame().group_by("origin").len().sort("origin").iter_rows()
    return {
        "rounds": [{k: v for k, v in dict(e.note).items() if k != "model"} for e in rounds],
        "labels": {origin or "dropped": n for origin, n in counts},
        **{k: outcome.note[k] for k in ("best_accuracy", "judged_again", "flip")},
    }
