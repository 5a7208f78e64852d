"""Observed: what models said of a ledger's rows, found in the store by what its manifests tell.

A run's observations lie in the store, a table per signal and piece of a shard. Here they are looked
through by column and model; nothing is ever computed by a model. Where a row was observed by
several models, those that the publication names count.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.explore.opening import Opened
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import MANIFEST
from gristmill.pipeline.report.projection import plane

POINTS = 100_000  # on the map: a keyed sample of more rows
_VECTORS = re.compile(r"(?:^|\.)(embedding|hidden)\.")
_LOSSES = re.compile(
    r"^losses\.(?P<view>dialogue|dialogue_rejected)\.(?P<mask>answer|content|last|all)$"
)


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All tables of one column by one model.

    Attributes:
        column: as the tables have it.
        model: fingerprint of the model, or of the tokenizer where that alone was asked.
        settings: of the step.
        paths: the tables.
    """

    column: str
    model: str
    settings: Mapping[str, Any] = field(compare=False, repr=False)
    paths: tuple[Path, ...]

    def blocks(self) -> Iterator[pl.DataFrame]:
        """`id` and the column, table by table."""
        for path in self.paths:
            yield pl.read_parquet(path, columns=["id", self.column])


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """A unit vector for each row that has one.

    Attributes:
        column: which vectors they are.
        at: numbers of the rows, rising.
        unit_ND: the vectors, in the order of `at`.
    """

    column: str
    at: NDArray[np.int64] = field(repr=False)
    unit_ND: NDArray[np.float16] = field(repr=False)

    def nearest(self, row: int, count: int) -> list[tuple[int, float]]:
        """The rows that are most alike, with their cosine; the row itself is not among them."""
        place = int(np.searchsorted(self.at, row))
        if place == len(self.at) or self.at[place] != row:
            return []
        unit_D = self.unit_ND[place].astype(np.float32)
        cosine_N = np.concatenate(
            [self.unit_ND[i : i + 8_192].astype(np.float32) @ unit_D for i in
             range(0, len(self.at), 8_192)]
        )  # fmt: skip
        cosine_N[place] = -np.inf
        count = min(count, len(self.at) - 1)
        best = np.argpartition(-cosine_N, max(count - 1, 0))[:count]
        best = best[np.lexsort((self.at[best], -cosine_N[best]))]
        return [(int(self.at[i]), float(cosine_N[i])) for i in best]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What the store has of a ledger's rows.

    Attributes:
        opened: the ledger.
        store: the store; None: it is not at hand.
    """

    opened: Opened
    store: Path | None

    @cached_property
    def tables(self) -> list[Tables]:
        """Vectors and token losses of any model, those that the publication names first."""
        if self.store is None or not self.store.is_dir():
            return []
        found: dict[tuple[str, str], list[tuple[Path, Mapping[str, Any]]]] = {}
        for path in sorted(self.store.glob(f"observe/*/[!.]*/{MANIFEST}")):
            try:
                told = json.loads(path.read_text("utf-8"))
                column, model = told["settings"]["column"], told["inputs"]["model"]
                tables = [path.parent / f["path"] for f in told["files"]]
            except (OSError, ValueError, KeyError):
                continue  # a damaged entry is made again by the next run
            if _VECTORS.search(column) or _LOSSES.match(column):
                known = found.setdefault((column, model), [])
                known += [(p, told["settings"]) for p in tables if p.is_file()]
        named = self._named
        groups = [
            Tables(column=c, model=m, settings=some[0][1], paths=tuple(p for p, _ in some))
            for (c, m), some in found.items()
            if some
        ]
        return sorted(groups, key=lambda t: (t.model not in named, t.column, t.model))

    @property
    def _named(self) -> set[str]:
        """Fingerprints of the models that the publication names."""
        parts = ("model_sha", "tokenizer_sha", "chat_template_sha")
        told = self.opened.manifest.get("models") or ()
        return {digest([m.get(p, "") for p in parts]) for m in told}

    @cached_property
    def vectors(self) -> Vectors | None:
        """Embeddings, or else hidden states: of those, what the most rows have."""
        tables = self._drawn
        if tables is None:
            return None
        first = self.opened.ledger.select("id", "at").unique("id", keep="first")
        known: list[NDArray[np.int64]] = []
        units: list[NDArray[np.float16]] = []
        for block in tables.blocks():
            rows = block.join(first, on="id").filter(pl.col(tables.column).is_not_null())
            if rows.is_empty():
                continue
            x_ND = _array(rows[tables.column])
            norm_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
            units.append((x_ND / np.where(norm_N1 > 0, norm_N1, 1)).astype(np.float16))
            known.append(rows["at"].cast(pl.Int64).to_numpy())
        at, unit_ND = np.concatenate(known), np.concatenate(units)
        at, places = np.unique(at, return_index=True)
        return Vectors(column=tables.column, at=at, unit_ND=unit_ND[places])

    @cached_property
    def map(self) -> pl.DataFrame:
        """`at, x, y` in the plane of the first two principal components; empty: no vectors."""
        empty = pl.DataFrame(schema={"at": pl.UInt32, "x": pl.Float64, "y": pl.Float64})
        if self._drawn is None:
            return empty
        points = plane(_Of(tables=self._drawn, ids=self.opened.ledger["id"]), self._drawn.column,
                       points=POINTS)  # fmt: skip
        found = self.opened.ledger.select("at", "id").join(points, on="id")
        return found.select(empty.columns).sort("at")

    @property
    def map_note(self) -> str:
        """What the map shows, or why there is none, in a sentence."""
        if self._drawn is None:
            where = (
                "the store is not at hand (--store names it)"
                if self.store is None or not self.store.is_dir()
                else "no method of this run read any, or the store has lost them"
            )
            return f"No embeddings of these rows were observed, so there is no map: {where}."
        shown, rows = self.map.height, self.opened.ledger.height
        drawn = f"; {shown:,} of {rows:,} rows" if shown < rows else f"; {shown:,} rows"
        return f"First two principal components of {self._drawn.column}{drawn}."

    def losses(self, ident: str, view: str) -> tuple[Tables, list[float]] | None:
        """The token losses of a view of a record, if any model was asked for them."""
        for tables in self.tables:
            match = _LOSSES.match(tables.column)
            if match is not None and match["view"] == view:
                wanted = pl.scan_parquet(list(tables.paths)).filter(pl.col("id") == ident)
                hits = wanted.select(tables.column).collect()[tables.column].drop_nulls()
                if len(hits):
                    return tables, hits[0].to_list()
        return None

    @cached_property
    def _drawn(self) -> Tables | None:
        """The vectors of the most rows, embeddings first; None: fewer than three rows have any."""
        ids = self.opened.ledger["id"].unique()
        best: tuple[int, Tables | None] = (2, None)
        kinds = ("embedding", "hidden")
        for kind in kinds:
            for tables in self.tables:
                match = _VECTORS.search(tables.column)
                if match is None or match.group(1) != kind:
                    continue
                rows = pl.scan_parquet(list(tables.paths)).select("id").collect()["id"].unique()
                covered = int(rows.is_in(ids.implode()).sum())
                if covered > best[0]:
                    best = covered, tables
            if best[1] is not None:
                break
        return best[1]


@dataclass(frozen=True, kw_only=True)
class _Of:
    """The vectors of a ledger's rows and of no others of the store, each once."""

    tables: Tables
    ids: pl.Series

    def blocks(self) -> Iterator[pl.DataFrame]:
        wanted = self.ids.unique().to_frame("id")
        seen = pl.DataFrame(schema={"id": pl.String})
        for block in self.tables.blocks():
            some = block.unique("id", keep="first", maintain_order=True)
            some = some.join(wanted, on="id", how="semi", maintain_order="left")
            some = some.join(seen, on="id", how="anti", maintain_order="left")
            seen = pl.concat([seen, some.select("id")])
            if some.height:
                yield some


def _array(column: pl.Series) -> NDArray[np.float32]:
    values: Sequence[Any] = column.to_list() if column.dtype == pl.List else column.to_numpy()  # type: ignore[assignment]
    return np.asarray(values, dtype=np.float32)
