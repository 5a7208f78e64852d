"""What is shipped: which rows in which order, under which columns; and the writing of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from gristmill.pipeline.export import provenance, shards, views
from gristmill.pipeline.records.dataset import Records
from gristmill.pipeline.records.schema import CONTENT, KEY
from gristmill.pipeline.report import tables
from gristmill.pipeline.report.facts import Config, Split

ROWS = ".rows"  # where the kept records are dealt while the folder is being made


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be shipped, before a byte is written."""

    records: Records
    ledger: pl.DataFrame  # as it will be published
    placed: pl.DataFrame  # kept rows: key, position, split and the carried columns
    views: tuple[views.View, ...]
    carried: dict[str, Any]  # column -> Arrow type
    rich: bool
    misfit: tuple[pl.Expr, str]


def leaked(ledger: pl.DataFrame, references: Collection[str]) -> None:
    """Stop if a row that scores were measured against would be shipped."""
    found = sorted(set(references) & set(ledger.filter(tables.KEPT)["id"]))
    if found:
        raise ValueError(
            f"{len(found):,} kept rows are reference rows, first {found[0]}: drop them with the "
            "reason reference_row before exporting."
        )


def plan(
    ledger: pl.DataFrame, dataset: Records, declared: Mapping[str, Any], shape: Mapping[str, Any]
) -> Plan:
    """Decide order, split and columns of what the ledger keeps.

    Args:
        ledger: the ledger, with any `score_<scorer>`.
        dataset: the records it speaks of.
        declared: what the publication says of itself: `selection`, `seeds`, `evaluation`.
        shape: `sft_view, pair_views, grpo, margin, in_order, validation_fraction`.
    """
    kind = dataset.kind
    kept = ledger.filter(tables.KEPT)
    if kept.is_empty():
        raise ValueError("the ledger keeps no row: nothing to publish; raise the budget.")
    names = tables.scorers(declared["selection"])
    ledger = tables.named_scores(ledger, names)
    columns = [*provenance.NARROW, *CONTENT[kind]]
    known = provenance.narrow(dataset.blocks(columns), kind)
    public = provenance.published(ledger, known, dataset.sources, names)
    promoted = (declared["evaluation"].get("gate") or {}).get("promoted")
    if promoted is not None:
        verdict = "promoted" if promoted else "held"
        public = public.with_columns(gate=pl.when(tables.KEPT).then(pl.lit(verdict)))
    approval = declared["evaluation"].get("approval")
    if approval is not None:
        who = pl.lit(str(approval["by"]))
        public = public.with_columns(approved_by=pl.when(tables.KEPT).then(who))
    place = public.filter(tables.KEPT)
    order = ["order", "id"] if shape["in_order"] else ["id"]
    if shape["in_order"] and "order" not in place.columns:
        raise ValueError("in_order needs the ledger's column order, which this ledger lacks.")
    groups = provenance.validation_groups(
        place["split_group"], shape["validation_fraction"], declared["seeds"].get("split", 0)
    )
    held = pl.col("split_group").is_in(sorted(groups))
    place = place.sort(*order, "source", "row").with_row_index("position")
    place = place.with_columns(
        pl.col("position").cast(pl.Int64),
        split=pl.when(held).then(pl.lit("validation")).otherwise(pl.lit("train")),
    )
    scores = tables.score_columns(place)
    carried = ["id", "source", "license", "split_group", *scores]
    if place.filter(pl.col("weight") != 1).height:
        carried.append("weight")
    flags = known.join(place, on=list(KEY), how="semi").select(pl.col("rich", "tooled").any())
    rich, tooled = flags.row(0)
    new = [c for c in carried if c not in KEY and c != "license"]
    if "reward" in shape["pair_views"]:
        place, new = place.with_columns(margins(place, shape.get("margin"))), [*new, views.MARGIN]
    assert not views.RESERVED & set(carried), f"{carried} has a name that trainers interpret"
    return Plan(
        records=dataset,
        ledger=public,
        placed=place.select(*KEY, "position", "split", *new),
        views=views.views(
            kind,
            sft_view=shape["sft_view"],
            pair_views=tuple(shape["pair_views"]),
            tools=tooled,
            grpo=shape.get("grpo", False),
        ),
        carried=shards.flat_schema(place, carried),
        rich=bool(rich),
        misfit=views.misfits(kind, shape["sft_view"]),
    )


def margins(place: pl.DataFrame, column: str | None) -> pl.Series:
    """How much better each chosen side is: the numbers that a reward trainer subtracts.

    Args:
        place: the kept rows of the ledger.
        column: of the ledger, that holds them.

    Raises:
        ValueError: there is no such column, or a kept row has no number there.
    """
    scores = [c for c, kind in place.schema.items() if kind.is_float() and c != "weight"]
    if column is None or column not in place.columns or not place[column].dtype.is_numeric():
        raise ValueError(
            f"the view reward needs `margin`, the column of the ledger with the margins of pairs; "
            f"found {column!r}, and there are {', '.join(scores)}."
        )
    lacking = place.filter(pl.col(column).is_null())
    if lacking.height:
        raise ValueError(
            f"{lacking.height:,} kept pairs have no {column}, first {lacking['id'][0]}: leave the "
            "view reward out, and train on conversation, which has no margins."
        )
    return place[column].cast(pl.Float64).alias(views.MARGIN)


def write(plan: Plan, work: Path, shard_bytes: int) -> tuple[Config, ...]:
    """Write the shards of every view and of the ledger."""
    rows = work / ROWS
    rows.mkdir(parents=True)
    columns = [*KEY, "license", *CONTENT[plan.records.kind]]
    shards.deal(plan.records.blocks(columns), plan.placed, rows)
    misfit, sentence = plan.misfit
    bad = [i for frame in shards.read(rows) for i in frame.filter(misfit)["id"]]
    if bad:
        raise ValueError(f"{len(bad):,} kept rows cannot be shown, first {bad[0]}: {sentence}.")
    configs = []
    for view in plan.views:
        splits = []
        for split in ("train", "validation"):
            made = (
                view.table(frame.filter(pl.col("split") == split), plan.carried, rich=plan.rich)
                for frame in shards.read(rows)
            )
            splits.append(shards.write(made, work, view.folder, split, shard_bytes=shard_bytes))
        if not any(splits):
            raise ValueError(
                f"no kept row can be shown in the config {view.config}: none has an answer that a "
                "verifier can check; leave it out."
            )
        configs.append(config_of(work, view.config, splits))
    schema = shards.flat_schema(plan.ledger, plan.ledger.columns)
    parts = (shards.arrow(p, schema) for p in plan.ledger.iter_slices(100_000))
    pool = shards.write(parts, work, "ledger", "pool", shard_bytes=shard_bytes)
    return (*configs, config_of(work, "ledger", [pool]))


def config_of(work: Path, name: str, splits: Sequence[Split | None]) -> Config:
    """A config as its files say it."""
    found = tuple(s for s in splits if s is not None)
    schema = pq.read_schema(work / found[0].paths[0])
    columns = {field.name: str(field.type) for field in schema}
    return Config(name=name, columns=columns, splits=found)
