"""Rows in memory as a dataset of the store."""

from rows import write_jsonl

from gristmill.pipeline.ingest.ingest import Source, ingest


def dataset(store, folder, name, rows, **how):
    path = write_jsonl(folder / f"{name}.jsonl", rows)
    return ingest(store, [Source(path=str(path))], **how)
