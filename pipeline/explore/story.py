"""Story: all that is known of one row: why it is in or out, its text, its scores, its likes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from gristmill.pipeline.explore.dialogue import Turn, turns
from gristmill.pipeline.explore.explorer import Explorer, line_of
from gristmill.pipeline.explore.shading import Shaded, Shading
from gristmill.pipeline.export.why import sentences, standing

NEAREST = 8
_COPIES = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class Stories:
    """The rows of an explorer, one at a time."""

    explorer: Explorer

    def of(self, at: int) -> dict[str, Any]:
        """A row's ledger line, what it says in sentences, its places and its copies."""
        explorer = self.explorer
        line = line_of(explorer.ledger, at)
        told = {**line, "dataset": explorer.opened.title}
        known = line["verdict"] is not None
        return {
            "at": at,
            "id": line["id"],
            "verdict": line["verdict"],
            "sentences": [
                *(sentences(told, **self._standing) if known else [_absent(line)]),
                *self._before(line),
            ],
            "scores": [self._place(name, line[name]) for name in explorer.scores],
            "parts": [self._place(name, line[name]) for name in explorer.parts],
            "copies": explorer.brief(self._copies(line)),
            "line": {k: v for k, v in line.items() if v is not None and k != "at"},
        }

    def turns(self, at: int) -> tuple[list[Turn], str | None]:
        """What a row says; nothing, and why, where its text is not at hand."""
        explorer = self.explorer
        line = line_of(explorer.ledger, at)
        record = explorer.records.of([at]).get(at)
        if record is not None:
            return turns(record), None
        if line["verdict"] == "quarantined":
            key = {"id": line["id"], "source": line["source"], "row": line["row"]}
            hits = explorer.records.unread.filter(**key).to_dicts()
            if hits:
                where = f"{hits[0]['file']}, line {hits[0]['line']}"
                part = Turn(part="quarantine", role=where, content=hits[0]["excerpt"] or "")
                return [part], "This row could not be read; it begins so:"
        return [], (
            "Its text is neither in the publication nor in the store (--store names another)."
        )

    def shaded(self, at: int) -> list[Shaded]:
        """A row as its model reads it, a pair by each of its answers."""
        line_of(self.explorer.ledger, at)
        record = self.explorer.records.of([at]).get(at)
        if record is None:
            return [Shaded(tokens=(), note="The text of this row is not at hand.")]
        return self._shading.of(record)

    def nearest(self, at: int) -> dict[str, Any]:
        """The rows that are most alike by the vectors of the map."""
        line = line_of(self.explorer.ledger, at)
        vectors = self.explorer.observed.vectors
        if vectors is None:
            return {"rows": [], "note": self.explorer.observed.map_note}
        first = self.explorer.opened.ledger.filter(id=line["id"])["at"].min()
        near = vectors.nearest(int(str(first)), NEAREST) if first is not None else []
        rows = self.explorer.brief([number for number, _ in near])
        note = f"By cosine of {vectors.column}." if near else "This row has no vector."
        together = zip(rows, near, strict=True)
        return {"rows": [{**row, "cosine": c} for row, (_, c) in together], "note": note}

    @cached_property
    def _shading(self) -> Shading:
        return Shading(opened=self.explorer.opened, observed=self.explorer.observed)

    @cached_property
    def _standing(self) -> dict[str, Any]:
        return standing(self.explorer.opened.ledger)

    def _place(self, name: str, value: float | None) -> dict[str, Any]:
        column = self.explorer.numbers[name]
        above, of = column.place(value) if value is not None else (None, len(column.sorted_N))
        held = self.explorer.threshold if name == "score" else None
        return {"name": name, "value": value, "rank": above, "of": of, "low": column.low,
                "high": column.high, "threshold": held}  # fmt: skip

    def _before(self, line: Mapping[str, Any]) -> list[str]:
        """What the other version said of the row."""
        before = self.explorer.before
        if before is None:
            return []
        if line["before_verdict"] is None:
            return [f"{before.title} does not know it."]
        score = f", score {line['before_score']:.6g}" if line["before_score"] is not None else ""
        rank = f", rank {line['before_rank']:,}" if line["before_rank"] is not None else ""
        why = f" ({line['before_reason']})" if line["before_reason"] else ""
        return [f"In {before.title} it was {line['before_verdict']}{why}{score}{rank}."]

    def _copies(self, line: Mapping[str, Any]) -> list[int]:
        """Rows that say the same or nearly: of its cluster, or named by one another."""
        alike = (pl.col("id") == line["id"]) | (pl.col("duplicate_of") == line["id"])
        for name, column in (("duplicate_of", "id"), ("duplicate_of", "duplicate_of"),
                             ("cluster", "cluster")):  # fmt: skip
            if line.get(name):
                alike |= pl.col(column) == line[name]
        found = self.explorer.ledger.filter(alike & (pl.col("at") != line["at"]))
        return found["at"].head(_COPIES).to_list()


def _absent(line: Mapping[str, Any]) -> str:
    return f"Row {line['row']} of {line['source']} (id {line['id']}) is no longer in the pool."
