"""Rewards: what a batch of extracted pairs is worth, as a cost W that the bandit wants low.

A reward is anything with a `name` (all that its numbers depend on) and `costs`. Here are the
transport distance to a reference set, and a wrapper for a score of single pairs.
"""

# N = pairs of a set, M = reference rows, D = features, B = sets of one size

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np

from gristmill.pipeline.records.schema import digest, uniform
from gristmill.synthesis import transport
from gristmill.synthesis.bandit import Mode
from gristmill.synthesis.extraction import QA
from gristmill.synthesis.transport import Array, Metric

Embed = Callable[[Sequence[str]], Array]
Solver = Literal["ipot", "exact", "sinkhorn"]


class Reward(Protocol):
    """What the bandit minimises."""

    @property
    def name(self) -> str:
        """Hash or name of everything that decides the numbers."""

    def costs(self, sets: Sequence[Sequence[QA]]) -> Sequence[float | None]:
        """One cost a set, None for one that cannot be judged; no set is empty."""


def text_of(pair: QA) -> str:
    """A pair as one text, for an embedder."""
    return f"{pair.question.strip()}\n{pair.answer.strip()}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Transport:
    """W = optimal transport from the embedded pairs of a set to the reference set.

    Attributes:
        embed: texts to rows; `embed_name` names the model and how it is read.
        reference_MD: the reference set, at most `points` of it used.
        metric: distance of two embeddings.
        solver: of the transport problem.
        outer: scalings of IPOT; `inner` inside each.
        points: most points of a set, drawn by their text.
        seed: of that draw.
    """

    embed: Embed
    embed_name: str
    reference_MD: Array
    metric: Metric = "euclidean"
    solver: Solver = "ipot"
    outer: int = 100
    inner: int = 5
    points: int = 100
    seed: int = 0
    _known: dict[str, Array] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        reference = digest(np.asarray(self.reference_MD, dtype=np.float64).tolist())
        how = [self.metric, self.solver, self.outer, self.inner, self.points, self.seed]
        return digest(["transport", self.embed_name, reference, how])

    def costs(self, sets: Sequence[Sequence[QA]]) -> list[float]:
        drawn = [_draw([text_of(p) for p in s], self.points, self.seed) for s in sets]
        new = sorted({t for texts in drawn for t in texts} - self._known.keys())
        if new:
            rows_ND = self.embed(new)
            self._known.update(zip(new, np.asarray(rows_ND, dtype=np.float64), strict=True))
        cost = [
            transport.costs(
                self.reference_MD, np.stack([self._known[t] for t in texts]), self.metric
            )
            for texts in drawn
        ]
        if self.solver != "ipot":
            solve = transport.exact if self.solver == "exact" else transport.sinkhorn
            return [float(transport.distance(solve(c), c)) for c in cost]
        by_size: dict[int, list[int]] = defaultdict(list)
        for i, c in enumerate(cost):
            by_size[c.shape[1]].append(i)
        found = [0.0] * len(cost)
        for members in by_size.values():
            cost_BMN = np.stack([cost[i] for i in members])
            plan_BMN = transport.ipot(cost_BMN, outer=self.outer, inner=self.inner)
            distance_B = transport.distance(plan_BMN, cost_BMN)
            found_here = zip(members, distance_B, strict=True)
            for i, value in found_here:
                found[i] = float(value)
        return found


def transport_reward(
    mode: Mode, reference: Sequence[str], *, embed: Embed, embed_name: str, seed: int = 0
) -> Transport:
    """The transport reward with the settings of a mode, towards 100 of the reference texts."""
    if not reference:
        raise ValueError("the reference set is empty: give target rows, or another reward")
    chosen = _draw(reference, 100, seed)
    reference_MD = np.asarray(embed(chosen), dtype=np.float64)
    fixed = Transport(embed=embed, embed_name=embed_name, reference_MD=reference_MD, seed=seed)
    match mode:
        case "paper":
            return replace(fixed, metric="cosine", solver="exact")
        case "official":
            return replace(fixed, outer=500, inner=10)
        case "fixed" | "thompson":
            return fixed


@dataclass(frozen=True, kw_only=True)
class MeanScore:
    """W = minus the mean score of a set's pairs; pairs without a score are left out.

    Attributes:
        score: pairs to scores, higher is better; any scorer, wrapped by the caller.
        name: everything that decides its numbers.
        worst: the cost of a set of which no pair could be scored; None: that of a batch without
            pairs, the worst that was seen. A number is in units of minus the score.
    """

    score: Callable[[Sequence[QA]], Sequence[float | None]]
    name: str
    worst: float | None = None

    def costs(self, sets: Sequence[Sequence[QA]]) -> list[float | None]:
        flat = [p for s in sets for p in s]
        scores = iter(self.score(flat))
        found: list[float | None] = []
        for members in sets:
            given = [x for x in (next(scores) for _ in members) if x is not None]
            found.append(-float(np.mean(given)) if given else self.worst)
        return found


def _draw(texts: Sequence[str], size: int, seed: int) -> list[str]:
    """At most `size` texts, by a draw that their order cannot change."""
    order = sorted(texts, key=lambda t: (uniform(seed, "transport points", digest(t)), t))
    return sorted(order[:size])
