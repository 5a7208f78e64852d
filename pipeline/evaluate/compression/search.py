"""Search for k items: drop items that say the same, then swap items while the error falls."""

# M = models, N = items, K = items of a subset, P = subsets

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.numerics.similarity import unit
from gristmill.pipeline.numerics.spline import Curve, slopes

CHANCE = 0.01  # the least probability of a right or a wrong answer
FLAT = 1e-3  # the least growth of a subset's right answers with the accuracy
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
    """The error of subsets of k items, by sums over their items.

    Attributes:
        value_MN: answers of the models that errors are taken over.
        whole_M: their accuracy on all items of the task.
        parts: what is summed over the items of a subset, M x N each.
        error: from these sums, ... x M each, to errors.
        k: items of a subset.
    """

    value_MN: Floats
    whole_M: Floats
    parts: tuple[Floats, ...]
    error: Callable[[tuple[Floats, ...]], Floats]
    k: int

    def masks(self, mask_PN: npt.NDArray[np.bool_]) -> Floats:
        """The errors of subsets as masks."""
        inside_PN = mask_PN.astype(np.float64)
        return self.error(tuple(inside_PN @ part.T for part in self.parts))

    def among(self, items: Ints) -> "Fitness":
        """The same, of these items alone."""
        parts = tuple(part[:, items] for part in self.parts)
        return replace(self, value_MN=self.value_MN[:, items], parts=parts)


def by_answers(value_MN: Floats, whole_M: Floats, curve: Curve, k: int) -> Fitness:
    """Root mean squared error, in these models, of the curve at their accuracy on the subset."""
    table = curve(np.arange(k + 1) / k)
    whole = bool(np.isin(value_MN, (0, 1)).all())  # sums are numbers of right answers

    def error(sums: tuple[Floats, ...]) -> Floats:
        guess = table[np.rint(sums[0]).astype(np.int64)] if whole else curve(sums[0] / k)
        return np.asarray(np.sqrt(((guess - whole_M) ** 2).mean(axis=-1)))

    return Fitness(value_MN=value_MN, whole_M=whole_M, parts=(value_MN,), error=error, k=k)


def by_expectation(value_MN: Floats, whole_M: Floats, k: int) -> Fitness:
    """The error to be expected of new models, from each item's curve over the accuracy.

    A model of accuracy y answers item i rightly with probability p_i(y), a smooth curve through the
    models' answers. The number of right answers in a subset then has the variance sum p (1 - p),
    and grows by sum p' with y: y is told with a variance of sum p (1 - p) / (sum p')^2. Chance
    answers of the models at hand play no part in it, so there is nothing for a search to fit.
    """
    right_MN, growth_MN = slopes(whole_M, value_MN)
    right_MN = np.clip(right_MN, CHANCE, 1 - CHANCE)
    parts = (right_MN * (1 - right_MN), growth_MN)

    def error(sums: tuple[Floats, ...]) -> Floats:
        variance, growth = sums
        return np.asarray(np.sqrt((variance / np.maximum(growth, FLAT) ** 2).mean(axis=-1)))

    return Fitness(value_MN=value_MN, whole_M=whole_M, parts=parts, error=error, k=k)


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
        sums = tuple(part[:, inside].sum(axis=1) for part in fitness.parts)
        error, idle, taken = float(fitness.error(sums)), 0, 0
        while taken < swaps and idle < fitness.k:
            place = int(draw.integers(fitness.k))
            outside = np.setdiff1d(among, inside)
            if not len(outside):
                break
            maybe = draw.permutation(outside)[:LOOKED_AT]
            tried = tuple(
                (total_M - part[:, inside[place]]) + part[:, maybe].T
                for part, total_M in zip(fitness.parts, sums, strict=True)
            )
            error_P = fitness.error(tried)
            at = int(error_P.argmin())
            if error_P[at] < error:
                inside[place] = maybe[at]
                sums, error = tuple(t[at] for t in tried), float(error_P[at])
                taken, idle = taken + 1, 0
            else:
                idle += 1
        if error < best.error:
            best = Found(items=np.sort(inside), error=error)
    told(restarts, restarts)
    return best
