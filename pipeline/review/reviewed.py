"""Reviewed: a dataset after what people said of it.

| ruling | the row |
|---|---|
| chosen, keep | stays |
| rejected | stays, its answers the other way round: a new row, whose parent is the old one |
| fix | stays with the corrected answer: a new row likewise |
| tie, both_bad, drop, disagreed | is dropped, with the ruling as its reason |

A row keeps its place (source, row), so that the ledger has one line for it, whichever text it
bears. Copies of an item fall or change together.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from gristmill.pipeline.clean.drops import drops
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.judgements import OF_PAIRS, OF_ROWS
from gristmill.pipeline.records.schema import CONTENT, KEY, Kind, content_id, digest
from gristmill.pipeline.records.store import Entry, Part, Step, Store, table, walk, write_table
from gristmill.pipeline.review import rulings, shown

REASON = "judged: "
STAGE = "review"
_CHANGED = ("rejected", "fix")
_DROPPED = ("tie", "both_bad", "drop", rulings.DISAGREED)
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Reviewed:
    """What became of a dataset.

    Attributes:
        dataset: its rows, some of them changed.
        judged: an entry with one table: `KEY` of the rows as they are now, `item` (the id that was
            judged), `judgement`, `judged_by`.
        dropped: an entry with the rows that fall, as cleaning names them.
        facts: for card and manifest: counts by ruling, agreement.
    """

    dataset: Dataset
    judged: Entry
    dropped: Entry
    facts: Mapping[str, Any]

    def told_in(self, ledger: pl.LazyFrame) -> pl.LazyFrame:
        """A ledger of these rows with `judgement` and `judged_by`; null where nobody judged."""
        said = self.judged.frame([*KEY, "judgement", "judged_by"])
        return ledger.join(said.lazy(), on=KEY, how="left", validate="1:1", maintain_order="left")


def reviewed(
    store: Store,
    dataset: Dataset,
    judgements: pl.DataFrame,
    apart: Collection[str] = (),
) -> Reviewed:
    """A dataset after the judgements on it; rows that nobody judged are as they were.

    Args:
        store: where the changed rows go.
        dataset: the records as they were judged.
        judgements: of the columns `JUDGEMENTS`.
        apart: ids of rows that stay as they are, whatever was said of them: they fall anyway, and
            what is to fall with them is found by their text.

    Raises:
        ValueError: no row of the dataset was judged, or the judgements are of another kind.
    """
    ruled = rulings.rulings(judgements)
    known = dataset.frame(list(KEY)).rename({"id": "item"})
    of_rows = known.join(ruled, on="item", how="inner", maintain_order="left")
    _refuse(dataset, ruled, of_rows)
    ruled, of_rows = (f.filter(~pl.col("item").is_in(list(apart))) for f in (ruled, of_rows))
    changes = ruled.filter(
        pl.col("ruling").is_in(_CHANGED), pl.col("item").is_in(known["item"].implode())
    )
    now = dataset if changes.is_empty() else _changed(store, dataset, changes)
    ids = _new_ids(dataset, changes)
    judged = of_rows.select(
        *("item", "source", "row", "judged_by"),
        id=pl.col("item").replace(ids),
        judgement=pl.col("ruling"),
    ).select(*KEY, "item", "judgement", "judged_by")
    inputs = {"pool": now.content, "rulings": digest(judged.rows())}
    kept = Step(name="judged", version=VERSION, inputs=inputs)
    fallen = Step(name="judged-drops", version=VERSION, inputs=inputs)
    gone = judged.filter(pl.col("judgement").is_in(_DROPPED))
    fall = drops(gone, reason=REASON + gone["judgement"], stage=STAGE)
    return Reviewed(
        dataset=now,
        judged=store.run(kept, [table("judged", lambda: judged)]),
        dropped=store.run(fallen, [table("drops", lambda: fall)]),
        facts=_facts(judgements, ruled, of_rows),
    )


def _refuse(dataset: Dataset, ruled: pl.DataFrame, of_rows: pl.DataFrame) -> None:
    """Stop where the judgements cannot be of these rows."""
    possible = OF_PAIRS if dataset.kind == "pair" else OF_ROWS
    strange = sorted(set(ruled["ruling"]) - {*possible, rulings.DISAGREED})
    if strange:
        raise ValueError(
            f"review: the judgement {strange[0]!r} is not one of {dataset.kind}s, of which people "
            f"say {', '.join(possible)}: give the review of these rows."
        )
    if of_rows.is_empty():
        raise ValueError(
            f"review: none of the {ruled.height:,} judged items is among the rows of this run: "
            "give the review of these rows (an item is named by the hash of its text)."
        )


def _changed(store: Store, dataset: Dataset, changes: pl.DataFrame) -> Dataset:
    """The dataset with the rows that people changed: swapped, or corrected."""
    step = Step(
        name="reviewed",
        version=VERSION,
        inputs={
            "records": dataset.content,
            "changes": digest(changes.select("item", "ruling", "answer").rows()),
        },
    )
    by_id = {row["item"]: row for row in changes.iter_rows(named=True)}
    home = dataset.entry.path
    parts = []
    for path in sorted(p for p in walk(home) if p.suffix == ".parquet"):
        name = path.relative_to(home).as_posix()
        make = partial(_rewrite, path=path, dataset=dataset, changes=by_id)
        parts.append(Part(name=name, write=make))
    facts = {"kind": dataset.kind, "sources": dataset.sources}
    return Dataset(entry=store.run(step, parts, note=lambda _: facts), kind=dataset.kind)


def _new_ids(dataset: Dataset, changes: pl.DataFrame) -> dict[str, str]:
    """The id of each changed item, by the one it had."""
    by_id = {row["item"]: row for row in changes.iter_rows(named=True)}
    blocks = dataset.blocks() if by_id else ()
    some = (b.filter(pl.col("id").is_in(list(by_id))) for b in blocks)
    return {
        record["id"]: _made(record, dataset.kind, by_id[record["id"]])["id"]
        for block in some
        for record in block.iter_rows(named=True)
    }


def _rewrite(
    target: Path, *, path: Path, dataset: Dataset, changes: Mapping[str, Mapping[str, Any]]
) -> None:
    frame = pl.read_parquet(path)
    if path.name.startswith("records"):
        frame = _with_changes(frame, dataset.kind, changes)
    write_table(frame, target)


def _with_changes(
    frame: pl.DataFrame, kind: Kind, changes: Mapping[str, Mapping[str, Any]]
) -> pl.DataFrame:
    if not set(frame["id"]) & set(changes):
        return frame
    rows = []
    for record in frame.iter_rows(named=True):
        change = changes.get(record["id"])
        rows.append(record if change is None else _made(record, kind, change))
    return pl.DataFrame(rows, schema=frame.schema)


def _made(record: Mapping[str, Any], kind: Kind, change: Mapping[str, Any]) -> dict[str, Any]:
    made = (
        shown.swapped(record)
        if change["ruling"] == "rejected"
        else shown.corrected(record, kind, change["answer"])
    )
    ident = content_id(kind, {c: made[c] for c in CONTENT[kind]})
    return {**made, "id": ident, "meta": shown.derived(record, record["id"])}


def _facts(judgements: pl.DataFrame, ruled: pl.DataFrame, of_rows: pl.DataFrame) -> dict[str, Any]:
    """What card and manifest say of the review."""
    counts = of_rows.group_by("ruling").len().sort("ruling")
    ours = ruled.filter(pl.col("item").is_in(of_rows["item"].implode()))
    several = ours.filter(pl.col("said") > 1)
    return {
        "rows": dict(counts.iter_rows()),
        "not_among_the_rows": ruled.height - ours.height,
        "conflicts": {
            "resolved_by_majority": several.filter(
                ~pl.col("unanimous"), pl.col("ruling") != rulings.DISAGREED
            ).height,
            "left_open": several.filter(ruling=rulings.DISAGREED).height,
        },
        **rulings.agreement(judgements),
    }
