"""Pairs in both directions are dropped, in the step and in a run"""

import polars as pl
from ingested import dataset
from preference_runs import pair
from rows import pair_rows, write_jsonl
from toy_training import (
    one_thread,  # noqa: F401  (a fixture)
)

from gristmill.flows import config as configs
from gristmill.flows import steps
from gristmill.pipeline.clean.reversed_pairs import reversed_pairs
from gristmill.pipeline.records.ranges import Ranges
from gristmill.pipeline.records.store import open_entry
from gristmill.pipeline.score.rows import spread
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.selection import select


def test_pairs_in_both_directions_fall_in_a_run(tmp_path):
    one, other, third = "This one.", "That one.", "Neither."

    def pair(prompt, chosen, rejected):
        turns = {"chosen": chosen, "rejected": rejected}
        told = {side: [{"role": "assistant", "content": text}] for side, text in turns.items()}
        return {"prompt": [{"role": "user", "content": prompt}], **told}

    rows = [
        *pair_rows(4),
        pair("Which?", one, other),
        pair("Which?", other, one),
        pair("Which?", one, other),  # a copy falls with the row that it copies
        pair("Which?", one, third),
        pair("Or which?", other, one),  # another prompt
    ]
    run = configs.CurateConfig.model_validate(
        {
            "name": "toy",
            "sources": [{"path": str(write_jsonl(tmp_path / "pool.jsonl", rows))}],
            "scorers": [{"method": "random"}],
            "select": {"budget": "100%"},
            "store": str(tmp_path / "store"),
            "export": {"root": str(tmp_path / "curated")},
            "shard_rows": 3,
        }
    )
    rows, _, _ = steps.walk(steps.Curation(config=run))
    ledger = open_entry(rows.ledger).frame().sort("row")
    fallen = ledger.filter(pl.col("verdict") == "dropped")
    assert fallen["row"].to_list() == [4, 5, 6]
    assert fallen["reason"].str.starts_with("both_directions: ").all()
    first, second = fallen["id"][:2]
    assert fallen["reason"].str.slice(len("both_directions: ")).to_list() == [second, first, second]


def test_both_directions_of_a_pair_are_dropped(store, tiny, tmp_path):
    rows = [
        *pair_rows(4),
        pair("Which?", "This one.", "That one."),
        pair("Which?", "That one.", "This one."),
    ]
    pool = dataset(store, tmp_path, "pool", rows)
    drops = reversed_pairs(pool.blocks())
    assert drops["row"].to_list() == [4, 5]
    assert drops["reason"].to_list() == [f"both_directions: {i}" for i in drops["id"].reverse()]
    scores = pool.frame(["id"]).select(
        "id", score=pl.lit(1.0), tokens=pl.lit(3), reason=pl.lit(None, pl.String)
    )
    (whole,) = Ranges(dataset=pool)
    ledger = select(spread(whole, scores), rule=Top(), drops=[drops])
    assert ledger.filter(pl.col("reason").str.starts_with("both_directions"))["row"].to_list() == [
        4,
        5,
    ]
    assert (ledger["verdict"] == "kept").sum() == 4
