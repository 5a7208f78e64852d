"""The rules: scores in, an order of preference out. Pure; ties by id; every row at most once.

A rule sees the candidates and how much room the budget leaves. It answers with row positions, best
first. The budget then walks that order (`fitting`): a row that would exceed it is skipped.
"""

# N = candidates, M = targets

import dataclasses
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, get_origin, get_type_hints

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.schema import uniform

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
CHUNK = 65_536


@dataclass(frozen=True, kw_only=True)
class Top(Rule):
    """The highest scores first. Serves greedy methods too: their score is minus the pick order."""

    def order(self, scores: pl.DataFrame, room: float) -> pl.DataFrame:
        return _answer(best_first(scores))


@dataclass(frozen=True, kw_only=True)
class Threshold(Rule):
    """The highest scores first, of those from `min` to `max`, both included."""

    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ValueError("a threshold needs min, max or both; found neither.")

    @property
    def left_out(self) -> str:
        if self.min is not None and self.max is not None:
            return "outside_threshold"
        return "below_threshold" if self.max is None else "above_threshold"

    def order(self, scores: pl.DataFrame, room: float) -> pl.DataFrame:
        at = best_first(scores)
        value_N = scores["score"].to_numpy()[at]
        low = -math.inf if self.min is None else self.min
        high = math.inf if self.max is None else self.max
        return _answer(at[(value_N >= low) & (value_N <= high)])


@dataclass(frozen=True, kw_only=True)
class Band(Rule):
    """Rows strictly inside a band, those nearest its middle first.

    Attributes:
        low: lower edge.
        high: upper edge.
        unit: edges as quantiles of the candidates (linear interpolation), or as values.
        columns: score columns that must all lie in their band.
    """

    low: float = 0.1
    high: float = 0.9
    unit: Literal["quantile", "value"] = "quantile"
    columns: tuple[str, ...] = ("score",)

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a band needs low < high; found low={self.low} and high={self.high}.")
        if self.unit == "quantile" and not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"quantiles lie in [0, 1]; found low={self.low} and high={self.high}: "
                f'give unit="value" for a band of raw scores.'
            )

    @property
    def needs(self) -> tuple[str, ...]:
        return self.columns

    @property
    def left_out(self) -> str:
        return "outside_band"

    def order(self, scores: pl.DataFrame, room: float) -> pl.DataFrame:
        middle = (self.low + self.high) / 2
        inside_N = np.ones(scores.height, bool)
        off_N = np.zeros(scores.height)
        for name in self.columns:
            column = scores[name].fill_nan(None)
            value_N = _floats(column)
            if self.unit == "value" or column.count() == 0:
                low, high = self.low, self.high
                off = np.abs(value_N - middle)
            else:
                low, high = (_number(column.quantile(q, "linear")) for q in (self.low, self.high))
                place_N = _floats(column.rank("average")) - 0.5
                off = np.abs(place_N - middle * column.count()) / column.count()
            inside_N &= (value_N > low) & (value_N < high)  # a null is in no band
            off_N = np.maximum(off_N, off)
        at = np.flatnonzero(inside_N)
        near = pl.DataFrame({"id": scores["id"].gather(at), "score": -off_N[at]})
        return _answer(at[best_first(near)])


@dataclass(frozen=True, kw_only=True)
class Stratified(Rule):
    """The best rows of every stratum, with the budget divided among the strata.

    Whatever the budget, each stratum gets an equal part of it, and what a small one cannot use is
    divided again: 60 rows from strata of 10, 100 and 1000 are 10, 25 and 25.

    Attributes:
        by: column that names the stratum; nulls form one of their own.
        balanced: equal parts; False: parts in proportion to the strata's sizes.
    """

    by: str = "source"
    balanced: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    def order(self, scores: pl.DataFrame, room: float) -> pl.DataFrame:
        at = best_first(scores)
        spent = pl.col("cost").cum_sum().over("stratum")
        if not self.balanced:
            spent = (spent - pl.col("cost") / 2) / pl.col("cost").sum().over("stratum")
        frame = pl.DataFrame({"stratum": _codes(scores[self.by])[at], "cost": scores["cost"][at]})
        spent_N = frame.select(spent).to_series().to_numpy()
        return _answer(at[np.argsort(spent_N, kind="stable")])  # stable: best first among equals


