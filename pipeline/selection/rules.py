"""The rules: scores in, an order of preference out. Pure; ties by id; every row at most once.

A rule sees the candidates and how much room the budget leaves. It answers with row positions, best
first. The budget then walks that order (`fitting`): a row that would exceed it is skipped.
"""

# N = candidates, M = targets

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_origin, get_type_hints

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.contracts import Rule
from gristmill.pipeline.numerics.ordering import answer, best_first, fitting
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.selection.bands import Band as Band  # rules of their own files
from gristmill.pipeline.selection.mixture import Mixture as Mixture


@dataclass(frozen=True, kw_only=True)
class Top(Rule):
    """The highest scores first. Serves greedy methods too: their score is minus the pick order."""

    def order(self, scores: pl.DataFrame, room: float) -> pl.DataFrame:
        return answer(best_first(scores))


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
        return answer(at[(value_N >= low) & (value_N <= high)])


@dataclass(frozen=True, kw_only=True)
class Weighted(Rule):
    """The highest scores first, of those above 0, each with its score as its training weight.

    For methods whose score is a weight: `cw_po` (a confidence below 0 doubts the label), and `ica`
    stretched to [0, 1].

    Attributes:
        stretch: weights are the scores of all candidates stretched to [0, 1], so that the lowest
            one falls out.
    """

    stretch: bool = False

    @property
    def left_out(self) -> str:
        return "no_positive_weight"

    def order(self, scores: pl.DataFrame, room: float) -> pl.DataFrame:
        at = best_first(scores)
        weight_N = scores["score"].to_numpy()[at]
        if self.stretch and len(at):
            low, high = weight_N[-1], weight_N[0]
            weight_N = (weight_N - low) / (high - low) if high > low else np.ones_like(weight_N)
        return answer(at[weight_N > 0], weight_N[weight_N > 0])


def effective_size(weight_N: NDArray[np.float64]) -> float:
    """(sum w)^2 / sum w^2: how many equally weighted rows the weights are worth."""
    total, squares = float(weight_N.sum()), float((weight_N**2).sum())
    return total**2 / squares if squares else 0.0


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
        return answer(at[np.argsort(spent_N, kind="stable")])  # stable: best first among equals


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
        return answer(np.array(picked, np.int64))


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
        return answer(best_first(pl.DataFrame({"id": scores["id"], "score": noisy_N})))


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
        return answer(frame["index"].to_numpy().astype(np.int64))


def rules() -> dict[str, type[Rule]]:
    """All rules this file knows, by the name a user gives: `RoundRobin` is `round_robin`."""
    found = [v for v in globals().values() if isinstance(v, type) and issubclass(v, Rule)]
    named = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", c.__name__).lower(): c for c in found if c != Rule}
    return dict(sorted(named.items()))


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


def _codes(column: pl.Series) -> NDArray[np.uint32]:
    """One integer per distinct value, null included."""
    text = column.cast(pl.String)
    codes = text.cast(pl.Categorical).to_physical().cast(pl.UInt32)
    return (codes + 1).fill_null(0).to_numpy()
