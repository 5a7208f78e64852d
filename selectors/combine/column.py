"""Column: a score that the user brings along."""

import json
from dataclasses import dataclass
from typing import ClassVar, Literal

import polars as pl

from gristmill.pipeline.contracts import Observations, Scorer, Signal
from gristmill.pipeline.records.schema import KINDS, Kind


@dataclass(frozen=True, kw_only=True)
class Column(Scorer):
    """A number that is in the data already.

    score(z) = z[name], or -z[name] with prefer="low".

    Reads: the field `name` of the input row (dots go into nested objects); no model.
    Reference: none.
    Higher means: what the column's maker meant by it. Keep it.
    Cost: no pass; O(N) to score.
    Paper: none.
    Departures: exact copies share one id and so one score, that of the first copy.
    Relations: the way to use a reward, a rating or another tool's score, alone or in a `blend`.
    Example: `Column(name="quality").score(pool)`
    """

    scope: ClassVar = "row"
    records: ClassVar[tuple[Kind, ...]] = KINDS
    cost: ClassVar[str] = "0 fe"
    name: str = "score"
    prefer: Literal["high", "low"] = "high"

    @property
    def signals(self) -> tuple[Signal, ...]:
        return ()

    @property
    def record_columns(self) -> tuple[str, ...]:
        return ("meta",)

    def score(self, pool: Observations, reference: Observations | None = None) -> pl.DataFrame:
        sign = 1.0 if self.prefer == "high" else -1.0
        ids, scores, reasons = [], [], []
        for block in pool.blocks():
            for ident, meta in block.select("id", "meta").iter_rows():
                value = self._read(meta)
                ids.append(ident)
                scores.append(None if value is None else sign * value)
                reasons.append(f"no_number_in: {self.name}" if value is None else None)
        return pl.DataFrame(
            {"id": ids, "score": scores, "reason": reasons},
            schema={"id": pl.String, "score": pl.Float64, "reason": pl.String},
        )

    def _read(self, meta: str | None) -> float | None:
        value = json.loads(meta) if meta else None
        for part in self.name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            return None
        try:  # a CSV's cells are text
            return float(value)
        except (ValueError, OverflowError):
            return None
