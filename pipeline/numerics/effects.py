"""Effects: how much lower a loss (or higher a score) one arm of an experiment is than another.

An arm is trained S times (training seeds) on each of D selections (1, unless it draws them), and
every model answers the same N items. Whoever asks whether a selection beat random asks about other
items, other seeds and other draws, so all three count in the interval:

    effect = mean over seeds of (arm - mean over draws of control), weighted over items
    var    = items (paired Poisson bootstrap) + seeds of the difference / S
             + draws of the arm / D + draws of the control / D, without the noise of their models

An arm with one draw is one selection of many that its method could have made (of another pool, or
under another draw): its draws vary as the control's do. Without this, every second random subset
in disguise "beats" random: it is a little better than the mean of all, and measured well enough.

The interval is effect -+ t(df) sqrt(var), with Satterthwaite's df: a bootstrap over three seeds
would be far too short, as resamples of three values hardly differ. Simulated experiments are
covered at the stated rate (`tests/pipeline/numerics/test_effects.py`).
"""

# D = draws of a selection, S = training seeds, N = items, R = resamples

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gristmill.pipeline.numerics.intervals import draws

Floats = NDArray[np.float64]
POWER = 0.8  # of the smallest effect that would be detected


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A difference between two arms; positive means that the first has the larger value.

    Attributes:
        value: the estimate.
        low, high: its interval.
        error: standard error.
        freedom: degrees of freedom of the interval.
        p: two-sided, of no difference.
        detectable: the smallest true effect that such an experiment finds with a power of 80 %.
        level: of the interval, e.g. 0.95.
    """

    value: float
    low: float
    high: float
    error: float
    freedom: float
    p: float
    detectable: float
    level: float

    def at(self, level: float) -> "Effect":
        """The same effect with an interval of another level."""
        wide = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.error
        return Effect(
            value=self.value,
            low=self.value - wide,
            high=self.value + wide,
            error=self.error,
            freedom=self.freedom,
            p=self.p,
            detectable=detectable(self.error, self.freedom, level),
            level=level,
        )


def effect(
    arm_DSN: Floats,
    control_DSN: Floats,
    ids: Sequence[str],
    *,
    weight_N: Floats | None = None,
    spread_DSN: Floats | None = None,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 1_000,
) -> Effect:
    """The effect of an arm against a control on the same items and training seeds.

    Args:
        arm_DSN: value of every item under every model of the arm.
        control_DSN: of the control; as many seeds, its own number of draws.
        ids: of the items; bootstrap draws are keyed by them.
        weight_N: of the items, e.g. their tokens; equal by default.
        spread_DSN: draws of a third arm, as which both sides vary where each has but one.
        level: of the interval.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        ValueError: fewer than two training seeds, or shapes that do not fit.
    """
    (_, seeds, items), (_, other, same) = arm_DSN.shape, control_DSN.shape
    if seeds != other or items != same or items != len(ids):
        raise ValueError(
            f"an effect needs the same seeds and items on both sides; found {seeds} and {other} "
            f"seeds, {items} and {same} items, {len(ids)} ids."
        )
    if seeds < 2 or items < 2:
        raise ValueError(f"an effect needs 2 seeds and 2 items at least; found {seeds}, {items}.")
    share_N = np.full(items, 1.0 / items) if weight_N is None else weight_N / weight_N.sum()
    difference_SN = arm_DSN.mean(0) - control_DSN.mean(0)
    value = float(difference_SN.mean(0) @ share_N)
    of_items = _of_items(difference_SN.mean(0), share_N, ids, seed, resamples)
    parts = [(of_items, items - 1.0), *_of_models(arm_DSN, control_DSN, spread_DSN, share_N)]
    return _effect(value, parts, level)


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What an effect is of: an arm and its control, as the arguments of `effect`."""

    arm_DSN: Floats
    control_DSN: Floats
    spread_DSN: Floats | None = None


