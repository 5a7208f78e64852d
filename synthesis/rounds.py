"""A round of extraction as an entry of the store: what was pulled where, and what was learnt.

A round is one folder of three tables and the standing after it, published whole; its key holds the
round before it, so rounds form a chain and a rerun walks along it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import polars as pl

from gristmill.pipeline.models.completion.client import Budget, Price
from gristmill.pipeline.records.schema import EXAMPLE, canonical_json
from gristmill.pipeline.records.store import Entry, write_table, write_text
from gristmill.synthesis.bandit_state import State
from gristmill.synthesis.candidates import Passage, Yield, messages
from gristmill.synthesis.extraction import QA
from gristmill.synthesis.verification import Seen
from gristmill.synthesis.verified_extraction import VerifiedExtraction

PULLS: dict[str, Any] = {
    "round": pl.Int64,  # -1 = warm-up
    "cluster": pl.Int64,
    "why": pl.String,  # warm-up, probe (by chance) or chosen (by the rule)
    "index": pl.Float64,  # U when the arm was chosen; null = not tried yet
    "cost": pl.Float64,  # W; null = no pair came out
    "full": pl.Boolean,
    "documents": pl.Int64,
    "pairs": pl.Int64,
    "kept": pl.Int64,
    "tokens_in": pl.Int64,
    "tokens_out": pl.Int64,
}
SENT: dict[str, Any] = {
    "document": pl.String,
    "cluster": pl.Int64,
    "round": pl.Int64,
    "status": pl.String,  # ok, rejected or failed
    "reason": pl.String,
    "pairs": pl.Int64,
    "kept": pl.Int64,
    "tokens_in": pl.Int64,
    "tokens_out": pl.Int64,
}
CANDIDATES: dict[str, Any] = {
    "id": pl.String,
    "document": pl.String,
    "cluster": pl.Int64,
    "round": pl.Int64,
    "index": pl.Float64,
    "cost": pl.Float64,
    "question": pl.String,
    "answer": pl.String,
    "evidence": pl.String,
    "reason": pl.String,  # null = kept
    "scores": pl.String,  # JSON
    "requests": pl.List(pl.String),  # keys of the answers that made and judged it
}
TABLES = {"pulls": PULLS, "sent": SENT, "candidates": CANDIDATES}


@dataclass(frozen=True, kw_only=True)
class Caps:
    """What a run may spend in all, warm-up included; None = no cap."""

    tokens: int | None = None
    money: float | None = None
    price: Price = field(default_factory=Price)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known and spent after a round; `stop` says why no round may follow."""

    state: State
    documents: int = 0
    kept: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    stop: str = ""

    def dumps(self) -> str:
        """Canonical JSON."""
        return canonical_json({**vars(self), "state": json.loads(self.state.dumps())})

    @classmethod
    def loads(cls, text: str) -> Self:
        """What `dumps` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "state": State.loads(canonical_json(fields["state"]))})

    def left(self, caps: Caps) -> Budget:
        """What may still be spent."""
        spent = caps.price.of(self.tokens_in, self.tokens_out)
        used = self.tokens_in + self.tokens_out
        return Budget(
            tokens=None if caps.tokens is None else max(caps.tokens - used, 0),
            money=None if caps.money is None else max(caps.money - spent, 0.0),
            price=caps.price,
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The documents that one arm sends in a round, why, and its U."""

    arm: int | None
    why: str
    index: float | None
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PullResult:
    """What a pull gave; its cost once that is known."""

    batch: Batch
    yields: tuple[Yield, ...]
    cost: float | None = None

    @property
    def kept(self) -> list[QA]:
        return [c.pair for y in self.yields for c in y.kept]


def pull(
    batches: Sequence[Batch],
    texts: Mapping[str, str],
    extraction: VerifiedExtraction,
    standing: Standing,
    caps: Caps,
    seen: Seen,
) -> tuple[list[PullResult], Standing]:
    """Send the documents of a round, as many as the caps surely hold.

    What a document takes is known only afterwards, so documents go in waves: as many as fit at
    their worst case, then again as many as fit with what those really took.
    """
    todo = [Passage(id=i, text=texts[i]) for d in batches for i in d.ids]
    yields: list[Yield] = []
    while todo:
        budget = standing.left(caps)
        size = _fitting(todo, extraction, budget)
        if not size:
            standing = replace(standing, stop="budget")
            break
        wave = extraction.run(todo[:size], seen, budget)
        silent = [y for y in wave if y.status == "failed" and not y.tokens_out]
        if 2 * len(silent) > len(wave):
            raise ValueError(
                f"{len(silent)} of {len(wave)} documents got no answer (the first: "
                f"{silent[0].reason}). Answers that came are kept: mend this and run again."
            )
        yields += wave
        todo = todo[size:]
        standing = replace(
            standing,
            documents=standing.documents + len(wave),
            kept=standing.kept + sum(len(y.kept) for y in wave),
            tokens_in=standing.tokens_in + sum(y.tokens_in for y in wave),
            tokens_out=standing.tokens_out + sum(y.tokens_out for y in wave),
        )
    found = {y.document: y for y in yields}
    results = [
        PullResult(batch=d, yields=tuple(found[i] for i in d.ids if i in found)) for d in batches
    ]
    return [d for d in results if d.yields], standing


