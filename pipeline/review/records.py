"""The records of a review, one at a time: where each lies is known, its text is read when shown."""

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.records.dataset import Dataset

_OPEN = 4  # shards in memory


@dataclass(kw_only=True)
class Shelf:
    """Records by id; of copies, the first.

    Attributes:
        dataset: what holds them.
    """

    dataset: Dataset
    _open: "OrderedDict[Path, pl.DataFrame]" = field(default_factory=OrderedDict)

    @cached_property
    def _places(self) -> dict[str, Path]:
        places: dict[str, Path] = {}
        for shard in self.dataset.shards():
            for ident in self.dataset.block(shard, ["id"])["id"]:
                places.setdefault(ident, shard)
        return places

    @property
    def ids(self) -> list[str]:
        """All of them, sorted."""
        return sorted(self._places)

    def __contains__(self, ident: str) -> bool:
        return ident in self._places

    def record(self, ident: str) -> dict[str, Any]:
        """A record."""
        shard = self._places[ident]
        if shard not in self._open:
            self._open[shard] = self.dataset.block(shard)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard].filter(pl.col("id") == ident).row(0, named=True)
