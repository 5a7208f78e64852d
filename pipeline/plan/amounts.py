"""Amounts: estimates with 95 % intervals, and their sums."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Student's t at 97.5 % by degrees of freedom; the normal quantile beyond.
_T = (math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_NORMAL = 1.96


@dataclass(frozen=True, kw_only=True)
class Amount:
    """An estimate.

    Attributes:
        value: the estimate.
        half: half the width of its 95 % interval; 0: it is exact, or the most there can be.
    """

    value: float
    half: float = 0.0

    @property
    def low(self) -> float:
        """The lower end."""
        return max(0.0, self.value - self.half)

    @property
    def high(self) -> float:
        """The upper end."""
        return self.value + self.half

    def times(self, factor: float) -> "Amount":
        """So many of it."""
        return Amount(value=self.value * factor, half=self.half * factor)

    def by(self, rate: "Amount") -> "Amount":
        """The product with an independent estimate."""
        value = self.value * rate.value
        return Amount(value=value, half=math.hypot(self.half * rate.value, self.value * rate.half))


NOTHING = Amount(value=0.0)


def total(amounts: Iterable[Amount]) -> Amount:
    """The sum of independent estimates."""
    found = list(amounts)
    return Amount(
        value=math.fsum(a.value for a in found), half=math.hypot(*(a.half for a in found))
    )


def mean(values: Sequence[float], of: int | None = None) -> Amount:
    """The mean of a sample; of a population of so many, if its size is known.

    Args:
        values: at least one.
        of: how many there are in all; a sample of all of them has no error.
    """
    count = len(values)
    found = math.fsum(values) / count
    if count < 2 or (of is not None and count >= of):
        return Amount(value=found)
    square = math.fsum((x - found) ** 2 for x in values) / (count - 1)
    return Amount(value=found, half=quantile(count - 1) * math.sqrt(square / count))


def ratio(above: Sequence[float], below: Sequence[float]) -> Amount:
    """Sum over sum, e.g. seconds a token over batches of unlike size; the spread is theirs."""
    whole = math.fsum(below)
    if not whole:
        return NOTHING
    count, rate = len(above), math.fsum(above) / whole
    if count < 2:
        return Amount(value=rate, half=rate)  # nothing is known of the spread
    rest = math.fsum((a - rate * b) ** 2 for a, b in zip(above, below, strict=True))
    error = math.sqrt(rest / (count * (count - 1))) / (whole / count)
    return Amount(value=rate, half=quantile(count - 1) * error)


def quantile(freedom: int) -> float:
    """Half the width of a 95 % interval in standard errors."""
    return _T[freedom] if freedom < len(_T) else _NORMAL
