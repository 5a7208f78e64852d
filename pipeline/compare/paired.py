"""Paired: the effects of two leaderboards on the items that both asked."""

# D = draws, S = seeds, N = items

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.numerics.effects import Effect, Sides, change, effect

Floats = NDArray[np.float64]


class Paired:
    """The items of two leaderboards, held against each other.

    Args:
        items: `findings.items` of the one and of the other; None: not kept.
        kinds: of their arms, by name.
    """

    def __init__(
        self, items: Sequence[pl.DataFrame | None], kinds: Sequence[Mapping[str, str]]
    ) -> None:
        by = ["evaluation", "budget"]
        self._sides = [None if i is None else i.partition_by(by, as_dict=True) for i in items]
        self._kinds = kinds
        self._made: dict[tuple[str, str], _Common | None] = {}

    def effects(
        self, row: Mapping[str, Any], level: float
    ) -> tuple[Effect, Effect, Effect, int] | None:
        """Effect before, after, the difference and the number of items; None: too few in common."""
        place = (row["evaluation"], row["budget"])
        if place not in self._made:
            frames = [None if s is None else s.get(place) for s in self._sides]
            self._made[place] = _common(*frames)
        common = self._made[place]
        if common is None:
            return None
        sides = [
            _side(values, kinds, row["arm"], row["against"])
            for values, kinds in zip(common.values, self._kinds, strict=True)
        ]
        if any(side is None for side in sides):
            return None
        old, new = (s for s in sides if s is not None)
        told = [
            effect(
                s.arm_DSN, s.control_DSN, common.ids,
                weight_N=common.weight_N, spread_DSN=s.spread_DSN, level=level,
            )
            for s in (old, new)
        ]  # fmt: skip
        by = change(old, new, common.ids, weight_N=common.weight_N, level=level)
        return told[0], told[1], by, len(common.ids)


@dataclass(frozen=True, kw_only=True)
class _Common:
    """The items that every model of both leaderboards was asked, and their values by arm."""

    ids: list[str]
    weight_N: Floats
    values: list[dict[str, Floats]]


def _common(before: pl.DataFrame | None, after: pl.DataFrame | None) -> _Common | None:
    if before is None or after is None:
        return None
    asked = [_asked(frame) for frame in (before, after)]
    ids = sorted(asked[0] & asked[1])
    if len(ids) < 2 or 2 * len(ids) < min(map(len, asked)):
        return None
    order = pl.DataFrame({"id": ids})
    weights = after.unique("id", keep="first")
    weight = order.join(weights, on="id", how="left", maintain_order="left")["weight"].to_numpy()
    values = [_by_arm(frame, order) for frame in (before, after)]
    return _Common(ids=ids, weight_N=weight, values=values)


def _asked(frame: pl.DataFrame) -> set[str]:
    """The items that every model was asked."""
    models = frame.select("arm", "draw", "seed").unique().height
    counted = frame.group_by("id").agg(models=pl.len())
    return set(counted.filter(pl.col("models") == models)["id"])


def _by_arm(frame: pl.DataFrame, order: pl.DataFrame) -> dict[str, Floats]:
    """Values by arm, draws by seeds by items; a model without seeds stands under each of them."""
    seeds = frame["seed"].n_unique()
    made = {}
    for (arm,), own in frame.partition_by("arm", as_dict=True).items():
        models = own.partition_by(["draw", "seed"], as_dict=True)
        columns = [
            order.join(models[m], on="id", how="left", maintain_order="left")["value"].to_numpy()
            for m in sorted(models)
        ]
        value_DSN = np.stack(columns).reshape(own["draw"].n_unique(), -1, order.height)
        if value_DSN.shape[1] == 1:
            value_DSN = np.repeat(value_DSN, seeds, axis=1)
        made[str(arm)] = value_DSN
    return made


def _side(
    values: Mapping[str, Floats], kinds: Mapping[str, str], arm: str, against: str
) -> Sides | None:
    """An arm beside the control of a kind: the one matched to it, or the one that all share."""
    named = next((n for n in (f"{against}:{arm}", against) if n in values), None)
    if arm not in values or named is None:
        return None
    drawn = [n for n in sorted(values) if kinds.get(n) == "random" and len(values[n]) > 1]
    return Sides(
        arm_DSN=values[arm],
        control_DSN=values[named],
        spread_DSN=values[drawn[0]] if drawn else None,
    )