def _fitting(todo: Sequence[Passage], extraction: VerifiedExtraction, budget: Budget) -> int:
    if budget.tokens is None and budget.money is None:
        return len(todo)
    tokens_in = tokens_out = 0
    for size, passage in enumerate(todo):
        more_in, more_out = extraction.bound(passage)
        tokens_in, tokens_out = tokens_in + more_in, tokens_out + more_out
        money = budget.price.of(tokens_in, tokens_out)
        if budget.tokens is not None and tokens_in + tokens_out > budget.tokens:
            return size
        if budget.money is not None and money > budget.money:
            return size
    return len(todo)


def write(
    path: Path, number: int, results: Sequence[PullResult], standing: Standing, batch: int
) -> None:
    """Write a round's folder."""
    path.mkdir()
    for name, rows in _rows(number, results, batch).items():
        write_table(pl.DataFrame(rows, schema=TABLES[name]), path / f"{name}.parquet")
    write_text(path / "standing.json", standing.dumps())


def _rows(
    number: int, results: Sequence[PullResult], batch: int
) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for d in results:
        where = {"round": number, "cluster": d.batch.arm}
        worth = {"index": d.batch.index, "cost": d.cost}
        totals = {"pairs": 0, "kept": 0, "tokens_in": 0, "tokens_out": 0}
        for y in d.yields:
            counts = {
                "pairs": len(y.candidates),
                "kept": len(y.kept),
                "tokens_in": y.tokens_in,
                "tokens_out": y.tokens_out,
            }
            totals = {name: totals[name] + counts[name] for name in totals}
            what = {"document": y.document, "status": y.status, "reason": y.reason}
            rows["sent"].append({**where, **what, **counts})
            rows["candidates"] += [
                {
                    **where,
                    **worth,
                    "id": c.id,
                    "document": c.document,
                    "question": c.pair.question,
                    "answer": c.pair.answer,
                    "evidence": c.pair.evidence,
                    "reason": c.reason,
                    "scores": canonical_json(dict(c.scores)),
                    "requests": list(c.requests),
                }
                for c in y.candidates
            ]
        full = len(d.yields) == batch
        sizes = {"why": d.batch.why, "full": full, "documents": len(d.yields)}
        rows["pulls"].append({**where, **worth, **sizes, **totals})
    return rows


def standing_of(entry: Entry) -> Standing:
    """The standing after a round."""
    return Standing.loads(entry.read("round/standing.json").decode())


def table_of(entries: Iterable[Entry], name: str) -> pl.DataFrame:
    """One table of several rounds: "pulls", "sent" or "candidates"."""
    frames = [pl.read_parquet(BytesIO(e.read(f"round/{name}.parquet"))) for e in entries]
    return pl.concat([pl.DataFrame(schema=TABLES[name]), *frames])


def kept_pairs(entry: Entry) -> dict[str, list[QA]]:
    """The kept pairs of each document of a round."""
    frame = table_of([entry], "candidates").filter(pl.col("reason").is_null())
    found: dict[str, list[QA]] = {}
    for row in frame.iter_rows(named=True):
        pair = QA(question=row["question"], answer=row["answer"], evidence=row["evidence"])
        found.setdefault(row["document"], []).append(pair)
    return found


def records(
    candidates: pl.DataFrame, documents: pl.DataFrame, lineage: Mapping[str, Any]
) -> pl.DataFrame:
    """Candidates as example rows, in their order.

    `source` names the method and the document's source, `row` counts within it, the licence is the
    document's, and `meta` holds all that it takes to make the row again.
    """
    parents = {d["id"]: d for d in documents.iter_rows(named=True)}
    rows: list[dict[str, Any]] = []
    number: dict[str, int] = {}
    for c in candidates.iter_rows(named=True):
        parent = parents[c["document"]]
        source = f"{lineage['method']}/{parent['source']}"
        chunk = json.loads(parent["meta"] or "{}").get("chunk", {})
        made = {
            **lineage,
            **{k: c[k] for k in ("document", "cluster", "round", "index", "cost", "requests")},
            "scores": json.loads(c["scores"]),
            "evidence": c["evidence"],
            "parents": sorted({c["document"], chunk.get("document", c["document"])}),
            "span": [chunk[k] for k in ("start", "end")] if chunk else None,
        }
        pair = QA(question=c["question"], answer=c["answer"])
        rows.append(
            {
                **dict.fromkeys(EXAMPLE),
                "id": c["id"],
                "source": source,
                "row": number.get(source, 0),
                "license": parent["license"],
                "revision": parent["revision"],
                "meta": canonical_json({"synthesis": made}),
                "messages": messages(pair),
            }
        )
        number[source] = number.get(source, 0) + 1
    return pl.DataFrame(rows, schema=EXAMPLE)
