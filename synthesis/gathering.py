"""Gathering: rows and files of every kind to one table of chunks, kept in the store."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import polars as pl

from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import DOCUMENT, QUARANTINE, digest
from gristmill.pipeline.records.store import Entry, Part, Step, Store, open_entry, write_table
from gristmill.synthesis import documents
from gristmill.synthesis.chunks import chunk_rows


def gather(
    store: Store,
    rows: Dataset | None,
    files: Iterable[Path],
    *,
    tokenizer: ModelFiles,
    limit: int,
    license: str | None = None,
) -> Entry:
    """Cut documents into chunks; the entry also holds what could not be read.

    Args:
        store: where the chunks are kept.
        rows: ingested document rows, if there are any.
        files: PDF, HTML, Markdown and text files.
        tokenizer: the model whose tokens count.
        limit: tokens of the longest chunk.
        license: SPDX id of the files.
    """
    good, bad = [pl.DataFrame(schema=DOCUMENT)], [pl.DataFrame(schema=QUARANTINE)]
    if rows is not None:
        good.append(rows.frame())
        bad.append(rows.quarantine())
    for found, frames in zip(documents.load(files, license=license), (good, bad), strict=True):
        frames.append(found)
    whole = pl.concat(good)
    chat = load_tokenizer(tokenizer)

    def count(parts: Sequence[str]) -> list[int]:
        if not parts:
            return []
        return [
            len(ids) for ids in chat.tokenizer(list(parts), add_special_tokens=False)["input_ids"]
        ]

    step = Step(
        name="chunks",
        version=1,
        settings={"tokens": limit},
        inputs={"documents": digest(whole.rows()), "tokenizer": tokenizer.tokenizer_sha},
    )

    def work(path: Path) -> None:
        path.mkdir()
        chunks = chunk_rows(whole, limit=limit, count=count)
        if chunks.is_empty():
            raise ValueError("the sources hold no document with text: see their quarantine.")
        write_table(chunks, path / "chunks.parquet")
        write_table(pl.concat(bad), path / "quarantine.parquet")

    return store.run(step, [Part(name="documents", write=work)])


def chunks_in(folder: Path) -> pl.DataFrame:
    """The chunks of a finished `gather`."""
    return pl.read_parquet(BytesIO(open_entry(folder).read("documents/chunks.parquet")))
