"""Outcomes: every arm on the same items under every model, against each control.

Beside the comparison at equal rows stand those at equal tokens, equal lengths and equal compute: a
method's own matched controls. Holm's adjustment is over the methods, for one evaluation, budget and
control.
"""

# D = draws, S = seeds, N = items

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.compare.arms import Arm
from gristmill.pipeline.compare.cells import Cell
from gristmill.pipeline.numerics.effects import Effect, effect, holm

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An arm's cells on one evaluation.

    Attributes:
        arm: the arm.
        rate: learning rate of its models.
        rows: it was trained on, the mean over its cells.
        tokens: of these rows, the mean over its cells.
        value_DSN: of every item under every model; larger is better.
        weight_N: of the items.
        against: its effect against each control, by the control's kind.
        adjusted: Holm's p over the methods, by the control's kind; nothing for controls.
    """

    arm: Arm
    rate: float
    rows: float
    tokens: float
    value_DSN: Floats = field(repr=False)
    weight_N: Floats = field(repr=False)
    against: Mapping[str, Effect] = field(default_factory=dict)
    adjusted: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The mean over draws, seeds and (weighted) items."""
        return float(np.average(self.value_DSN.mean((0, 1)), weights=self.weight_N))

    def beats(self, control: str, level: float) -> bool:
        """Whether it is better than a control at a level, after Holm's adjustment."""
        found = self.against.get(control)
        p = self.adjusted.get(control, 1.0)
        return found is not None and found.value > 0 and p < 1 - level


def outcomes(
    arms: Sequence[Arm], cells: Sequence[Cell], evaluation: str, *, against: str, level: float
) -> dict[str, Outcome]:
    """Every arm on the items that every model could be asked.

    Args:
        arms: of one budget.
        cells: of these arms.
        evaluation: its name.
        against: the control by whose draws an arm varies that has one draw.
        level: of intervals.

    Raises:
        ValueError: fewer than two items are left.
    """
    common = set.intersection(*({*c.items[evaluation]["id"]} for c in cells))
    if len(common) < 2:
        raise ValueError(
            f"evaluation {evaluation!r} has {len(common)} rows that every model can be asked."
        )
    ids = sorted(common)
    weight_N = _column(cells[0].items[evaluation], ids, "weight")
    seeds = len({c.seed for c in cells})
    found: dict[str, Outcome] = {}
    for arm in arms:
        own = [c for c in cells if c.arm == arm.name]
        value = [_column(c.items[evaluation], ids, "value") for c in own]
        value_DSN = np.stack(value).reshape(-1, seeds if arm.draws else 1, len(ids))
        if not arm.draws:  # one model, the same under every seed
            value_DSN = np.repeat(value_DSN, seeds, axis=1)
        found[arm.name] = Outcome(
            arm=arm,
            rate=own[0].rate,
            rows=math.fsum(c.rows for c in own) / len(own),
            tokens=math.fsum(c.tokens for c in own) / len(own),
            value_DSN=value_DSN,
            weight_N=weight_N,
        )
    shared: dict[str, Outcome] = {
        o.arm.kind: o for o in found.values() if o.arm.control and o.arm.matched is None
    }
    shared.pop("canary", None)  # random once more
    held = {}
    for name, o in found.items():
        controls = _controls(o, shared, found)
        effects = {
            kind: effect(
                o.value_DSN,
                control.value_DSN,
                ids,
                weight_N=weight_N,
                spread_DSN=found[against].value_DSN,
                level=level,
            )
            for kind, control in controls.items()
        }
        held[name] = replace(o, against=effects)
    methods = [o for o in held.values() if not o.arm.control]
    kinds = dict.fromkeys(kind for o in methods for kind in o.against)
    for kind in kinds:
        p = {o.arm.name: o.against[kind].p for o in methods if kind in o.against}
        for name, adjusted in holm(p).items():
            held[name] = replace(held[name], adjusted={**held[name].adjusted, kind: adjusted})
    return held


def _controls(
    o: Outcome, shared: Mapping[str, Outcome], found: Mapping[str, Outcome]
) -> dict[str, Outcome]:
    """The controls that an arm is held against, by kind."""
    own: dict[str, Outcome] = {m.arm.kind: m for m in found.values() if m.arm.matched == o.arm.name}
    return {kind: c for kind, c in {**shared, **own}.items() if c.arm.name != o.arm.name}


def _column(items: pl.DataFrame, ids: Sequence[str], name: str) -> Floats:
    order = pl.DataFrame({"id": list(ids)})
    return order.join(items, on="id", how="left", maintain_order="left")[name].to_numpy()
