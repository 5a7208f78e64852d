"""Pairs as judges are shown them, and pairs turned round."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from gristmill.pipeline.records.schema import CONTENT, content_id
from gristmill.pipeline.records.text import message_text
from gristmill.synthesis.curation.votes import Label


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A pair as text."""

    id: str
    prompt: str
    chosen: str
    rejected: str

    def side(self, name: Label) -> str:
        """The answer on one side of the record."""
        return self.chosen if name == "chosen" else self.rejected


def shown(pairs: pl.DataFrame) -> list[Shown]:
    """The texts of pairs; a dialogue before the answers names its speakers."""
    return [
        Shown(
            id=row["id"],
            prompt=_prompt(row["prompt"]),
            chosen="\n".join(map(message_text, row["chosen"])),
            rejected="\n".join(map(message_text, row["rejected"])),
        )
        for row in pairs.select("id", "prompt", "chosen", "rejected").iter_rows(named=True)
    ]


def _prompt(messages: list[Mapping[str, Any]]) -> str:
    if len(messages) == 1:
        return message_text(messages[0])
    return "\n\n".join(f"[{m['role']}]\n{message_text(m)}" for m in messages)


def turned(pairs: pl.DataFrame, labels: Mapping[str, Label]) -> pl.DataFrame:
    """The pairs that have a label, their better side as `chosen`, under the ids of such records."""
    rows = [
        {**row, **_turned(row)} if labels[row["id"]] == "rejected" else row
        for row in pairs.iter_rows(named=True)
        if row["id"] in labels
    ]
    return pl.DataFrame(rows, schema=pairs.schema)


def _turned(row: Mapping[str, Any]) -> dict[str, Any]:
    content = {c: row.get(c) for c in CONTENT["pair"]}
    content |= {"chosen": row["rejected"], "rejected": row["chosen"]}
    return {**content, "id": content_id("pair", content)}
