"""Axes of effects: a range that one arm far off does not spoil, and ticks at round numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gristmill.pipeline.numerics.effects import Effect

_FAR = 2.0  # times the middle half of all ends: what lies further off it is drawn as an arrow


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Values between two ends, and where they stand.

    Attributes:
        low, high: the values at its ends.
        start, end: the places of these.
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value; of one that is off the axis, the end."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def off(self, value: float) -> int:
        """-1 below the axis, 1 above it, 0 on it."""
        return (value > self.high) - (value < self.low)

    def ticks(self, count: int = 6) -> list[float]:
        """So many round numbers, or a few less."""
        rough = (self.high - self.low) / count
        power: float = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def axis(effects: Sequence[Effect], start: float, end: float) -> Axis:
    """An axis of effects with no effect on it, which arms far off do not stretch."""
    low, high = ends(effects)
    return Axis(low=low, high=high, start=start, end=end)


def ends(effects: Sequence[Effect]) -> tuple[float, float]:
    """The values between which nearly all intervals are, and 0."""
    every = [end for e in effects for end in (e.low, e.high)]
    if not every:
        return -1.0, 1.0
    quarter, three = np.quantile(every, [0.25, 0.75])
    far = _FAR * float(three - quarter)
    near = [0.0, *(end for end in every if quarter - far <= end <= three + far)]
    edge = 0.04 * (max(near) - min(near)) or 1.0
    return min(near) - edge, max(near) + edge
