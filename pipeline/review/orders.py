"""Which items people are shown first: a rule as a user writes it, and the order that it makes.

| written | first come |
|---|---|
| `random` | any: each annotator has an order of their own |
| `disagreement` | the items of which the judges' scores say the most different things |
| `disagreement:a,b` | the same, of these columns alone |
| `NAME` | the highest of the column `score_NAME` or `NAME`; of a greedy method, its picks |
| `-NAME` | the lowest |

Items without such a score come last. Equal ones stand in the order of hash(seed, item).
"""

import itertools
from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.records.build import did_you_mean
from gristmill.pipeline.records.schema import uniform

_DISAGREEMENT = "disagreement"
_RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class Order:
    """A rule that puts items in order.

    Attributes:
        by: "random", "disagreement" or "column".
        columns: that it reads: the judges, or the one column; none: all scores.
        lowest: of a column, the lowest come first.
    """

    by: str
    columns: tuple[str, ...] = ()
    lowest: bool = False

    @classmethod
    def parse(cls, text: str) -> "Order":
        """The rule that a text names.

        Raises:
            ValueError: it names none.
        """
        name, colon, rest = text.strip().partition(":")
        columns = tuple(c.strip() for c in rest.split(",") if c.strip())
        if name == _DISAGREEMENT:
            if colon and len(columns) < 2:
                raise ValueError(
                    f"the order {text!r} names {len(columns)} judges: give two at least, as in "
                    "disagreement:a,b, or none for all scores."
                )
            return cls(by=_DISAGREEMENT, columns=columns)
        lowest = name.startswith("-")
        if colon or not name.removeprefix("-"):
            raise ValueError(
                f"the order {text!r} is not a valid rule: give random, disagreement, "
                "disagreement:a,b, or the name of a score (with - before it, the lowest first)."
            )
        if name == _RANDOM:
            return cls(by=_RANDOM)
        return cls(by="column", columns=(name.removeprefix("-"),), lowest=lowest)

    @property
    def shared(self) -> bool:
        """Whether all annotators go through the items in one order."""
        return self.by != _RANDOM

    def arranged(self, ids: list[str], scores: pl.DataFrame | None, seed: int) -> list[str]:
        """The items in the rule's order.

        Args:
            ids: of the items.
            scores: `id` and the columns that the rule reads; None: there are none.
            seed: of what stands equal.

        Raises:
            ValueError: the rule reads a score that is not there.
        """
        drawn = sorted(ids, key=lambda i: (uniform(seed, "review", i), i))
        if not self.shared:
            return drawn
        if scores is None:
            raise ValueError(
                "this order reads scores, and there are none: give a published dataset, whose "
                "ledger holds them, or --scores with a table of them; or use --order random."
            )
        known = scores.unique("id", keep="first", maintain_order=True)
        frame = pl.DataFrame({"id": drawn}).join(known, on="id", how="left", maintain_order="left")
        placed = frame.select("id", at=pl.int_range(pl.len()), worth=self._worth(frame))
        order = placed.sort("worth", "at", descending=[True, False], nulls_last=True)
        return order["id"].to_list()

    def _worth(self, frame: pl.DataFrame) -> pl.Series:
        """How early each row should come; null: last."""
        if self.by == _DISAGREEMENT:
            return disagreement(frame, self.columns or tuple(_scores(frame)))
        name = _column(frame, self.columns[0])
        if not frame.schema[name].is_numeric():
            raise ValueError(
                f"the order reads the column {name!r}, which holds {frame.schema[name]}: give a "
                "column of numbers."
            )
        values = _numbers(frame[name])
        return -values if self.lowest else values


def disagreement(frame: pl.DataFrame, judges: tuple[str, ...]) -> pl.Series:
    """How differently judges see each row: the mean over pairs of judges of their distance.

    A judge who gives numbers counts by the place of the row among those it scored (0 to 1), so
    that scales do not matter; judges who give words are 1 apart where the words differ. Null: fewer
    than two judges said anything.

    Args:
        frame: a column a judge.
        judges: their columns.

    Raises:
        ValueError: there are fewer than two of them, or one does not exist.
    """
    if len(judges) < 2:
        raise ValueError(
            f"disagreement is between judges, and the scores hold {len(judges)}: give two columns "
            "at least."
        )
    said = [_said(frame[_column(frame, judge)]) for judge in judges]
    apart = []
    for one, other in itertools.combinations(said, 2):
        if one.dtype != other.dtype:
            raise ValueError(
                f"the judges {one.name} and {other.name} cannot be compared: one gives numbers, "
                "the other words."
            )
        numbers = one.dtype == pl.Float64
        apart.append((one - other).abs() if numbers else (one != other).cast(pl.Float64))
    return pl.DataFrame({str(n): s for n, s in enumerate(apart)}).mean_horizontal()


def _said(column: pl.Series) -> pl.Series:
    """Words as they are; numbers as their place among the others, middle places for equal ones."""
    if not column.dtype.is_numeric():
        return column.cast(pl.String)
    values = _numbers(column)
    return (values.rank("average") - 0.5) / max(1, values.count())


def _numbers(column: pl.Series) -> pl.Series:
    """As floats; what is not finite says nothing."""
    name = column.name
    values = pl.col(name).cast(pl.Float64)
    return column.to_frame().select(pl.when(values.is_finite()).then(values).alias(name))[name]


def _scores(frame: pl.DataFrame) -> list[str]:
    return [c for c in frame.columns if c.startswith("score_") and frame.schema[c].is_numeric()]


def _column(frame: pl.DataFrame, name: str) -> str:
    """The column of a name: `score_NAME`, else `NAME`."""
    for candidate in (f"score_{name}", name):
        if candidate in frame.columns and candidate != "id":
            return candidate
    known = [c.removeprefix("score_") for c in frame.columns if c != "id"]
    raise ValueError(
        f"the scores have no column {name!r}; they have: {', '.join(known) or 'none'}"
        f"{did_you_mean(name, known)}"
    )