def change(
    before: Sides,
    after: Sides,
    ids: Sequence[str],
    *,
    weight_N: Floats | None = None,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 1_000,
) -> Effect:
    """How much larger an effect is in one experiment than in another that asked the same items.

    Items are paired; seeds and draws of the two are each their own.

    Args:
        before: the one experiment.
        after: the other.
        ids: of the items that both asked.
        weight_N: of these items; equal by default.
        level: of the interval.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    share_N = np.full(len(ids), 1.0 / len(ids)) if weight_N is None else weight_N / weight_N.sum()
    was_N, now_N = (s.arm_DSN.mean((0, 1)) - s.control_DSN.mean((0, 1)) for s in (before, after))
    of_items = _of_items(now_N - was_N, share_N, ids, seed, resamples)
    parts = [(of_items, len(ids) - 1.0)]
    for side in (before, after):
        parts += _of_models(side.arm_DSN, side.control_DSN, side.spread_DSN, share_N)
    return _effect(float((now_N - was_N) @ share_N), parts, level)


def detectable(error: float, freedom: float, level: float = 0.95, power: float = POWER) -> float:
    """The smallest true effect whose interval excludes 0 with the given power."""
    t = stats.t.ppf((1 + level) / 2, freedom) + stats.t.ppf(power, freedom)
    return float(t) * error


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: at most `alpha` of families have a false finding below it.

    Reference: S. Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, name in enumerate(sorted(p, key=lambda n: (p[n], n))):
        running = max(running, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = running
    return adjusted


def _effect(value: float, parts: Sequence[tuple[float, float]], level: float) -> Effect:
    """An estimate with its interval; `parts` are variances, each with its degrees of freedom."""
    variance = math.fsum(v for v, _ in parts)
    freedom = _satterthwaite(parts, variance)
    error = math.sqrt(variance)
    p = float(2 * stats.t.sf(abs(value) / error, freedom)) if error else float(value == 0)
    bare = Effect(
        value=value, low=value, high=value, error=error, freedom=freedom, p=p,
        detectable=0.0, level=level,
    )  # fmt: skip
    return bare.at(level)


def _of_models(
    arm_DSN: Floats, control_DSN: Floats, spread_DSN: Floats | None, share_N: Floats
) -> list[tuple[float, float]]:
    """Variances over training seeds and over draws, each with its degrees of freedom."""
    difference_SN = arm_DSN.mean(0) - control_DSN.mean(0)
    seeds = len(difference_SN)
    parts = [(_spread(difference_SN @ share_N) / seeds, seeds - 1.0)]
    drawn = [one for one in (arm_DSN, control_DSN) if len(one) > 1]
    for one_DSN in drawn:
        # one draw on the other side is as good as any of these
        times = 1 / len(one_DSN) + (len(drawn) == 1)
        parts.append((_of_draws(one_DSN, share_N) * times, len(one_DSN) - 1.0))
    if not drawn and spread_DSN is not None:
        parts.append((2 * _of_draws(spread_DSN, share_N), len(spread_DSN) - 1.0))
    return parts


def _spread(value_K: Floats) -> float:
    return float(value_K.var(ddof=1))


@lru_cache(maxsize=4)  # a comparison holds hundreds of effects against the same few sets of items
def _counts(ids: tuple[str, ...], resamples: int, seed: int) -> NDArray[np.int64]:
    count_NR = draws(ids, resamples, seed)
    count_NR.flags.writeable = False
    return count_NR


def _of_items(
    value_N: Floats, share_N: Floats, ids: Sequence[str], seed: int, resamples: int
) -> float:
    """Variance over resampled items of a weighted mean."""
    top_R, bottom_R = np.zeros(resamples), np.zeros(resamples)
    for at in range(0, len(ids), 4_096):
        part = slice(at, at + 4_096)
        count_NR = _counts(tuple(ids[part]), resamples, seed)
        top_R += (value_N[part] * share_N[part]) @ count_NR
        bottom_R += share_N[part] @ count_NR
    drawn = bottom_R > 0
    return float((top_R[drawn] / bottom_R[drawn]).var(ddof=1))


def _of_draws(value_DSN: Floats, share_N: Floats) -> float:
    """Variance between selections, without the noise of the models trained on them."""
    mean_DS: Floats = value_DSN @ share_N
    count, seeds = mean_DS.shape
    rest_DS = mean_DS - mean_DS.mean(1, keepdims=True) - mean_DS.mean(0) + mean_DS.mean()
    noise = float(np.square(rest_DS).sum()) / ((count - 1) * (seeds - 1))
    return float(max(0.0, _spread(mean_DS.mean(1)) - noise / seeds))


def _satterthwaite(parts: Sequence[tuple[float, float]], variance: float) -> float:
    below = math.fsum(v * v / df for v, df in parts)
    return max(variance * variance / below, 1.0) if below else parts[0][1]
