"""Datasets are found in a store whichever step made them."""

import polars as pl
import published

from gristmill.pipeline.records.dataset import stored
from gristmill.pipeline.records.store import MANIFEST, Step, table


def test_datasets_of_every_step_are_found_and_damaged_ones_passed_over(store):
    records = published.frame(published.chats(3))

    def made(name, note=True):
        facts = {"kind": "example", "sources": []} if note else {}
        return store.run(
            Step(name=name, version=1), [table("records", lambda: records)], note=lambda _: facts
        )

    made("curated")
    entry = made("reviewed")
    made("ingest")
    made("candidates", note=False)
    store.put(Step(name="score", version=1), pl.DataFrame({"id": ["a"]}))
    assert [d.entry.path.parts[-2] for d in stored(store.root)] == ["ingest", "curated", "reviewed"]
    (entry.path / MANIFEST).write_text("{")
    assert [d.entry.path.parts[-2] for d in stored(store.root)] == ["ingest", "curated"]
