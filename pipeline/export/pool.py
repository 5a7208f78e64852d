"""Pool: the lines of a ledger that ships, range by range, in memory that does not grow with it.

A first look at all rows finds what a line needs of the others: which prompts share a cluster, the
places of rows in orders, the lowest score that was kept. What is found of each range waits on disk;
the lines themselves are made of it afterwards, one range at a time.
"""

# N = rows of a range

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.export import provenance
from gristmill.pipeline.numerics.keys import Keys, column_keys, ordered
from gristmill.pipeline.numerics.ordering import Ints, floats
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.ranges import ORDER, Range, Ranges
from gristmill.pipeline.records.schema import CONTENT, uniform
from gristmill.pipeline.records.store import Entry, write_table
from gristmill.pipeline.report import tables
from gristmill.pipeline.selection.streaming.runs import Ranked, write_run

POSITION = "position"  # the order in which rows are shipped


Lines = Callable[[Range], pl.LazyFrame]  # of a ledger


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The ledger of a run: a range of the rows reads the parts that reach into it.

    Attributes:
        entry: of its parts.
        told: what else is said of its lines.
    """

    entry: Entry
    told: Callable[[pl.LazyFrame], pl.LazyFrame] = lambda lines: lines

    def of(self, one: Range) -> pl.LazyFrame:
        """The lines of a range."""
        parts = one.reaching(self.entry.shards) or self.entry.shards[:1]
        return self.told(pl.scan_parquet(parts).filter(one.holds))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of a ledger that ships.

    Attributes:
        scorers: names of the scorers of the selection.
        references: ids of rows that must not be kept.
        in_order: rows are shipped in the rule's order, not in that of their ids.
        paired: kept rows must hold a number in the column `margin`.
        margin: a column, if any is named.
        fraction: share of split groups held out.
        seed: of which they are.
        stamped: columns that all kept rows bear, with their one value.
    """

    scorers: Sequence[str]
    references: Collection[str] = ()
    in_order: bool = False
    paired: bool = False
    margin: str | None = None
    fraction: float = 0.0
    seed: int = 0
    stamped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is seen of one range.

    Attributes:
        kept: rows.
        lowest: score of a kept row.
        said: of `provenance.SOMETIMES`, the columns that some row has.
        rich: whether a kept row has a turn with further fields.
        tooled: whether a kept row has tools.
        weighted: whether a kept row has another weight than 1.
        scores: score columns that say something of kept rows.
        repeats: columns of scores that say what `score` says.
        leaked: ids of kept rows that are reference rows.
        lacking: ids of kept rows without a margin.
        clustered: `prompt_hash` and `cluster` of the rows that have a cluster.
    """

    kept: int
    lowest: float | None
    said: frozenset[str]
    rich: bool
    tooled: bool
    weighted: bool
    scores: frozenset[str]
    repeats: frozenset[str]
    leaked: tuple[str, ...]
    lacking: tuple[str, ...]
    clustered: pl.DataFrame

    @classmethod
    def at(cls, rows: pl.DataFrame, asked: Asked) -> "Look":
        kept = rows.filter(tables.KEPT)
        columns = tables.numeric_scores(kept)
        lacking = kept[asked.margin].is_null() if asked.paired and asked.margin else None
        lowest: Any = kept["score"].min()
        leaked = kept["id"].is_in(pl.Series(list(asked.references), dtype=pl.String).implode())
        return cls(
            kept=kept.height,
            lowest=lowest,
            said=frozenset(c for c in provenance.SOMETIMES if rows[c].count()),
            rich=bool(kept["rich"].any()),
            tooled=bool(kept["tooled"].any()),
            weighted=bool((kept["weight"] != 1).any()),
            scores=frozenset(c for c in columns if kept[c].count()),
            repeats=frozenset(c for c in columns if c != "score" and kept["score"].equals(kept[c])),
            leaked=tuple(kept["id"].filter(leaked)),
            lacking=() if lacking is None else tuple(kept["id"].filter(lacking)),
            clustered=rows.filter(pl.col("cluster").is_not_null())
            .select("prompt_hash", "cluster")
            .unique(),
        )


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All rows of a ledger that ships; `lines` gives them.

    Attributes:
        folder: where the ranges wait.
        dataset: the records.
        asked: of the ledger.
        looks: at each range.
    """

    folder: Path
    dataset: Dataset
    asked: Asked
    looks: tuple[Look, ...]

    @property
    def kept(self) -> int:
        return sum(look.kept for look in self.looks)

    @property
    def leaked(self) -> list[str]:
        """Ids of kept rows that are reference rows."""
        return sorted({i for look in self.looks for i in look.leaked})

    @property
    def lacking(self) -> list[str]:
        """Ids of kept rows without a margin."""
        return [i for look in self.looks for i in look.lacking]

    @property
    def scores(self) -> list[str]:
        """Score columns of kept rows that say something, `score` first unless one repeats it."""
        repeats = frozenset.intersection(*(look.repeats for look in self.looks if look.kept))
        found = frozenset[str]().union(*(look.scores for look in self.looks))
        return tables.told_scores(found, repeated=bool(repeats & found))

    def any(self, what: str) -> bool:
        """Whether a range is `rich`, `tooled` or `weighted`."""
        return any(getattr(look, what) for look in self.looks)

    def lines(self) -> Iterator[tuple[Range, pl.DataFrame]]:
        """The lines of each range, and of kept rows `position` and `split` beside them."""
        for one in Ranges(dataset=self.dataset):
            yield one, self._lines(one.number)

    def _lines(self, r: int) -> pl.DataFrame:
        rows = pl.read_parquet(self.folder / _waiting(r))
        rows = rows.join(self._groups, on="prompt_hash", how="left", maintain_order="left")
        group = pl.coalesce("split_group", "prompt_hash")
        lowest = [look.lowest for look in self.looks if look.lowest is not None]
        said = frozenset[str]().union(*(look.said for look in self.looks))
        silent = [c for c in provenance.SOMETIMES if c not in said]
        rows = rows.with_columns(
            *(self._placed(name, r, rows.height).alias(f"rank_{name}") for name in self._ranked),
            split_group=group,
            threshold=pl.lit(min(lowest, default=None), pl.Float64),
        )
        line = provenance.line(rows.drop("rich", "tooled", "prompt_hash", *silent))
        line = line.with_columns(
            pl.when(tables.KEPT).then(pl.lit(value)).alias(name)
            for name, value in self.asked.stamped.items()
        )
        kept = line.filter(tables.KEPT)["split_group"].unique() if self.asked.fraction else ()
        held = [name for name in kept if self._held.out(name)]
        split = pl.when(pl.col("split_group").is_in(held)).then(pl.lit("validation"))
        return line.with_columns(
            _position=self._placed(POSITION, r, line.height) - 1,
            _split=split.otherwise(pl.lit("train")),
        )

    def _placed(self, name: str, r: int, rows: int) -> pl.Series:
        place_N = self._orders[name].of(r, rows)
        return pl.Series(place_N, dtype=pl.Int64).replace(0, None)

    @cached_property
    def _ranked(self) -> list[str]:
        return [name for name in self.asked.scorers if name in self._orders]

    @cached_property
    def _orders(self) -> dict[str, Ranked]:
        """The orders in which rows have a place, by name."""
        return {
            order.name.removeprefix("order-"): Ranked(folder=order)
            for order in sorted(self.folder.glob("order-*"))
        }

    @cached_property
    def _groups(self) -> pl.DataFrame:
        """The split group of every prompt that shares a cluster with others."""
        edges = pl.concat([look.clustered for look in self.looks]).unique()
        return edges.with_columns(provenance.split_groups(edges)).drop("cluster").unique()

    @cached_property
    def _held(self) -> "HeldOut":
        """Which split groups are held out."""
        held = HeldOut(fraction=self.asked.fraction, seed=self.asked.seed)
        for r in range(len(self.looks)):
            kept = pl.scan_parquet(self.folder / _waiting(r)).filter(tables.KEPT)
            names = kept.select("prompt_hash").unique().collect()
            names = names.join(self._groups, on="prompt_hash", how="left")
            for name in names.select(pl.coalesce("split_group", "prompt_hash")).to_series():
                held.see(name)
        return held


