"""Feedback of any scale as a reward between 0 and 1, by the quantiles of what was seen so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

FEW = 20  # rewards before the quantiles say anything
LOW, HIGH = 0.2, 0.8


def scaled(reward: float, low: float, high: float) -> float:
    """clip((r - q20) / (q80 - q20), 0, 1); where both quantiles agree, whether r is above them."""
    if high <= low:
        return 1.0 if reward > low else 0.0
    return float(np.clip((reward - low) / (high - low), 0.0, 1.0))


def bounds(rewards: Sequence[float]) -> tuple[float, float]:
    """The 20 % and 80 % quantiles."""
    low, high = np.quantile(np.asarray(rewards, dtype=np.float64), (LOW, HIGH))
    return float(low), float(high)


@dataclass(kw_only=True)
class Normaliser:
    """One history for all arms; a reward is in it before the quantiles are taken.

    Attributes:
        history: rewards as they came.
    """

    history: list[float] = field(default_factory=list)

    def __call__(self, reward: float) -> float:
        """The reward between 0 and 1; .5 until there are 20."""
        self.history.append(reward)
        if len(self.history) < FEW:
            return 0.5
        return scaled(reward, *bounds(self.history))
