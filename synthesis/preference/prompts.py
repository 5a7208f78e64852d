"""Prompts: rows of any kind to what is asked in them, each prompt once, and what is set aside.

An example is asked up to its last answer, a pair its prompt, a document its text. Where a row's
answer is one that can be checked, it becomes the prompt's known answer; it is nobody's candidate
unless a role of the run gives it as one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.clean.decontaminate import Gate, decontaminate
from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.numerics.answers import Grade, known_answer, same
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import EXAMPLE, digest
from gristmill.pipeline.records.store import Entry, Step, Store, open_entry, table
from gristmill.pipeline.records.text import message_text
from gristmill.pipeline.signals.next_token import transcript
from gristmill.synthesis.preference.candidates import PROMPTS, prompt_id

ASIDE: dict[str, Any] = {
    "prompt": pl.String,
    "source": pl.String,
    "row": pl.Int64,
    "reason": pl.String,  # a word, or a word, a colon and a detail
}
_TABLES = {"prompts": PROMPTS, "aside": ASIDE}


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is asked; see `PROMPTS`."""

    id: str
    source: str
    row: int
    license: str | None
    messages: Sequence[Mapping[str, Any]]
    tools: str | None
    text: str
    answer: str | None


@dataclass(frozen=True, kw_only=True)
class Known:
    """Where known answers come from.

    Attributes:
        grade: how a known answer is read and held against others; None: there are none.
        column: of the rows, that holds it; None: the row's own answer.
    """

    grade: Grade | None = "final"
    column: str | None = None

    def of(self, row: Mapping[str, Any], reply: str) -> str | None:
        """The known answer of a row; None if it has none that can be checked."""
        if self.grade is None:
            return None
        if self.column is not None:
            told = json.loads(row["meta"] or "{}").get(self.column)
            reply = told if isinstance(told, str) else "" if told is None else json.dumps(told)
        return known_answer(reply, self.grade) if reply.strip() else None


def gather(
    store: Store,
    rows: Dataset,
    *,
    known: Known | None = None,
    items: pl.DataFrame | None = None,
    gate: Gate | None = None,
) -> Entry:
    """The prompts of rows; kept in the store.

    Args:
        store: where they are kept.
        rows: of any kind.
        known: where known answers come from.
        items: of evaluation sets, which no prompt may repeat; see `clean.benchmarks`.
        gate: what counts as a repetition.
    """
    known, gate = known or Known(), gate or Gate()
    step = Step(
        name="prompts",
        version=1,
        settings={
            "known": settings_of(known),
            "gate": None if items is None else settings_of(gate),
        },
        inputs={
            "rows": rows.content,
            "items": "none" if items is None else digest(items.rows()),
        },
    )
    made: dict[str, pl.DataFrame] = {}

    def work(name: str) -> pl.DataFrame:
        if not made:
            made.update(_gathered(rows, known, items, gate))
        return made[name]

    return store.run(step, [table(name, lambda name=name: work(name)) for name in _TABLES])  # type: ignore[misc]


def prompts_in(folder: Path) -> list[Prompt]:
    """The prompts of a finished `gather`."""
    frame = read(folder, "prompts").rename({"prompt": "id"})
    return [Prompt(**row) for row in frame.iter_rows(named=True)]


def read(folder: Path, name: str) -> pl.DataFrame:
    """A table of a finished step, checked against its manifest."""
    return pl.read_parquet(BytesIO(open_entry(folder).read(f"{name}.parquet")))


def asked_in(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[Mapping[str, Any]]]:
    """The turns of a record before its last answer, and that answer (of a pair: none)."""
    if "text" in row:
        return [{"role": "user", "content": row["text"], "extra": None}], []
    if "prompt" in row:
        return [dict(m) for m in row["prompt"]], []
    turns = [dict(m) for m in row["messages"]]
    reply: list[Mapping[str, Any]] = []
    if turns and turns[-1]["role"] == "assistant":
        reply.append(turns.pop())
    return turns, reply


def _gathered(
    rows: Dataset, known: Known, items: pl.DataFrame | None, gate: Gate
) -> dict[str, pl.DataFrame]:
    found: dict[str, dict[str, Any]] = {}
    aside: list[dict[str, Any]] = []
    differing: set[str] = set()
    for row in rows.frame().sort("source", "row", "id").iter_rows(named=True):
        turns, reply = asked_in(row)
        ident = prompt_id(turns, row.get("tools"))
        place = {"prompt": ident, "source": row["source"], "row": row["row"]}
        text = transcript(turns)
        if not text.strip() or not any(m["role"] == "user" for m in turns):
            aside.append({**place, "reason": "no_prompt: nothing is asked in the row"})
            continue
        answer = known.of(row, "\n".join(message_text(m) for m in reply))
        first = found.get(ident)
        if first is not None:
            aside.append({**place, "reason": f"repeated: {first['source']} row {first['row']}"})
            if first["answer"] is None:
                first["answer"] = answer
            elif answer is not None and not same(first["answer"], answer):
                differing.add(ident)
            continue
        more = {"license": row["license"], "messages": turns, "tools": row.get("tools")}
        found[ident] = {**place, **more, "text": text, "answer": answer}
    for ident in sorted(differing):
        one = found.pop(ident)
        place = {k: one[k] for k in ("prompt", "source", "row")}
        aside.append({**place, "reason": "answers_differ: its rows give different answers"})
    prompts = pl.DataFrame(list(found.values()), schema=PROMPTS)
    if items is not None and not prompts.is_empty():
        dropped = _contaminated(prompts, items, gate)
        aside += dropped.to_dicts()
        prompts = prompts.join(dropped, on="prompt", how="anti", maintain_order="left")
    return {"prompts": prompts, "aside": pl.DataFrame(aside, schema=ASIDE)}


def _contaminated(prompts: pl.DataFrame, items: pl.DataFrame, gate: Gate) -> pl.DataFrame:
    """`ASIDE` of the prompts that repeat an item."""
    missing = [c for c in EXAMPLE if c not in (*prompts.columns, "id")]
    records = prompts.rename({"prompt": "id"}).with_columns(
        pl.lit(None, EXAMPLE[c]).alias(c) for c in missing
    )
    dropped, _ = decontaminate([records.select(list(EXAMPLE))], items, gate=gate)
    return dropped.select(pl.col("id").alias("prompt"), "source", "row", "reason")