@dataclass(kw_only=True)
class HeldOut:
    """The split groups that are held out: those whose own draw falls below a fraction.

    A group keeps its side as the pool grows. Both sides get at least one group if there are two.

    Attributes:
        fraction: of the groups.
        seed: of the draws.
        low: the lowest draw that was seen, with its name.
        high: the highest.
    """

    fraction: float
    seed: int
    low: tuple[float, str] | None = None
    high: tuple[float, str] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"validation_fraction={self.fraction} must be at least 0 and below 1.")

    def see(self, name: str) -> None:
        """Take in a group; one may be seen again."""
        drawn = self._draw(name)
        self.low = drawn if self.low is None else min(self.low, drawn)
        self.high = drawn if self.high is None else max(self.high, drawn)

    def out(self, name: str) -> bool:
        """Whether a group is held out, once all were seen."""
        drawn = self._draw(name)
        if self.low is None or self.high is None or self.low == self.high or not self.fraction:
            return False
        if self.high[0] < self.fraction:
            return drawn < self.high
        return drawn[0] < self.fraction or (self.low[0] >= self.fraction and drawn == self.low)

    def _draw(self, name: str) -> tuple[float, str]:
        return uniform(self.seed, "validation", name), name


def looked_at(lines: Lines, dataset: Dataset, asked: Asked, folder: Path) -> Pool:
    """Look at all rows of a ledger.

    Args:
        lines: of the ledger, with any `score_<scorer>`.
        dataset: the records it speaks of.
        asked: of the ledger.
        folder: for what waits; the caller removes it.
    """
    folder.mkdir(parents=True)
    looks, first = [], 0
    for one in Ranges(dataset=dataset):
        own = tables.named_scores(lines(one).sort(*ORDER).collect(), asked.scorers)
        read = [*provenance.NARROW, *CONTENT[dataset.kind]]
        known = provenance.narrow(one.blocks(read), dataset.kind)
        rows = provenance.joined(own, known, dataset.sources)
        _demand(rows, asked)
        write_table(rows, folder / _waiting(one.number))
        looks.append(Look.at(rows, asked))
        for name, (keys, at) in _orders(rows, asked, first).items():
            (folder / f"order-{name}").mkdir(exist_ok=True)
            columns = {f"key-{i}": key_N for i, key_N in enumerate(keys)}
            path = folder / f"order-{name}" / f"run-{one.number:05d}"
            write_run(path, columns, list(columns), at)
        first += rows.height
    return Pool(folder=folder, dataset=dataset, asked=asked, looks=tuple(looks))


