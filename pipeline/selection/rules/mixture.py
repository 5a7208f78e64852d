"""The mixture rule: how much of each source, cluster or licence the kept rows hold."""

# N = candidates

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.ordering import answer, best_first, fitting


@dataclass(frozen=True, kw_only=True)
class Mixture(Rule):
    """The best rows of every group, each group with its share of the budget, or below its cap.

    Shares are targets: a group gets `share` of the budget to within one row, if it has the rows; if
    not, it gives all it has, the shortfall is said, and its part stays empty so that the others
    keep their size. Without a budget the total is the largest at which no group falls short. Groups
    without a share are left out. Caps are ceilings on a group's part of what is kept; groups
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
    def exclusion_reason(self) -> str:
        return "outside_mixture"

    def order(self, scores: pl.DataFrame, remaining: float) -> pl.DataFrame:
        at = best_first(scores)
        cost_N = scores["cost"].to_numpy()[at]
        names = scores[self.by].cast(pl.String).fill_null("unknown").gather(at)
        stock = dict(
            pl.DataFrame({"group": names, "cost": cost_N})
            .group_by("group")
            .agg(pl.sum("cost"))
            .rows()
        )
        quota, total = (
            self._shared(stock, remaining) if self.shares else self._capped(stock, remaining)
        )
        taken_N = np.zeros(scores.height, bool)
        weight_N = np.ones(scores.height)
        for group, amount in sorted(quota.items()):
            mine = np.flatnonzero((names == group).to_numpy())
            taken_N[mine] = fitting(cost_N[mine], amount)
            if self.upsample > 1 and 0 < stock.get(group, 0) < amount:
                weight_N[mine] = min(self.upsample, amount / stock[group])
        taken_N[taken_N] = fitting(cost_N[taken_N], total)
        return answer(at[taken_N], weight_N[taken_N])

    def _shared(self, stock: Mapping[str, int], remaining: float) -> tuple[dict[str, int], int]:
        """Room of every group by largest remainder, and their sum."""
        exact = {g: Fraction(repr(float(s))) for g, s in self.shares.items()}
        whole = sum(exact.values())
        reach = {g: stock.get(g, 0) * Fraction(repr(float(self.upsample))) for g in exact}
        if math.isinf(remaining):
            remaining = min(math.floor(reach[g] * whole / exact[g]) for g in exact)
        quota = largest_remainder(int(remaining), exact)
        for group in sorted(g for g in quota if reach[g] < quota[g]):
            warnings.warn(
                f"mixture: {self.by} {group!r} has {stock.get(group, 0):,} of the "
                f"{quota[group]:,} that its share asks for"
                + (f", even if each counts for {self.upsample:g}." if self.upsample > 1 else "."),
                stacklevel=4,
            )
        return quota, int(remaining)

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


def largest_remainder(remaining: int, shares: Mapping[str, Fraction]) -> dict[str, int]:
    """`remaining` divided in proportion to `shares`: whole numbers that add up; ties by name."""
    whole = sum(shares.values())
    ideal = {name: remaining * share / whole for name, share in shares.items()}
    quota = {name: math.floor(v) for name, v in ideal.items()}
    missing = remaining - sum(quota.values())
    for name in sorted(ideal, key=lambda n: (quota[n] - ideal[n], n))[:missing]:
        quota[name] += 1
    return quota
