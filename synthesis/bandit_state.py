"""What a bandit rule remembers of its arms, and the bookkeeping that all rules share."""

# A = arms

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.records.schema import canonical_json

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pull:
    """One batch of one arm: its W (None: no pair came out), and whether the batch was full."""

    arm: int
    cost: float | None
    full: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What a rule knows after some rounds; arrays have one entry an arm."""

    documents_A: Array
    drawn_A: Array  # batches sent, full or not
    count_A: Array  # pulls that entered the statistic
    sum_A: Array  # their costs (paper: the latest; official: the shared rewards)
    barren_A: Array  # full pulls without a pair
    index_A: Array  # U, by which arms are ranked; `inf` = not tried yet
    rounds: int = 0
    total: int = 0  # N of the bonus
    probe: tuple[float, ...] = ()  # the first costs ever seen
    worst: float | None = None  # the highest cost ever seen

    def dumps(self) -> str:
        """Canonical JSON; floats come back bit for bit, and `inf` travels as null."""
        fields = {
            k: [None if x == np.inf else float(x) for x in v] if k.endswith("_A") else v
            for k, v in vars(self).items()
        }
        return canonical_json(fields)

    @classmethod
    def loads(cls, text: str) -> Self:
        """The state that `dumps` wrote."""
        fields: dict[str, Any] = json.loads(text)
        arrays = {
            k: np.array([np.inf if x is None else x for x in v], dtype=np.float64)
            for k, v in fields.items()
            if k.endswith("_A")
        }
        return cls(**{**fields, "probe": tuple(fields["probe"]), **arrays})


def fresh(documents: Sequence[int], index_A: Array) -> State:
    """Nothing drawn yet; `index_A` decides which arms come first."""
    zero_A = np.zeros(len(documents))
    return State(
        documents_A=np.array(documents, dtype=np.float64),
        drawn_A=zero_A,
        count_A=zero_A,
        sum_A=zero_A,
        barren_A=zero_A,
        index_A=index_A,
    )


def batches_left(state: State, batch: int, *, tails: bool) -> Array:
    """Batches an arm still has; a tail of fewer than `batch` documents counts where wanted."""
    batches_A = np.ceil(state.documents_A / batch) if tails else state.documents_A // batch
    return np.asarray(batches_A - state.drawn_A, dtype=np.float64)


def top(state: State, arms: int, open_A: NDArray[np.bool_]) -> tuple[int, ...]:
    """The open arms of highest index, ties to the lower number."""
    order = np.argsort(-state.index_A, kind="stable")
    return tuple(int(arm) for arm in order[open_A[order]][:arms])


def recorded(
    state: State, pulls: Sequence[Pull], *, keep: Literal["sum", "latest"], probes: int = 0
) -> State:
    """The state with the pulls in it; of an arm's costs it keeps the sum, or the latest."""
    drawn_A, count_A = state.drawn_A.copy(), state.count_A.copy()
    sum_A, barren_A = state.sum_A.copy(), state.barren_A.copy()
    for pull in pulls:
        drawn_A[pull.arm] += 1
        if not pull.full:
            continue
        if pull.cost is None:
            barren_A[pull.arm] += 1
        else:
            count_A[pull.arm] += 1
            sum_A[pull.arm] = pull.cost + (sum_A[pull.arm] if keep == "sum" else 0.0)
    seen = tuple(float(p.cost) for p in pulls if p.full and p.cost is not None)
    return replace(
        state,
        drawn_A=drawn_A,
        count_A=count_A,
        sum_A=sum_A,
        barren_A=barren_A,
        rounds=state.rounds + 1,
        total=state.total + sum(p.full for p in pulls),
        probe=(state.probe + seen)[:probes],
        worst=worst_of(state, pulls),
    )


def worst_of(state: State, pulls: Sequence[Pull]) -> float | None:
    """The highest cost of a full pull, before and now."""
    seen = [state.worst, *(p.cost for p in pulls if p.full)]
    return max((float(x) for x in seen if x is not None), default=None)


def log_of(total: int) -> float:
    """Ln N of the bonus, 0 before the first pull."""
    return float(np.log(max(total, 1)))
