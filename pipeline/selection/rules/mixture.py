"""The mixture rule: how much of each source, cluster or licence the kept rows hold."""

# N = candidates

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.blocks import (
    Block,
    Blocks,
    Preference,
    Taken,
    Walk,
    group,
    totals,
)
from gristmill.pipeline.numerics.ordering import answer, best_first, fitting

UNKNOWN = "unknown"  # the group of rows whose column is null


@dataclass(frozen=True, kw_only=True)
class Mixture(Rule):
    """The best rows of every group, each group with its share of the budget, or below its cap.

    Shares are targets: a group gets `share` of the budget to within one row, if it has the rows; if
    not, it gives all it has, `short` tells what is lacking, and its part stays empty so that the
    others keep their size. Without a budget the total is the largest at which no group falls short.
    Groups without a share are left out. Caps are ceilings on a group's part of what is kept; groups
    without a cap are free.

    Attributes:
        by: column that names the group; null counts as "unknown".
        shares: group -> part of the mixture; relative, so 3 and 1 mean 75 and 25 %.
        caps: group -> highest part of what is kept, in (0, 1].
        upsample: the most a row of a short group may count for, as its `weight`.
    """

    by: str = "source"
    shares: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[str, float] = field(default_factory=dict)
    upsample: float = 1.0

    def __post_init__(self) -> None:
        if bool(self.shares) == bool(self.caps):
            raise ValueError(
                f"a mixture needs either shares or caps; "
                f"found shares={dict(self.shares)} and caps={dict(self.caps)}."
            )
        if not all(0 < v < math.inf for v in self.shares.values()):
            raise ValueError(f"shares must be above 0; found {dict(self.shares)}.")
        if not all(0 < v <= 1 for v in self.caps.values()):
            raise ValueError(f"caps must lie in (0, 1]; found {dict(self.caps)}.")
        if not self.upsample >= 1:
            raise ValueError(f"upsample must be at least 1; found {self.upsample}.")
        if self.caps and self.upsample > 1:
            raise ValueError("upsample serves shares only: a cap is never short; leave it out.")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    @property
    def named(self) -> Mapping[str, tuple[str, ...]]:
        return {self.by: (*self.shares, *self.caps)}

    @property
    def exclusion_reason(self) -> str:
        return "outside_mixture"

    def short(self, scores: pl.DataFrame, remaining: float) -> list[str]:
        if not self.shares:
            return []  # a cap is a ceiling, never short
        stock = self._stock(scores)
        none = [g for g in sorted(self.shares) if not stock.get(g)]
        if none and math.isinf(remaining):
            return [
                f"mixture: {self.by} {none[0]!r} has no row with a score, and without a budget no "
                "group takes more than the others can match: nothing is taken."
            ]
        quota, reach, _ = self._shared(stock, remaining)
        return self._told(stock, quota, reach)

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        at = best_first(scores)
        cost_N = scores["cost"].to_numpy()[at]
        names = _groups(scores[self.by]).gather(at)
        stock = self._stock(scores)
        quota, total = self._quota(stock, remaining)
        taken_N = np.zeros(scores.height, bool)
        weight_N = np.ones(scores.height)
        for name, amount in sorted(quota.items()):
            mine = np.flatnonzero((names == name).to_numpy())
            taken_N[mine] = fitting(cost_N[mine], amount)
            weight_N[mine] = self._weight(stock.get(name, 0), amount)
        taken_N[taken_N] = fitting(cost_N[taken_N], total)
        return answer(at[taken_N], weight_N[taken_N])

    @property
    def groups(self) -> tuple[str, ...]:
        return (self.by,)

    def streamed(self, rows: Blocks, remaining: float) -> Preference:
        names = [UNKNOWN if n is None else n for n in rows.names(self.by)]
        here = np.zeros(len(names), bool)
        for part in rows.unordered([group(self.by)]):
            here[part[group(self.by)]] = True
        stock: dict[str, int] = {}
        for name, amount, there in zip(names, totals(rows, self.by).tolist(), here, strict=True):
            if there:
                stock[name] = stock.get(name, 0) + amount
        quota, total = self._quota(stock, remaining)
        walks = {name: Walk(amount) for name, amount in quota.items()}
        weight = np.array([self._weight(stock.get(n, 0), quota.get(n, 0)) for n in names])
        # a null and a row that says "unknown" are of one group
        one = np.array([names.index(n) for n in names])
        whole = Walk(total)

        def take(block: Block) -> Taken:
            code_N = one[block.columns[group(self.by)]]
            taken_N = np.zeros(len(block), bool)
            for code in np.unique(code_N):
                if walk := walks.get(names[code]):
                    mine = np.flatnonzero(code_N == code)
                    taken_N[mine] = walk.fitting(block.cost_N[mine])
            taken_N[taken_N] = whole.fitting(block.cost_N[taken_N])
            return Taken(taken_N=taken_N, weight_N=weight[code_N])

        return Preference(rows=rows, take=take)

    def _quota(self, stock: Mapping[str, int], remaining: float) -> tuple[dict[str, int], int]:
        """Room of every group, and how much may be taken in all."""
        if not self.shares:
            return self._capped(stock, remaining)
        quota, _, total = self._shared(stock, remaining)
        return quota, total

    def _weight(self, stock: int, amount: int) -> float:
        """What a row of a group counts for."""
        short = self.upsample > 1 and 0 < stock < amount
        return min(self.upsample, amount / stock) if short else 1.0

    def _stock(self, scores: pl.DataFrame) -> dict[str, int]:
        """What each group has."""
        named = pl.DataFrame({"group": _groups(scores[self.by]), "cost": scores["cost"]})
        return dict(named.group_by("group").agg(pl.sum("cost")).rows())

    def _shared(
        self, stock: Mapping[str, int], remaining: float
    ) -> tuple[dict[str, int], dict[str, Fraction], int]:
        """Room of every group by largest remainder, how much of it each can fill, and their sum."""
        exact = {g: Fraction(repr(float(s))) for g, s in self.shares.items()}
        whole = sum(exact.values())
        reach = {g: stock.get(g, 0) * Fraction(repr(float(self.upsample))) for g in exact}
        if math.isinf(remaining):
            remaining = min(math.floor(reach[g] * whole / exact[g]) for g in exact)
        return largest_remainder(int(remaining), exact), reach, int(remaining)

    def _told(
        self, stock: Mapping[str, int], quota: Mapping[str, int], reach: Mapping[str, Fraction]
    ) -> list[str]:
        """The groups that have less than their share asks for."""
        counted = f", even if each counts for {self.upsample:g}" if self.upsample > 1 else ""
        return [
            f"mixture: {self.by} {name!r} has {stock.get(name, 0):,} of the {quota[name]:,} "
            f"that its share asks for{counted}."
            for name in sorted(quota)
            if reach[name] < quota[name]
        ]

    def _capped(self, stock: Mapping[str, int], remaining: float) -> tuple[dict[str, int], int]:
        """Ceiling of every group, and the most that can be kept with no group above its cap."""
        exact = {g: Fraction(repr(float(self.caps.get(g, 1.0)))) for g in stock}
        if stock and sum(exact.values()) < 1:
            raise ValueError(
                f"the caps of all groups of {self.by} together allow "
                f"{float(sum(exact.values())):.0%} of what is kept; raise them to 100 % or more."
            )
        total = int(min(remaining, sum(stock.values())))
        while True:  # falls until it holds: the ceilings shrink with what is kept
            quota = {g: min(stock[g], math.floor(exact[g] * total)) for g in stock}
            if sum(quota.values()) >= total:
                return quota, total
            total = sum(quota.values())


def _groups(column: pl.Series) -> pl.Series:
    return column.cast(pl.String).fill_null(UNKNOWN)


def largest_remainder(remaining: int, shares: Mapping[str, Fraction]) -> dict[str, int]:
    """`remaining` divided in proportion to `shares`: whole numbers that add up; ties by name."""
    whole = sum(shares.values())
    ideal = {name: remaining * share / whole for name, share in shares.items()}
    quota = {name: math.floor(v) for name, v in ideal.items()}
    missing = remaining - sum(quota.values())
    for name in sorted(ideal, key=lambda n: (quota[n] - ideal[n], n))[:missing]:
        quota[name] += 1
    return quota
