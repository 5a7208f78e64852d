"""Search for k items: drop items that say the same, then swap items while the error falls."""

# M = models, N = items, K = items of a subset, P = subsets

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.numerics.similarity import unit
from gristmill.pipeline.numerics.spline import Curve

LOOKED_AT = 512  # items that a swap may bring in, drawn anew each time

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def distinct(
    value_MN: Floats,
    least: int,
    *,
    alike: float,
    vector_ND: Floats | None = None,
    text_alike: float = 1.0,
) -> Ints:
    """The items that an earlier one does not stand for, in order: at least so many.

    An item stands for a later one if models' answers to both correlate above `alike`, or their
    texts' vectors have a cosine above `text_alike`. Items that all models answer alike tell nothing
    and stay out too, unless they are needed to make up the number.
    """
    centred_NM = unit((value_MN - value_MN.mean(axis=0)).T)
    text_ND = np.zeros((len(centred_NM), 1)) if vector_ND is None else unit(vector_ND)
    kept: list[int] = []
    answers, texts = np.empty_like(centred_NM), np.empty_like(text_ND)
    for item, (answer_M, text_D) in enumerate(zip(centred_NM, text_ND, strict=True)):
        n = len(kept)
        if not answer_M.any():
            continue
        if (answers[:n] @ answer_M > alike).any() or (texts[:n] @ text_D > text_alike).any():
            continue
        answers[n], texts[n] = answer_M, text_D
        kept.append(item)
    left = np.setdiff1d(np.arange(len(centred_NM)), kept)
    return np.sort(np.concatenate([kept, left[: max(0, least - len(kept))]])).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Fitness:
    """The error of subsets of k items: of the curve at their accuracy, over some models.

    Attributes:
        value_MN: answers of these models.
        whole_M: their accuracy on all items of the task.
        curve: from the accuracy on a subset to that on all.
        k: items of a subset.
    """

    value_MN: Floats
    whole_M: Floats
    curve: Curve
    k: int

    def of(self, total_PM: Floats) -> Floats:
        """Root mean squared error by the sums of a subset's answers."""
        off_PM = self.curve(total_PM / self.k) - self.whole_M
        return np.asarray(np.sqrt((off_PM**2).mean(axis=-1)))

    def masks(self, mask_PN: npt.NDArray[np.bool_]) -> Floats:
        """The errors of subsets as masks."""
        return self.of(mask_PN.astype(np.float64) @ self.value_MN.T)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A subset and its error."""

    items: Ints
    error: float


def swapped(
    fitness: Fitness,
    among: Ints,
    *,
    restarts: int,
    swaps: int,
    draw: np.random.Generator,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """The best of several random subsets, each bettered by swaps until none of its items helps.

    Args:
        fitness: what an error is.
        among: the items.
        restarts: random subsets to begin with.
        swaps: that one of them may take.
        draw: random numbers.
        told: of restarts done, and in all.
    """
    best = Found(items=among[: fitness.k], error=np.inf)
    for restart in range(restarts):
        told(restart, restarts)
        inside = draw.permutation(among)[: fitness.k]
        total_M = fitness.value_MN[:, inside].sum(axis=1)
        error, idle, taken = float(fitness.of(total_M)), 0, 0
        while taken < swaps and idle < fitness.k:
            place = int(draw.integers(fitness.k))
            outside = np.setdiff1d(among, inside)
            if not len(outside):
                break
            maybe = draw.permutation(outside)[:LOOKED_AT]
            without_M = total_M - fitness.value_MN[:, inside[place]]
            total_PM = without_M + fitness.value_MN[:, maybe].T
            error_P = fitness.of(total_PM)
            at = int(error_P.argmin())
            if error_P[at] < error:
                inside[place] = maybe[at]
                total_M, error = total_PM[at], float(error_P[at])
                taken, idle = taken + 1, 0
            else:
                idle += 1
        if error < best.error:
            best = Found(items=np.sort(inside), error=error)
    told(restarts, restarts)
    return best
