"""Records made in memory, and real data where the environment names a folder of it."""

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl
import pytest
from repository import DATA

from gristmill.pipeline.ingest.readers import format_of
from gristmill.pipeline.records.schema import RECORDS, Kind, content_id


def turn(role: str, content: str, extra: str | None = None) -> dict[str, Any]:
    return {"role": role, "content": content, "extra": extra}


def records(kind: Kind, contents: Iterable[dict[str, Any]], source: str = "pool") -> pl.DataFrame:
    """Records of one kind, numbered from 0."""
    rows = [
        {"id": content_id(kind, c), "source": source, "row": i, **c} for i, c in enumerate(contents)
    ]
    columns = [c for c in RECORDS[kind] if c not in ("id", "source", "row", *_content(kind))]
    full = [{**dict.fromkeys(columns), **row} for row in rows]
    return pl.DataFrame(full, schema={c: RECORDS[kind][c] for c in RECORDS[kind]})


def documents(texts: Sequence[str], source: str = "pool") -> pl.DataFrame:
    return records("document", [{"text": t} for t in texts], source)


def examples(pairs: Iterable[tuple[str, str]], source: str = "pool") -> pl.DataFrame:
    return records(
        "example",
        [{"messages": [turn("user", q), turn("assistant", a)], "tools": None} for q, a in pairs],
        source,
    )


def data(name: str) -> list[dict[str, Any]]:
    """The rows of a data file, or skip the test where it is not at hand."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not under GRISTMILL_DATA")
    read = format_of(path)
    assert read is not None
    return [read.parse(raw) for _, raw in read.items(path)]


def _content(kind: Kind) -> tuple[str, ...]:
    return {"document": ("text",), "example": ("messages", "tools")}.get(
        kind, ("prompt", "chosen", "rejected")
    )
