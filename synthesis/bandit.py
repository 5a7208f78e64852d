"""Bandit rules over clusters of documents: pull where it pays.

An arm is a cluster, a pull sends its next batch of documents to the extractor, and the cost W of a
pull is the transport distance from the extracted pairs to a reference set: lower is better. Rules
are pure: `update(state, graph, pulls) -> state` learns, `choose(state) -> (state, arms)` decides;
no clock, no file, no model. `State` is all they remember, as plain JSON.
"""

# A = arms, D = features

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from gristmill.pipeline.records.schema import uniform
from gristmill.synthesis.arm_similarity import gaps, mutual
from gristmill.synthesis.bandit_state import (
    Array,
    Pull,
    State,
    batches_left,
    fresh,
    log_of,
    recorded,
    top,
    worst_of,
)

Mode = Literal["paper", "official", "fixed", "thompson"]
_GONE = -9_999_999.0  # what the released script writes for an arm without a full batch


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One arm a round: DS_j = -OT_j + a sqrt(2 ln N / T_j) with a = 1 / (N + 1).

    OT_j is the distance of *all* pairs of arm j so far, recomputed each time (`union`).

    Paper: "Not All Documents Are What You Need ...", arXiv:2505.12250.
    Departures: the printed formula adds +OT while it calls a low OT better; here it is a gain. An
        untried arm comes first, lowest index first.
    """

    union: ClassVar[bool] = True
    tails: ClassVar[bool] = False
    batch: int = 10  # not in the paper: the released script's

    def graph(self, mean_AD: Array, std_AD: Array) -> Array:
        del std_AD
        return np.eye(len(mean_AD))

    def start(self, documents: Sequence[int]) -> State:
        return fresh(documents, np.full(len(documents), np.inf))

    def choose(self, state: State) -> tuple[State, tuple[int, ...]]:
        return state, top(state, 1, batches_left(state, self.batch, tails=self.tails) > 0)

    def update(self, state: State, graph_AA: Array, pulls: Sequence[Pull]) -> State:
        del graph_AA
        state = recorded(state, pulls, keep="latest")
        tries_A = state.count_A + state.barren_A
        cost_A = np.where(state.count_A > 0, state.sum_A, state.worst or 0.0)
        bonus_A = np.sqrt(2.0 * log_of(state.total) / np.maximum(tries_A, 1.0)) / (state.total + 1)
        return replace(state, index_A=np.where(tries_A > 0, bonus_A - cost_A, np.inf))


@dataclass(frozen=True, kw_only=True)
class Official:
    """What the released script does: r = 0.88 - W, shared with every arm nearer than `near`.

    Kept to reproduce the published runs. It leaves an arm only once the arm's mean W exceeds 0.88,
    so with another embedder it may never explore; exhausted arms go on collecting rewards.

    Paper: arXiv:2505.12250 and its released code.
    Departures: the walk ends at the end of its list, where the script overruns it; a batch without
        a pair earns the worst reward seen (0 before any), where the script has no such case.
    """

    union: ClassVar[bool] = False
    tails: ClassVar[bool] = False
    batch: int = 10
    arms: int = 50
    alpha: float = 0.001
    anchor: float = 0.88
    near: float = 0.2

    def graph(self, mean_AD: Array, std_AD: Array) -> Array:
        return (gaps(mean_AD, std_AD) < self.near).astype(np.float64)  # NaN is no neighbour

    def start(self, documents: Sequence[int]) -> State:
        return fresh(documents, np.zeros(len(documents)))

    def choose(self, state: State) -> tuple[State, tuple[int, ...]]:
        left_A = batches_left(state, self.batch, tails=self.tails)
        walk: list[int] = []
        sum_A, index_A = state.sum_A.copy(), state.index_A.copy()
        for arm in np.argsort(-state.index_A, kind="stable"):
            if len(walk) == self.arms:
                break
            if left_A[arm] > 0:
                walk.append(int(arm))
            else:
                sum_A[arm] = index_A[arm] = _GONE
        return replace(state, sum_A=sum_A, index_A=index_A), tuple(walk)

    def update(self, state: State, graph_AA: Array, pulls: Sequence[Pull]) -> State:
        worst = worst_of(state, pulls)
        barren = self.anchor if worst is None else worst
        sum_A, count_A = state.sum_A.copy(), state.count_A.copy()
        total, drawn_A = state.total, state.drawn_A.copy()
        for pull in pulls:
            drawn_A[pull.arm] += 1
            cost = barren if pull.cost is None else pull.cost
            near_A = graph_AA[pull.arm]
            sum_A += near_A * (self.anchor - cost)
            count_A += near_A
            total += int(near_A.sum())
        mean_A = np.divide(sum_A, count_A, out=np.zeros_like(sum_A), where=count_A > 0)
        index_A = mean_A + self.alpha * np.sqrt(2.0 * log_of(total) / (count_A + 1.0))
        return replace(
            state,
            drawn_A=drawn_A,
            count_A=count_A,
            sum_A=sum_A,
            index_A=index_A,
            rounds=state.rounds + 1,
            total=total,
            worst=worst,
        )


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """The default: rewards centred on a probe, an optimistic prior, mutual neighbours share.

    U_j = (S_j + k g0) / (n_j + k) + a s0 sqrt(2 ln N / (n_j + 1)), where n_j and S_j sum the pulls
    of arm i and their c0 - W with weight w_ij = exp(-G_ij / h); c0, s0 and c0 - g0 are median,
    spread and minimum of the first costs, one batch each from `probes` random arms.

    Only full batches are compared; a tail batch is sent and kept. A batch without a pair counts as
    the worst cost seen.

    Paper: ours, after arXiv:2505.12250.
    Departures: all of it; why, is told by the regret tests, where the released rule never leaves a
        poor arm whose cost happens to lie under its constant.
    """

    union: ClassVar[bool] = False
    tails: ClassVar[bool] = True
    batch: int = 10
    arms: int = 10
    alpha: float = 0.1
    prior: float = 1.0  # k, in pulls
    probes: int = 20
    neighbours: int = 5
    seed: int = 0

    def graph(self, mean_AD: Array, std_AD: Array) -> Array:
        return mutual(gaps(mean_AD, np.nan_to_num(std_AD)), self.neighbours)

    def start(self, documents: Sequence[int]) -> State:
        draw = [uniform(self.seed, "bandit probe", str(arm)) for arm in range(len(documents))]
        return fresh(documents, np.array(draw))

    def choose(self, state: State) -> tuple[State, tuple[int, ...]]:
        if probing(self, state):
            full_A = batches_left(state, self.batch, tails=False) > 0
            if full_A.any():
                return state, top(state, self.probes, full_A)
        return state, top(state, self.arms, batches_left(state, self.batch, tails=self.tails) > 0)

    def update(self, state: State, graph_AA: Array, pulls: Sequence[Pull]) -> State:
        state = recorded(state, pulls, keep="sum", probes=self.probes)
        mean_A, n_A, spread = self.posterior(state, graph_AA)
        bonus_A = self.alpha * spread * np.sqrt(2.0 * log_of(state.total) / (n_A + 1.0))
        return replace(state, index_A=mean_A + bonus_A)

    def posterior(self, state: State, graph_AA: Array) -> tuple[Array, Array, float]:
        """Mean gain of each arm with the prior in it, its number of (shared) pulls, and s0."""
        probe = np.array(state.probe or (0.0,))
        c0, s0 = float(np.median(probe)), max(float(probe.std()), 1e-6)
        g0 = c0 - float(probe.min())
        worst = c0 if state.worst is None else state.worst
        gain_A = state.count_A * c0 - state.sum_A + state.barren_A * (c0 - worst)
        n_A = graph_AA.T @ (state.count_A + state.barren_A)
        return (graph_AA.T @ gain_A + self.prior * g0) / (n_A + self.prior), n_A, s0


@dataclass(frozen=True, kw_only=True)
class Thompson:
    """`Fixed` with a draw in place of the bonus: U_j ~ Normal(mean_j, (s0 / sqrt(n_j + k))^2).

    Wants no alpha, and spreads a round's arms by itself; noisier than `Fixed` on few pulls.

    Paper: Thompson 1933; Chapelle and Li, "An Empirical Evaluation of Thompson Sampling", 2011.
    Departures: prior and sharing are those of `Fixed`.
    """

    union: ClassVar[bool] = False
    tails: ClassVar[bool] = True
    base: Fixed = Fixed()

    @property
    def batch(self) -> int:
        """Documents a pull."""
        return self.base.batch

    def graph(self, mean_AD: Array, std_AD: Array) -> Array:
        return self.base.graph(mean_AD, std_AD)

    def start(self, documents: Sequence[int]) -> State:
        return self.base.start(documents)

    def choose(self, state: State) -> tuple[State, tuple[int, ...]]:
        return self.base.choose(state)

    def update(self, state: State, graph_AA: Array, pulls: Sequence[Pull]) -> State:
        state = recorded(state, pulls, keep="sum", probes=self.base.probes)
        mean_A, n_A, spread = self.base.posterior(state, graph_AA)
        key = int(uniform(self.base.seed, "thompson", str(state.rounds)) * 2**53)
        draw_A = np.random.default_rng(key).standard_normal(len(n_A))
        return replace(state, index_A=mean_A + draw_A * spread / np.sqrt(n_A + self.base.prior))


Rule: TypeAlias = Paper | Official | Fixed | Thompson


def rule(
    mode: Mode,
    *,
    batch: int = 10,
    arms: int | None = None,
    seed: int = 0,
    pulls: int | None = None,
) -> Rule:
    """The rule of a mode with its own defaults; `arms` a round where the mode has a choice.

    Where the budget holds few `pulls`, the probe takes a third of them at most: 20 would leave
    nothing to choose.
    """
    probes = 20 if pulls is None else max(2, min(20, pulls // 3))
    match mode:
        case "paper":
            if arms not in (None, 1):
                raise ValueError(f"mode 'paper' pulls one arm a round; found arms={arms}, drop it")
            return Paper(batch=batch)
        case "official":
            return Official(batch=batch, arms=arms or 50)
        case "fixed":
            return Fixed(batch=batch, arms=arms or 10, probes=probes, seed=seed)
        case "thompson":
            base = Fixed(batch=batch, arms=arms or 10, probes=probes, seed=seed)
            return Thompson(base=base)


def warmed(
    machine: Rule, documents: Sequence[int], graph_AA: Array, pulls: Sequence[Pull]
) -> State:
    """The state before round 0 when something is known already: `pulls` of a warm-up.

    They count in the statistic and draw no batch; arms still without a probe are probed.
    """
    start = machine.start(documents)
    if not pulls:
        return start
    known = replace(machine.update(start, graph_AA, pulls), rounds=0, drawn_A=start.drawn_A)
    return replace(known, index_A=start.index_A) if probing(machine, known) else known


def probing(machine: Rule, state: State) -> bool:
    """Will the next arms be chosen by chance, to learn what a pull costs?"""
    base = machine.base if isinstance(machine, Thompson) else machine
    return isinstance(base, Fixed) and state.rounds == 0 and len(state.probe) < base.probes
