"""What preparing a method costs on a pool of this size, and from how many rows on it pays.

Costs are in forward passes of one sequence by the model that something is made of (fe). A training
step on all weights is 3 of them, on an adapter 2. What the store has already costs nothing.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gristmill.pipeline.contracts import ModelSignal, Recipe, Scorer, Signal

FULL, ADAPTER = 3, 2  # fe of a training step, a row
ADAPTER_SHARE = 0.02  # of the parameters, about
MEAN_TOKENS = 256.0  # of a row, where a signal's cost depends on it
MOST_ROWS = 2**40


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """What a method costs on a pool.

    Attributes:
        making: fe of all its recipes.
        reading: fe a row of the pool, once they are made.
        smaller: fe of the recipes that make a smaller model to read.
        saved: fe a row that such models save.
        pays_from: rows from which on `smaller` is saved again; without smaller models, from which
            on `making` is no more than all `reading`. None: on no pool.
        rows: of this pool.
    """

    making: float
    reading: float
    smaller: float
    saved: float
    pays_from: int | None
    rows: int

    @property
    def pays(self) -> bool:
        """Whether it does on this pool."""
        return self.pays_from is not None and self.rows >= self.pays_from

    @property
    def sentence(self) -> str:
        """For the log and the plan."""
        told = (
            f"preparing takes about {self.making:,.0f} forward passes of a row "
            f"({self.making / max(1, self.rows):,.1f} a row of this pool), reading "
            f"{self.reading:.3g} a row; "
        )
        if not self.saved:
            when = "on no pool" if self.pays_from == 1 else f"below {self.pays_from or 0:,} rows"
            return told + f"it outweighs reading {when if self.pays_from else 'on any pool'}."
        told += f"the smaller model takes {self.smaller:,.0f} of these and saves {self.saved:.3g} "
        if self.pays:
            return told + f"a row: it pays from {self.pays_from:,} rows on."
        when = f"from {self.pays_from:,} rows on" if self.pays_from else "on no pool"
        return told + (
            f"a row: it pays {when}, not on these {self.rows:,}, where a method that reads the "
            "whole model is cheaper."
        )


def preparing(
    scorer: Scorer,
    rows: int,
    targets: int = 0,
    needless: Callable[[Recipe], bool] = lambda _: False,
) -> Preparing | None:
    """What a method's recipes cost; None where there is next to nothing to make.

    Args:
        scorer: the method.
        rows: of the pool.
        targets: rows of the reference set.
        needless: whether a recipe is not made, as the user's own models stand in its place.
    """
    recipes = [r for r in dict.fromkeys(scorer.recipes) if not needless(r)]
    making = sum(r.cost(rows, targets) for r in recipes)
    if not making:
        return None
    sizes = {r.role: r.share_of_base for r in recipes if r.role}
    reads = passes(scorer)
    reading = sum(cost * sizes.get(role, 1.0) for role, cost in reads)
    saved = sum(cost * (1 - sizes.get(role, 1.0)) for role, cost in reads)
    shrinking = [r for r in recipes if r.share_of_base < 1]
    counted, gain = (shrinking, saved) if saved else (recipes, reading)
    return Preparing(
        making=making,
        reading=reading,
        smaller=sum(r.cost(rows, targets) for r in shrinking),
        saved=saved,
        pays_from=_first(lambda n: sum(r.cost(n, targets) for r in counted) <= gain * n),
        rows=rows,
    )


def selecting(
    scorer: Scorer,
    rows: int,
    targets: int = 0,
    sizes: Mapping[str, float] | None = None,
    needless: Callable[[Recipe], bool] = lambda _: False,
) -> float:
    """What a method's scores cost, in forward passes of a row by the model that is trained.

    Args:
        scorer: the method.
        rows: of the pool.
        targets: rows of the reference set.
        sizes: what a forward pass of a role's model costs, the trained model's being 1; a role that
            is not named costs 1.
        needless: as for `preparing`.
    """
    known = dict(sizes or {})
    recipes = [r for r in dict.fromkeys(scorer.recipes) if not needless(r)]
    making = sum(r.cost(rows, targets) * known.get(r.base, 1.0) for r in recipes)
    for recipe in recipes:
        if recipe.role:
            known.setdefault(recipe.role, recipe.share_of_base * known.get(recipe.base, 1.0))
    own = [(rows, scorer.signals), (targets, scorer.reference_signals)]
    reading = [n * c * known.get(role, 1.0) for n, s in own for role, c in _passes(s)]
    return math.fsum([making, *reading])


def passes(scorer: Scorer) -> list[tuple[str, float]]:
    """Role and fe a row of each pass that a method's signals take; those of one view share one."""
    return _passes(scorer.signals)


def _passes(signals: Iterable[Signal]) -> list[tuple[str, float]]:
    shared: dict[tuple[str, str], float] = {}
    own: list[tuple[str, float]] = []
    for signal in dict.fromkeys(signals):
        cost = signal.cost(MEAN_TOKENS)
        if isinstance(signal, ModelSignal):
            own.append((signal.role, cost))
        else:
            key = (signal.role, signal.view.name)
            shared[key] = max(shared.get(key, 0.0), cost)
    return [*((role, cost) for (role, _), cost in shared.items()), *own]


def training(rows: int, epochs: int, *, adapter: bool, sequences: int = 1) -> float:
    """Fe of a training run: `sequences` of each row, so many times."""
    return float(rows * epochs * sequences * (ADAPTER if adapter else FULL))


def trained(*, adapter: bool) -> float:
    """The share of a model's parameters that a training run moves."""
    return ADAPTER_SHARE if adapter else 1.0


def _first(enough: Callable[[int], bool]) -> int | None:
    """The smallest number of rows that is enough, if those above it are."""
    high = 1
    while not enough(high):
        high *= 2
        if high > MOST_ROWS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
