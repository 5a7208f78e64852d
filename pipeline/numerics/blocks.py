"""Rows in an order, read in blocks: what a rule sees of a pool that memory does not hold.

A rule filters such rows, puts them in another order, or both; the order that results is a
`Preference`. Nothing here says how the rows are stored.
"""

# N = rows of a block

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.numerics.keys import Keys, unpacked, values
from gristmill.pipeline.numerics.ordering import Floats, Ints, fitting

ID = ("high", "low")  # an id's two columns


def measure(column: str) -> str:
    """The column of a block with the keys of what a rule measures; nulls come first."""
    return f"measure.{column}"


def group(column: str) -> str:
    """The column of a block with the codes of groups, in the order of `Blocks.names`."""
    return f"group.{column}"


Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some rows that follow one another in the order.

    Attributes:
        first: 0-based place of its first row.
        rows: how many there are.
        columns: `score`, `cost`, `high` and `low` (the id), and of what the rule needs the columns
            `measure(name)` (keys) and `group(name)` (codes).
    """

    first: int
    rows: int
    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return self.rows

    @property
    def score_N(self) -> Floats:
        return self.columns["score"]

    @property
    def cost_N(self) -> Ints:
        return self.columns["cost"]

    @property
    def id_keys(self) -> tuple[Keys, Keys]:
        """Two keys that sort as the ids do."""
        high, low = (self.columns[c] for c in ID)
        return high, low

    @property
    def place_N(self) -> Ints:
        """0-based places in the order."""
        return np.arange(self.first, self.first + len(self))

    def ids(self) -> Sequence[str]:
        return unpacked(*self.id_keys).to_list()

    def floats(self, column: str) -> Floats:
        """The numbers of a column that is measured; NaN for a null."""
        return values(self.columns[measure(column)])


@dataclass(frozen=True, kw_only=True)
class Resorted:
    """Where the rows of a block stand in another order.

    Attributes:
        keys: columns that sort them, the foremost first; together they tell all rows apart.
        taken_N: the rows that are in the other order; None: all.
        columns: further ones that are carried along; the cost is always.
    """

    keys: Sequence[Keys]
    taken_N: Mask | None = None
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a rule takes of a block.

    Attributes:
        taken_N: which rows; None: all.
        weight_N: of all rows of the block; None: 1.
    """

    taken_N: Mask | None = None
    weight_N: Floats | None = None


class Blocks(Protocol):
    """Rows in an order."""

    @property
    def rows(self) -> int: ...

    def __iter__(self) -> Iterator[Block]:
        """All rows in order; may be asked for again."""

    def unordered(self, columns: Sequence[str]) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Columns of all rows, in no order: cheaper where none is needed."""

    def names(self, column: str) -> Sequence[str | None]:
        """The groups that a column names, sorted; the first one is null."""

    def resorted(self, blocks: Iterable[Resorted]) -> "Blocks":
        """The same rows, or some of them, in another order."""

    def measured(self, column: str) -> "Measured":
        """The distribution of a column that is measured."""


class Measured(Protocol):
    """The distribution of a column over rows in an order."""

    @property
    def known(self) -> int:
        """How many values there are; NaN is none."""

    @property
    def finite(self) -> int: ...

    def at(self, k: int) -> float:
        """The finite value with k finite ones below it."""

    def ranks(self) -> Iterator[Floats]:
        """Of each block of the rows, the 1-based ranks among the known, equals at their mean."""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A rule's order: the rows that it takes of `rows`, as they come.

    Attributes:
        rows: in the rule's order.
        take: which of a block, and with what weight; called once for each block, in order.
    """

    rows: Blocks
    take: Callable[[Block], Taken] = lambda _: Taken()


class Walk:
    """The walk that a budget takes, block by block: a row that would exceed it is skipped."""

    def __init__(self, remaining: float) -> None:
        self.left = remaining

    def fitting(self, cost_N: Ints) -> Mask:
        """Which of the next rows fit."""
        taken_N = fitting(cost_N, self.left)
        self.left -= int(cost_N[taken_N].sum())
        return taken_N


def totals(blocks: Blocks, by: str) -> Ints:
    """What the rows of each group cost together."""
    sums = np.zeros(len(blocks.names(by)), np.int64)
    for part in blocks.unordered([group(by), "cost"]):
        np.add.at(sums, part[group(by)], part["cost"])
    return sums


class Running:
    """Sums within groups, from block to block."""

    def __init__(self, groups: int) -> None:
        self.spent = np.zeros(groups, np.int64)

    def add(self, code_N: NDArray[Any], value_N: Ints) -> Ints:
        """The sum of each row's group up to it, itself included."""
        if len(self.spent) <= 2**16:
            code_N = code_N.astype(np.uint16)  # which are sorted by radix
        at = np.argsort(code_N, kind="stable")
        code, total = code_N[at].astype(np.int64), np.cumsum(value_N[at])
        starts = np.flatnonzero(np.diff(code, prepend=-1))
        before = np.concatenate([[0], total])[starts]
        lengths = np.diff(np.append(starts, len(code)))
        sum_N = np.empty_like(total)
        sum_N[at] = total - np.repeat(before - self.spent[code[starts]], lengths)
        ends = starts + lengths - 1
        self.spent[code[starts]] = sum_N[at[ends]]
        return sum_N
