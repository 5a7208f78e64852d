"""Why: the story of one row, in sentences, with what the row says."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.export import ledgers
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.dataset import stored
from gristmill.pipeline.records.schema import CONTENT
from gristmill.pipeline.selection.verdicts import QUARANTINED

_UNSCORED = "unscored: "
_SAID = {
    "exact_duplicate": "it says the same as the row {duplicate_of}, which stays",
    "near_duplicate": "it is nearly the same as the row {duplicate_of}, which stays",
    "semantic_duplicate": "it says in other words what the row {duplicate_of} says, which stays",
    "reference_row": "it is one of the target rows, which are never shipped",
    "both_directions": "another pair holds the same two answers the other way round",
    "not_in_keep_list": "it is on no list of rows to keep",
    "in_drop_list": "it is on a list of rows to drop",
    "takedown": "it, or a row that says the same, is on a takedown list",
    "below_budget": "the budget was full before its turn came",
}


@dataclass(frozen=True, kw_only=True)
class Story:
    """One row in one ledger.

    Attributes:
        line: the ledger's line, with `dataset`.
        sentences: what it says.
        turns: (who, text) of the row; empty: the text is not at hand.
    """

    line: Mapping[str, Any]
    sentences: Sequence[str]
    turns: Sequence[tuple[str, str]]


def stories(ident: str, where: Path, store: Path | None = None) -> list[Story]:
    """What became of a row in each ledger that knows it.

    Args:
        ident: id, start of an id, or the user's own id.
        where: as for `ledgers.ledgers`.
        store: folder of the store, which holds the text of rows that were left out.
    """
    found = []
    of = ledgers.ledgers(where)
    for path, line in ledgers.lines(ident, where):
        folder = path.parents[1]
        told = {"dataset": _dataset(path), **line}
        parts = [pl.scan_parquet(p) for p in of if p.parent == path.parent]
        read = [part.select("score", "rank", "verdict").collect() for part in parts]
        said = sentences(told, **standing(pl.concat(read)))
        found.append(Story(line=told, sentences=said, turns=_turns(folder, line, store)))
    return found


def standing(ledger: pl.DataFrame) -> dict[str, Any]:
    """What a row's score is held against: the lowest that was kept, and how many rows have one."""
    lowest = ledger.filter(verdict="kept")["score"].min()
    return {"lowest": lowest, "ranked": ledger["rank"].count()}


def _dataset(path: Path) -> str:
    """A published dataset by name and version; any other ledger by its file."""
    folder = path.parents[1]
    published = (folder / "manifest.json").is_file() and path.parent.name == "ledger"
    return f"{folder.parent.name} {folder.resolve().name}" if published else path.name


def sentences(
    line: Mapping[str, Any], *, lowest: float | None = None, ranked: int = 0
) -> list[str]:
    """Why a row is in, or out.

    Args:
        line: the ledger's, with `dataset`: a name.
        lowest: the lowest score that was kept.
        ranked: how many rows have a rank.
    """
    own = f", which you call {line['user_id']}" if line.get("user_id") else ""
    row = f"Row {line['row']} of {line['source']} (id {line['id']}{own})"
    placed = _placed(line, lowest, ranked)
    if line["verdict"] == "kept":
        weight = line.get("weight")
        counts = f" It counts for {weight:g} rows." if weight not in (None, 1.0) else ""
        held = " That version is held: its selection did not beat its control."
        gate = held if line.get("gate") == "held" else ""
        return [f"{row} is in {line['dataset']}.{counts}{gate}", *placed, *_judged(line)]
    reason = str(line["reason"] or "")
    if line["verdict"] == "quarantined":
        said = reason.removeprefix(QUARANTINED).strip()
        return [f"{row} is not in {line['dataset']}: it could not be read ({said})."]
    return [f"{row} is not in {line['dataset']}: {_because(line, reason)}.", *placed]


def _because(line: Mapping[str, Any], reason: str) -> str:
    name, _, detail = reason.partition(": ")
    if name == "contaminated":
        return f"it repeats an item of the evaluation set {line.get('contaminates') or detail}"
    if reason.startswith(_UNSCORED):
        return f"it has no score at the stage {line['stage']} ({reason.removeprefix(_UNSCORED)})"
    if name == "judged":
        return f"people looked at it: {detail} ({line.get('judged_by')})"
    if name in _SAID:
        said = _SAID[name].format(duplicate_of=line.get("duplicate_of") or "of another file")
        return said if name != "below_budget" else f"at the stage {line['stage']} {said}"
    if line["stage"] == "clean":
        return f"cleaning dropped it ({reason})"
    return f"at the stage {line['stage']} the rule passed it over ({reason})"


def _judged(line: Mapping[str, Any]) -> Iterator[str]:
    """What people said of a row that is in, and who let the version through."""
    if line.get("judgement") is not None:
        done = {"rejected": "; its two answers were swapped", "fix": "; its answer was corrected"}
        said = f"{line['judgement']}{done.get(line['judgement'], '')}"
        yield f"Judged by {line['judged_by']}: {said}."
    if line.get("approved_by") is not None:
        yield f"{line['approved_by']} approved this version, having looked at a sample of it."


def _placed(line: Mapping[str, Any], lowest: float | None, ranked: int) -> list[str]:
    """Score and rank, beside those that decide."""
    if line.get("score") is None:
        return []
    kept = "" if lowest is None else f"; the lowest score that was kept is {lowest:.6g}"
    place = f", rank {line['rank']:,} of {ranked:,}" if line.get("rank") is not None else ""
    return [f"Its score is {line['score']:.6g}{place}{kept}."]


def _turns(folder: Path, line: Mapping[str, Any], store: Path | None) -> list[tuple[str, str]]:
    record = _published(folder, line["id"]) or _stored(folder, line, store)
    return [] if record is None else list(_said(record))


def _published(folder: Path, ident: str) -> dict[str, Any] | None:
    for path in sorted(folder.glob("data/*.parquet")):
        hits = pl.scan_parquet(path).filter(pl.col("id") == ident).collect().to_dicts()
        if hits:
            return hits[0]
    return None


def _stored(folder: Path, line: Mapping[str, Any], store: Path | None) -> dict[str, Any] | None:
    """The record in the store's dataset that the publication was made from."""
    if store is None or not store.is_dir():
        return None
    manifest = folder / "manifest.json"
    told = json_text.loads(manifest.read_text("utf-8")) if manifest.is_file() else {}
    content = told.get("inputs", {}).get("dataset")
    for dataset in stored(store):
        if content not in (None, dataset.content):
            continue
        for shard in dataset.shards():
            wanted = pl.scan_parquet(shard).filter(pl.col("id") == line["id"])
            if hits := wanted.collect().to_dicts():
                return hits[0]
    return None


def _said(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = dict.fromkeys(name for columns in CONTENT.values() for name in columns)
    for name in (*names, "completion"):
        value = record.get(name)
        if isinstance(value, str):
            yield name, value
        for turn in value if isinstance(value, list) else ():
            fields = json.loads(turn) if isinstance(turn, str) else turn
            who = fields["role"] if name == "messages" else f"{name}, {fields['role']}"
            further = {k: v for k, v in fields.items() if k not in ("role", "content") and v}
            yield (
                who,
                "\n".join(
                    [fields.get("content") or "", *(f"{k}: {v}" for k, v in further.items())]
                ).strip(),
            )