def _waiting(r: int) -> str:
    return f"rows-{r:05d}.parquet"


def _demand(rows: pl.DataFrame, asked: Asked) -> None:
    """Refuse a ledger that lacks a column which is asked for."""
    if asked.in_order and "order" not in rows.columns:
        raise ValueError("in_order needs the ledger's column order, which this ledger lacks.")
    margin = rows[asked.margin] if asked.margin in rows.columns else None
    if asked.paired and (margin is None or not margin.dtype.is_numeric()):
        scores = [c for c, kind in rows.schema.items() if kind.is_float() and c != "weight"]
        raise ValueError(
            f"the view reward needs `margin`, the column of the ledger with the margins of pairs; "
            f"found {asked.margin!r}, and there are {', '.join(scores)}."
        )


_Order = tuple[list[Keys], Ints]  # keys of some rows, and which rows


def _orders(rows: pl.DataFrame, asked: Asked, first: int) -> dict[str, _Order]:
    """Where rows stand in each order; of equals, the first in the ledger comes first."""
    kept = rows["verdict"].eq("kept").fill_null(False).to_numpy()
    before = [column_keys(rows["order"])] if asked.in_order else []
    found = {POSITION: _order(rows, kept, before, first)}
    for name in asked.scorers:
        if (column := f"score_{name}") in rows.columns:
            known = rows[column].is_not_null().to_numpy()
            found[name] = _order(rows, known, [ordered(-floats(rows[column]))], first)
    return found


def _order(
    rows: pl.DataFrame, which_N: NDArray[np.bool_], before: Sequence[Keys], first: int
) -> _Order:
    """The order of some rows by keys and then by id."""
    at = np.flatnonzero(which_N)
    text = rows["id"].gather(at).str.pad_end(16, "\0").cast(pl.Binary)
    words = [
        text.bin.slice(start, 8).bin.reinterpret(dtype=pl.UInt64, endianness="big").to_numpy()
        for start in (0, 8)
    ]
    return [*(key_N[at] for key_N in before), *words, ordered(at + first)], at