@dataclass(frozen=True, kw_only=True)
class RoundRobin(Rule):
    """Targets take turns: each takes its best row that is still free, in column order.

    A target whose best row is taken goes on to its next one, it does not lose its turn. Rows that
    no target scored are left out.

    Attributes:
        prefix: of the score columns, one per target.
    """

    prefix: str = "score_target_"

    def order(self, scores: pl.DataFrame, room: float) -> pl.DataFrame:
        targets = [c for c in scores.columns if c.startswith(self.prefix)]
        if not targets:
            raise ValueError(
                f"round robin needs one score column per target, named {self.prefix}<j>; found "
                f"{[c for c in scores.columns if c.startswith('score')]}: set prefix, or keep the "
                f"per-target scores when scoring."
            )
        queues = []
        for name in targets:
            known = np.flatnonzero(scores[name].is_finite().fill_null(False))
            part = pl.DataFrame({"id": scores["id"].gather(known), "score": scores[name][known]})
            queues.append(iter(known[best_first(part)].tolist()))
        free = bytearray(b"\1") * scores.height
        picked: list[int] = []
        while queues:
            waiting = []
            for queue in queues:
                row = next((i for i in queue if free[i]), None)
                if row is not None:
                    free[row] = 0
                    picked.append(row)
                    waiting.append(queue)
            queues = waiting
        return _answer(np.array(picked, np.int64))


@dataclass(frozen=True, kw_only=True)
class Gumbel(Rule):
    """Weighted sampling without replacement: the top of score / temperature + Gumbel noise.

    A row is drawn in proportion to exp(score / temperature); the noise is keyed by (seed, id).
    """

    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"the temperature must be above 0; found {self.temperature} "
                f"(towards 0 the rule becomes top, towards infinity a random draw)."
            )

    def order(self, scores: pl.DataFrame, room: float) -> pl.DataFrame:
        u_N = np.fromiter((uniform(self.seed, "gumbel", i) for i in scores["id"]), float)
        noisy_N = scores["score"].to_numpy() / self.temperature - np.log(-np.log(u_N))
        return _answer(best_first(pl.DataFrame({"id": scores["id"], "score": noisy_N})))


