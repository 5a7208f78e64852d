"""What is shipped: which rows in which order, under which columns; and the writing of it."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.pipeline.export import shards, views
from gristmill.pipeline.export.pool import Asked, Lines, Pool, looked_at
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import CONTENT, KEY
from gristmill.pipeline.records.store import remove, write_table
from gristmill.pipeline.report import tables
from gristmill.pipeline.report.facts import Config, Split

ROWS = ".rows"  # where the kept records are dealt while the folder is being made
POOL = ".pool"  # where the lines of the ledger wait meanwhile
_SLICE = 100_000  # lines of the ledger that are written together


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be shipped, before a byte is written.

    Attributes:
        pool: the ledger that ships.
        views: configs of the records.
        carried: columns of the ledger that records bear.
        margin: a further one, for the view "reward".
        misfit: which records no view can show, and why.
    """

    pool: Pool
    views: tuple[views.View, ...]
    carried: tuple[str, ...]
    margin: str | None
    misfit: tuple[pl.Expr, str]

    @property
    def records(self) -> Dataset:
        return self.pool.dataset

    @property
    def kept(self) -> int:
        """How many rows are shipped."""
        return self.pool.kept


def plan(
    lines: Lines,
    dataset: Dataset,
    declared: Mapping[str, Any],
    shape: Mapping[str, Any],
    references: Collection[str],
    work: Path,
) -> Plan:
    """Decide order, split and columns of what the ledger keeps.

    Args:
        lines: of the ledger, with any `score_<scorer>`.
        dataset: the records it speaks of.
        declared: what the publication says of itself: `selection`, `seeds`, `evaluation`.
        shape: `sft_view, pair_views, grpo, margin, in_order, validation_fraction`.
        references: ids that must not be kept.
        work: the folder that is being made.
    """
    kind = dataset.kind
    if not dataset.shards():
        raise ValueError("the dataset is empty: there is nothing to publish.")
    promoted = (declared["evaluation"].get("gate") or {}).get("promoted")
    approval = declared["evaluation"].get("approval")
    stamped = {}
    if promoted is not None:
        stamped["gate"] = "promoted" if promoted else "held"
    if approval is not None:
        stamped["approved_by"] = str(approval["by"])
    asked = Asked(
        scorers=tables.scorers(declared["selection"]),
        references=references,
        in_order=shape["in_order"],
        paired="reward" in shape["pair_views"],
        margin=shape.get("margin"),
        fraction=shape["validation_fraction"],
        seed=declared["seeds"].get("split", 0),
        stamped=stamped,
    )
    pool = looked_at(lines, dataset, asked, work / POOL)
    if leaked := pool.leaked:
        raise ValueError(
            f"{len(leaked):,} kept rows are reference rows, first {leaked[0]}: drop them with the "
            "reason reference_row before exporting."
        )
    if not pool.kept:
        raise ValueError("the ledger keeps no row: nothing to publish; raise the budget.")
    if lacking := pool.lacking:
        raise ValueError(
            f"{len(lacking):,} kept pairs have no {asked.margin}, first {lacking[0]}: leave the "
            "view reward out, and train on conversation, which has no margins."
        )
    carried = ["id", "source", "license", "split_group", *pool.scores]
    if pool.any("weighted"):
        carried.append("weight")
    assert not views.RESERVED & set(carried), f"{carried} has a name that trainers interpret"
    return Plan(
        pool=pool,
        carried=tuple(carried),
        margin=asked.margin if asked.paired else None,
        views=views.views(
            kind,
            sft_view=shape["sft_view"],
            pair_views=tuple(shape["pair_views"]),
            tools=pool.any("tooled"),
            grpo=shape.get("grpo", False),
        ),
        misfit=views.misfits(kind, shape["sft_view"]),
    )


def write(plan: Plan, work: Path, shard_bytes: int) -> tuple[Config, ...]:
    """Write the shards of every view and of the ledger."""
    rows = work / ROWS
    rows.mkdir(parents=True)
    lines = work / POOL / "lines"
    lines.mkdir()
    shards.deal(_placed(plan, lines), plan.kept, rows)
    parts = sorted(lines.iterdir())
    schema = pl.read_parquet_schema(parts[0])
    carried = shards.flat_schema(schema, plan.carried)
    misfit, sentence = plan.misfit
    bad = [i for frame in shards.read(rows) for i in frame.filter(misfit)["id"]]
    if bad:
        raise ValueError(f"{len(bad):,} kept rows cannot be shown, first {bad[0]}: {sentence}.")
    configs = []
    rich = plan.pool.any("rich")
    for view in plan.views:
        splits = []
        for split in ("train", "validation"):
            made = (
                view.table(frame.filter(pl.col("split") == split), carried, rich=rich)
                for frame in shards.read(rows)
            )
            splits.append(shards.write(made, work, view.folder, split, shard_bytes=shard_bytes))
        if not any(splits):
            raise ValueError(
                f"no kept row can be shown in the config {view.config}: none has an answer that a "
                "verifier can check; leave it out."
            )
        configs.append(config_of(work, view.config, splits))
    flat = shards.flat_schema(schema, list(schema))
    pool = (_bare(shards.arrow(s, flat)) for s in _slices(map(pl.read_parquet, parts)))
    ledger = shards.write(pool, work, "ledger", "pool", shard_bytes=shard_bytes)
    remove(work / POOL)
    return (*configs, config_of(work, "ledger", [ledger]))


def _placed(plan: Plan, lines: Path) -> Iterator[pl.DataFrame]:
    """The kept records with the columns that they bear; the lines of the ledger are filed."""
    new = [c for c in plan.carried if c not in KEY and c != "license"]
    own = {"position": pl.col("_position"), "split": pl.col("_split")}
    if plan.margin is not None:
        own[views.MARGIN] = pl.col(plan.margin).cast(pl.Float64)
    columns = [*KEY, "license", *CONTENT[plan.records.kind]]
    for one, made in plan.pool.lines():
        write_table(made.drop("_position", "_split"), lines / f"lines-{one.number:05d}.parquet")
        placed = made.filter(tables.KEPT).select(*KEY, *new, **own)
        for block in one.blocks(columns):
            yield block.join(placed, on=list(KEY), how="inner")


def _slices(parts: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The rows of frames in frames of `_SLICE` rows: what is written does not tell the parts."""
    held: list[pl.DataFrame] = []
    for part in parts:
        held.append(part)
        while (rows := sum(f.height for f in held)) >= _SLICE:
            whole = pl.concat(held)
            yield whole.head(_SLICE)
            held = [whole.tail(rows - _SLICE)]
    if any(f.height for f in held):
        yield pl.concat(held)


def _bare(table: pa.Table) -> pa.Table:
    """The same table without what lies behind nulls, so that its size is that of what it says."""
    columns = [
        column.take(pa.array(range(len(column)))) if column.null_count else column
        for column in table.columns
    ]
    return pa.table(columns, schema=table.schema)


def config_of(work: Path, name: str, splits: Sequence[Split | None]) -> Config:
    """A config as its files say it."""
    found = tuple(s for s in splits if s is not None)
    schema = pq.read_schema(work / found[0].paths[0])
    columns = {field.name: str(field.type) for field in schema}
    return Config(name=name, columns=columns, splits=found)
