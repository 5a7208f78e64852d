"""A genetic search over subsets of k items, in rounds over the items that explain models best."""

# M = models, N = items of the task, C = items that are candidates, P = subsets of a population

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gristmill.pipeline.evaluate.compression.search import Fitness, Floats, Found, Ints

Masks = npt.NDArray[np.bool_]
GROUP = 0.75  # of the candidates, in a group
RIDGE = 1.0  # of the regression that weighs items, in units of a standardised item


@dataclass(frozen=True, kw_only=True)
class Genetic:
    """How subsets are bred.

    Attributes:
        population: subsets of a generation.
        elite: of them go on unchanged.
        tournament: subsets of which the best becomes a parent.
        generations: of the first search of a round; a group has half of them, of a third as many.
        rounds: searches, each over the best group of the one before.
    """

    population: int = 200
    elite: int = 20
    tournament: int = 3
    generations: int = 1_000
    rounds: int = 2

    def __post_init__(self) -> None:
        if not (0 < self.elite < self.population and self.tournament > 0 and self.rounds > 0):
            raise ValueError(
                "elite is from 1 to below the population, tournament and rounds are at least 1; "
                f"found {self.elite} of {self.population}, {self.tournament} and {self.rounds}."
            )


def bred(
    fitness: Fitness,
    among: Ints,
    how: Genetic,
    draw: np.random.Generator,
    *,
    start: Sequence[Found] = (),
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """The best subset that any round saw; never worse than those to start with.

    After each round's search, every item's part in explaining models' accuracy is averaged over the
    subsets of the last generation; the search goes on among the best three quarters of the items,
    the worst three quarters and as many random ones, and the group that found most is next.

    Args:
        fitness: what an error is.
        among: the items.
        how: settings.
        draw: random numbers.
        start: subsets of the first generation; the rest of it is random.
        told: of rounds done, and in all.
    """
    best = min(start, key=lambda f: f.error, default=Found(items=among[: fitness.k], error=np.inf))
    for number in range(how.rounds):
        told(number, how.rounds)
        seeds = [best.items] if np.isin(best.items, among).all() and np.isfinite(best.error) else []
        found, mask_PC = _generations(
            fitness, among, how.population, how.elite, how.tournament, how.generations, draw, seeds
        )
        best = min(best, found, key=lambda f: f.error)
        weight_C = _importance(fitness, among, mask_PC)
        size = max(fitness.k, round(GROUP * len(among)))
        order = np.argsort(-weight_C, kind="stable")
        groups = [order[:size], order[-size:], draw.permutation(len(among))[:size]]
        third = max(2, how.population // 3)
        elite = max(1, min(how.elite // 3, third - 1))
        tried = []
        for group in groups:
            mine = np.sort(among[group])
            found, _ = _generations(
                fitness, mine, third, elite, how.tournament, how.generations // 2, draw
            )
            tried.append((found.error, mine))
            best = min(best, found, key=lambda f: f.error)
        among = min(tried, key=lambda t: t[0])[1]
    told(how.rounds, how.rounds)
    return best


def _generations(
    fitness: Fitness,
    among: Ints,
    population: int,
    elite: int,
    tournament: int,
    generations: int,
    draw: np.random.Generator,
    seeds: Sequence[Ints] = (),
) -> tuple[Found, Masks]:
    """The best subset of all generations, and the last generation, best first."""
    part = fitness.among(among)
    mask_PC = _repaired(np.zeros((population, len(among)), dtype=bool), part.k, draw)
    for place, items in enumerate(seeds):
        mask_PC[place] = np.isin(among, items)
    error_P = part.masks(mask_PC)
    for _ in range(generations):
        order = np.argsort(error_P, kind="stable")
        mask_PC, error_P = mask_PC[order], error_P[order]
        if error_P[0] == 0:
            break
        children = population - elite
        # sorted by error: the best of a tournament is the one of the lowest place
        parents = draw.integers(population, size=(2, children, tournament)).min(axis=2)
        mother, father = mask_PC[parents]
        child = np.where(draw.random(mother.shape) < 0.5, mother, father)
        child ^= draw.random(child.shape) < 1 / part.k
        mask_PC[elite:] = _repaired(child, part.k, draw)
        error_P[elite:] = part.masks(mask_PC[elite:])
    order = np.argsort(error_P, kind="stable")
    mask_PC = mask_PC[order]
    return Found(items=among[mask_PC[0]], error=float(error_P[order[0]])), mask_PC


def _repaired(mask_PC: Masks, k: int, draw: np.random.Generator) -> Masks:
    """Random items come in, or go, until each subset has k of them."""
    rank = draw.random(mask_PC.shape) - mask_PC  # those inside come first
    first = np.argpartition(rank, k - 1, axis=1)[:, :k]
    made = np.zeros_like(mask_PC)
    np.put_along_axis(made, first, values=True, axis=1)
    return made


def _importance(fitness: Fitness, among: Ints, mask_PC: Masks) -> Floats:
    """Mean size of each item's weight in a linear model of the accuracy, over its subsets."""
    value_MC = fitness.value_MN[:, among]
    spread_C = value_MC.std(axis=0)
    scaled_MC = (value_MC - value_MC.mean(axis=0)) / np.where(spread_C > 0, spread_C, 1)
    whole_M = fitness.whole_M - fitness.whole_M.mean()
    sums, counts = np.zeros(len(among)), np.zeros(len(among))
    for mask_C in np.unique(mask_PC, axis=0):
        x_MK = scaled_MC[:, mask_C]
        # the dual form: models are fewer than items
        dual_M = np.linalg.solve(x_MK @ x_MK.T + RIDGE * np.eye(len(x_MK)), whole_M)
        sums[mask_C] += np.abs(x_MK.T @ dual_M)
        counts[mask_C] += 1
    return np.asarray(sums / np.maximum(counts, 1))