@dataclass(frozen=True, kw_only=True)
class Mixture(Rule):
    """The best rows of every group, each group with its share of the budget, or below its cap.

    Shares are targets: a group gets `share` of the room to within one row, if it has the rows; if
    not, it gives all it has, the shortfall is said, and its room stays empty so that the others
    keep their size. Without a budget the room is the largest at which no group falls short. Groups
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
    def left_out(self) -> str:
        return "outside_mixture"

    def order(self, scores: pl.DataFrame, room: float) -> pl.DataFrame:
        at = best_first(scores)
        cost_N = scores["cost"].to_numpy()[at]
        names = scores[self.by].cast(pl.String).fill_null("unknown").gather(at)
        stock = dict(
            pl.DataFrame({"group": names, "cost": cost_N})
            .group_by("group")
            .agg(pl.sum("cost"))
            .rows()
        )
        quota, total = self._shared(stock, room) if self.shares else self._capped(stock, room)
        taken_N = np.zeros(scores.height, bool)
        weight_N = np.ones(scores.height)
        for group, amount in sorted(quota.items()):
            mine = np.flatnonzero((names == group).to_numpy())
            taken_N[mine] = fitting(cost_N[mine], amount)
            if self.upsample > 1 and 0 < stock.get(group, 0) < amount:
                weight_N[mine] = min(self.upsample, amount / stock[group])
        taken_N[taken_N] = fitting(cost_N[taken_N], total)
        return _answer(at[taken_N], weight_N[taken_N])

    def _shared(self, stock: Mapping[str, int], room: float) -> tuple[dict[str, int], int]:
        """Room of every group by largest remainder, and their sum."""
        exact = {g: Fraction(repr(float(s))) for g, s in self.shares.items()}
        whole = sum(exact.values())
        reach = {g: stock.get(g, 0) * Fraction(repr(float(self.upsample))) for g in exact}
        if math.isinf(room):
            room = min(math.floor(reach[g] * whole / exact[g]) for g in exact)
        ideal = {g: int(room) * s / whole for g, s in exact.items()}
        quota = {g: math.floor(v) for g, v in ideal.items()}
        missing = int(room) - sum(quota.values())
        for group in sorted(ideal, key=lambda g: (quota[g] - ideal[g], g))[:missing]:
            quota[group] += 1
        for group in sorted(g for g in quota if reach[g] < quota[g]):
            warnings.warn(
                f"mixture: {self.by} {group!r} has {stock.get(group, 0):,} of the "
                f"{quota[group]:,} that its share asks for"
                + (f", even if each counts for {self.upsample:g}." if self.upsample > 1 else "."),
                stacklevel=4,
            )
        return quota, int(room)

    def _capped(self, stock: Mapping[str, int], room: float) -> tuple[dict[str, int], int]:
        """Ceiling of every group, and the most that can be kept with no group above its cap."""
        exact = {g: Fraction(repr(float(self.caps.get(g, 1.0)))) for g in stock}
        if stock and sum(exact.values()) < 1:
            raise ValueError(
                f"the caps of all groups of {self.by} together allow "
                f"{float(sum(exact.values())):.0%} of what is kept; raise them to 100 % or more."
            )
        total = int(min(room, sum(stock.values())))
        while True:  # falls until it holds: the ceilings shrink with what is kept
            quota = {g: min(stock[g], math.floor(exact[g] * total)) for g in stock}
            if sum(quota.values()) >= total:
                return quota, total
            total = sum(quota.values())


@dataclass(frozen=True, kw_only=True)
class Curriculum(Rule):
    """The rows that `top` keeps, in ascending order of `by`: easy first, or poor quality first.

    The ledger's `order` carries the place of each kept row.

    Attributes:
        by: column to ascend in, e.g. "score", "tokens" or a score part; nulls come first.
        within: sort within the groups of this column and interleave them evenly, so that a source
            whose level is high does not end up last as one block.
    """

    by: str = "score"
    within: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,) if self.within is None else (self.by, self.within)

    def order(self, scores: pl.DataFrame, room: float) -> pl.DataFrame:
        at = best_first(scores)
        at = at[fitting(scores["cost"].to_numpy()[at], room)]
        frame = scores.select("id", *dict.fromkeys(self.needs)).with_row_index("index")
        frame = frame[at].sort(self.by, "id", nulls_last=False)
        if self.within is not None:
            place = (pl.int_range(pl.len()).over(self.within) + 0.5) / pl.len().over(self.within)
            frame = frame.with_columns(place=place).sort("place", self.by, "id")
        return _answer(frame["index"].to_numpy().astype(np.int64))


def best_first(scores: pl.DataFrame) -> Ints:
    """Positions of the rows by `score` descending, then `id`; no nulls, and distinct ids."""
    key_N = -_floats(scores["score"]) + 0.0  # one zero, not two
    at = np.argsort(key_N, kind="stable")
    sorted_N = key_N[at]
    same_N = sorted_N[1:] == sorted_N[:-1]
    # Comparing strings is dear, so only rows whose score is shared are compared by id.
    tied_N = np.append(same_N, False) | np.append(False, same_N)
    if tied_N.any():
        rows = at[tied_N]
        ties = pl.DataFrame({"key": sorted_N[tied_N], "id": scores["id"].gather(rows), "row": rows})
        at[tied_N] = ties.sort("key", "id")["row"].to_numpy()
    return at


def fitting(cost_N: Ints, room: float) -> NDArray[np.bool_]:
    """Which rows of an order fit: walk it, and skip every row that would exceed `room`."""
    total_N = np.cumsum(cost_N)
    head = int(np.searchsorted(total_N, room, side="right"))
    taken_N = np.zeros(len(cost_N), bool)
    taken_N[:head] = True
    left = room - (int(total_N[head - 1]) if head else 0)
    for start in range(head, len(cost_N), CHUNK):
        chunk = cost_N[start : start + CHUNK]
        for i in np.flatnonzero(chunk <= left).tolist():
            if chunk[i] <= left:
                taken_N[start + i] = True
                left -= int(chunk[i])
    return taken_N


def rules() -> dict[str, type[Rule]]:
    """All rules of this file by the name a user gives: `RoundRobin` is `round_robin`."""
    found = (v for v in globals().values() if isinstance(v, type) and issubclass(v, Rule))
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", c.__name__).lower(): c for c in found if c != Rule}


def rule_named(name: str, settings: Mapping[str, Any] | None = None) -> Rule:
    """The rule of that name; text, as on a command line, becomes what the setting needs.

    Args:
        name: e.g. "top", "round_robin".
        settings: field -> value; as text, a mapping is `a:1,b:0.5` and a list is `x,y`.
    """
    from pydantic import TypeAdapter, ValidationError

    known = rules()
    if name not in known:
        raise ValueError(f"there is no rule {name!r}; there are: {', '.join(known)}.")
    hints = get_type_hints(known[name])
    fields = [f.name for f in dataclasses.fields(known[name])]
    values = dict(settings or {})
    for key, value in values.items():
        if key not in fields:
            has = ", ".join(fields) or "none"
            raise ValueError(f"rule {name!r} has no setting {key!r}; it has: {has}.")
        items = value.split(",") if isinstance(value, str) else []
        if items and get_origin(hints[key]) is tuple:
            values[key] = items
        elif items and get_origin(hints[key]) is Mapping:
            values[key] = dict(item.rpartition(":")[::2] for item in items)
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(values[key])
        except ValidationError as error:
            said = error.errors()[0]["msg"].lower()
            raise ValueError(f"rule {name!r}, {key} = {value!r}: {said}.") from None
    return known[name](**values)


def _answer(index: Ints, weight: Floats | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {"index": index, "weight": np.ones(len(index)) if weight is None else weight}
    )


def _codes(column: pl.Series) -> NDArray[np.uint32]:
    """One integer per distinct value, null included."""
    text = column.cast(pl.String)
    codes = text.cast(pl.Categorical).to_physical().cast(pl.UInt32)
    return (codes + 1).fill_null(0).to_numpy()


def _floats(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(math.nan).to_numpy()


def _number(value: object) -> float:
    assert isinstance(value, float), f"{value!r} is no quantile"
    return value
