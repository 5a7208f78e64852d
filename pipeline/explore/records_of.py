"""Records of a ledger: where the text of each row lies, in the store or in the publication.

A published dataset ships the text of its kept rows and no other; the store that it was made from
has that of all. Nothing is held but places: a row's record is read when it is asked for.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.explore.opening import Opened
from gristmill.pipeline.records.dataset import Dataset, stored
from gristmill.pipeline.records.schema import (
    CONTENT,
    KEY,
    MESSAGE,
    QUARANTINE,
    Kind,
    canonical_json,
    kind_of,
)

_PROBED = 20  # ids by which the records of a ledger without a manifest are recognised


@dataclass(frozen=True, kw_only=True)
class RecordsOf:
    """The records of a ledger's rows.

    Attributes:
        opened: the ledger.
        pool: the records in the store; None: they are not there.
    """

    opened: Opened
    pool: Dataset | None

    @cached_property
    def shards(self) -> list[Path]:
        """The files that hold records."""
        if self.pool is not None:
            return self.pool.shards()
        folder = self.opened.folder
        return [] if folder is None else sorted(folder.glob("data/*.parquet"))

    @cached_property
    def places(self) -> pl.DataFrame:
        """`at, shard, place` of every row whose record is there, in the order of the files."""
        on = list(KEY) if self.pool is not None else ["id"]
        parts = [
            pl.read_parquet(path, columns=on)
            .with_row_index("place")
            .with_columns(shard=pl.lit(number, pl.UInt32))
            for number, path in enumerate(self.shards)
        ]
        empty = pl.DataFrame(schema={"at": pl.UInt32, "shard": pl.UInt32, "place": pl.UInt32})
        if not parts:
            return empty
        there = pl.concat(parts).unique(on, keep="first")
        rows = self.opened.ledger.select("at", *on)
        if self.pool is not None:
            rows = rows.cast({"row": pl.Int64})
        found = rows.join(there, on=on, how="inner")
        return found.select(empty.columns).sort("shard", "place")

    def of(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Row number -> record, of those that are there; see `each`."""
        return {at: frame.row(0, named=True) for at, frame in self.each(rows)}

    def each(self, rows: Sequence[int]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Row numbers and their records, those that are there, a frame of one row each.

        Raises:
            ValueError: a file is gone, or was changed.
        """
        wanted = self.places.filter(pl.col("at").is_in(list(rows)))
        for at, shard, place in wanted.iter_rows():
            yield at, _slice(self.shards[shard], place, 1)

    def blocks(self) -> Iterator[tuple[pl.Series, pl.DataFrame]]:
        """Row numbers and their records, file by file."""
        for (shard,), some in self.places.partition_by(
            "shard", as_dict=True, maintain_order=True
        ).items():
            block = _slice(self.shards[shard], 0, None)
            yield some["at"], block[some["place"]]

    @cached_property
    def unread(self) -> pl.DataFrame:
        """Of rows that could not be read: file, line and how they begin."""
        return pl.DataFrame(schema=QUARANTINE) if self.pool is None else self.pool.quarantine()


def found(opened: Opened, store: Path | None) -> RecordsOf:
    """The records of a ledger, from the store if it is at hand and has them."""
    return RecordsOf(opened=opened, pool=_pool(opened, store))


def _pool(opened: Opened, store: Path | None) -> Dataset | None:
    """The dataset that a ledger is of: by its content hash, or else by the ids of its first rows.

    A publication has the text of its kept rows, so that a dataset that is but like its own is none.
    """
    if store is None or not store.is_dir():
        return None
    there = list(stored(store))
    named = next((d for d in there if d.content == opened.pool), None)
    if named is not None or (opened.pool is not None and opened.folder is not None):
        return named
    read = opened.ledger.filter(pl.col("verdict") != "quarantined")["id"]
    probe = read.head(_PROBED).unique()
    return next((d for d in there if _has(d, probe)), None)


def _has(dataset: Dataset, probe: pl.Series) -> bool:
    left = set(probe)
    if not left:
        return False
    for block in dataset.blocks(["id"]):
        left -= set(block["id"].filter(block["id"].is_in(probe.implode())))
        if not left:
            return True
    return False


def _slice(path: Path, place: int, rows: int | None) -> pl.DataFrame:
    """Records of a file, `rows` from one place on."""
    try:
        scan = pl.scan_parquet(path)
        there = scan.collect_schema().names()
        if "completion" in there:  # a view of messages
            scan = scan.with_columns(messages=pl.concat_list("prompt", "completion"))
            there = [*(c for c in there if c != "prompt"), "messages"]
        kind = kind_of(there)
        names = [c for c in ("id", *CONTENT[kind]) if c in there]
        return as_records(scan.slice(place, rows).select(names).collect(), kind)
    except (pl.exceptions.PolarsError, OSError):
        raise ValueError(
            f"{path} is gone or was changed: open the dataset again, or put a whole copy there."
        ) from None


def as_records(block: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    """Records as the store has them, from the columns in which they were published."""
    lists = [c for c in CONTENT[kind] if c not in ("text", "tools") and c in block.columns]
    made: list[pl.Series | pl.Expr] = [
        pl.Series(
            c, [_turns(turns) for turns in block[c].to_list()], dtype=pl.List(MESSAGE), strict=False
        )
        for c in lists
        if block.schema[c] != pl.List(MESSAGE)
    ]
    made += [
        pl.lit(None, pl.String).alias(c)
        for c in CONTENT[kind]
        if c == "tools" and c not in block.columns
    ]
    return block.with_columns(made)


def _turns(turns: Sequence[Any] | None) -> list[dict[str, Any]]:
    found = []
    for turn in turns or ():
        fields = json.loads(turn) if isinstance(turn, str) else dict(turn)
        role, content = fields.pop("role", ""), fields.pop("content", None)
        rest = {k: v for k, v in fields.items() if v is not None}
        found.append(
            {"role": role, "content": content, "extra": canonical_json(rest) if rest else None}
        )
    return found
