"""A signal whose worker dies on one row, as long as a file is there: for tests of engines."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gristmill.pipeline.contracts import ModelSignal, View
from gristmill.pipeline.signals.views import Dialogue

SHOWN = Dialogue()


@dataclass(frozen=True, kw_only=True)
class Deadly(ModelSignal):
    """The length of a row; `word` in it ends the process while `flag` is there."""

    view: View = SHOWN
    flag: str
    word: str

    @property
    def column(self) -> str:
        return "deadly"

    def dtype(self, model) -> pl.DataType:
        return pl.Int64()

    def cost(self, tokens: float) -> float:
        return 1.0

    def open(self, model):
        def read(encoded: Sequence) -> list[int]:
            for one in encoded:
                if self.word in one.text and Path(self.flag).exists():
                    os._exit(9)
            return [len(one.ids) for one in encoded]

        return read
