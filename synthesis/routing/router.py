"""Thompson sampling over reward models: which one labels the next pair, and what it learns from it.

Pairs come in batches: the arms of a batch are drawn under one posterior, each drawn arm is asked
about its own pairs, and the feedback of the batch is taken in.
"""

# T = pairs, K = arms, D = features

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from gristmill.pipeline.records.schema import digest
from gristmill.synthesis.curation.votes import Label
from gristmill.synthesis.routing.normaliser import Normaliser
from gristmill.synthesis.routing.posterior import Posterior

Floats = NDArray[np.float64]
Margins = Callable[[int, Sequence[int]], Floats]  # arm and places of pairs to reward margins
Feedback = Callable[[Mapping[int, Label]], Mapping[int, float]]  # labelled pairs to rewards


@dataclass(frozen=True, kw_only=True)
class Routed:
    """What became of one pair.

    Attributes:
        arm: that was drawn.
        margin: that it gave.
        label: by its sign; None: a tie.
        reward: the feedback, between 0 and 1; None: there was none.
    """

    arm: int
    margin: float
    label: Label | None
    reward: float | None = None


@dataclass(frozen=True, kw_only=True)
class Router:
    """The settings of the online part.

    Attributes:
        strength: of the prior, lambda_0.
        noise: variance of a reward.
        tie: margins of a smaller size label nothing.
        batch: pairs between two updates.
        seed: of the draws.
    """

    strength: float = 1.0
    noise: float = 1.0
    tie: float = 1e-2
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.tie < 0:
            raise ValueError(
                f"batch is at least 1 and tie not below 0; found {self.batch} and {self.tie}."
            )

    def run(
        self,
        ids: Sequence[str],
        h_TD: Floats,
        arm_KD: Floats,
        margins: Margins,
        feedback: Feedback | None,
        wanted: int | None = None,
    ) -> dict[str, Routed]:
        """Label pairs in their order, each by one arm.

        Args:
            ids: of the pairs.
            h_TD: their vectors.
            arm_KD: the arms' vectors: the means of their priors.
            margins: asks an arm.
            feedback: rewards of labelled pairs, of any scale; None: nothing is learnt online.
            wanted: labels wanted: a tie draws another pair; None: all pairs are looked at.
        """
        arms = [
            Posterior.prior(mean_D, strength=self.strength, noise=self.noise) for mean_D in arm_KD
        ]
        normalised, found = Normaliser(), dict[str, Routed]()
        at, labels = 0, 0
        while at < len(ids) and (wanted is None or labels < wanted):
            size = self.batch if wanted is None else min(self.batch, wanted - labels)
            places = list(range(at, min(at + size, len(ids))))
            routed = self._batch(ids, places, h_TD, arms, margins)
            decided = {t: r.label for t, r in routed.items() if r.label is not None}
            if feedback is not None and decided:
                for place, raw in sorted(feedback(decided).items()):
                    one = routed[place]
                    reward = normalised(raw)
                    arms[one.arm].update(h_TD[place], reward)
                    routed[place] = Routed(
                        arm=one.arm, margin=one.margin, label=one.label, reward=reward
                    )
            found |= {ids[t]: routed[t] for t in places}
            at, labels = at + len(places), labels + len(decided)
        return found

    def _batch(
        self,
        ids: Sequence[str],
        places: Sequence[int],
        h_TD: Floats,
        arms: Sequence[Posterior],
        margins: Margins,
    ) -> dict[int, Routed]:
        drawn = {t: self._draw(ids[t], h_TD[t], arms) for t in places}
        routed: dict[int, Routed] = {}
        for arm in sorted(set(drawn.values())):
            mine = [t for t in places if drawn[t] == arm]
            for place, margin in zip(mine, margins(arm, mine), strict=True):
                routed[place] = Routed(arm=arm, margin=float(margin), label=self._label(margin))
        return {t: routed[t] for t in places}

    def _draw(self, ident: str, h_D: Floats, arms: Sequence[Posterior]) -> int:
        """The arm whose drawn weights promise most; draws are keyed by (seed, id, arm)."""
        promised = []
        for number, arm in enumerate(arms):
            key = int(digest([self.seed, "thompson", ident, number])[:15], 16)
            normal_D = np.random.default_rng(key).standard_normal(len(h_D))
            promised.append(float(h_D @ arm.sample(normal_D)))
        return int(np.argmax(promised))

    def _label(self, margin: float) -> Label | None:
        if not np.isfinite(margin) or abs(margin) < self.tie:
            return None
        return "chosen" if margin > 0 else "rejected"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is told of a routed run.

    Attributes:
        shares: arm -> share of the pairs.
        mean_reward: of the feedback, between 0 and 1; None: there was none.
        ties: pairs that got no label.
        accuracy: share of the labels that agree with the known ones; None: none are known.
        regret_T: right labels of the best single arm minus those of the router, after each pair.
    """

    shares: Mapping[int, float]
    mean_reward: float | None
    ties: int
    accuracy: float | None = None
    regret_T: Sequence[float] = field(default_factory=tuple)


def figures(
    routed: Sequence[Routed], right_TK: NDArray[np.bool_] | None = None, arms: int | None = None
) -> Figures:
    """Arm shares and mean reward; with known labels also accuracy and regret.

    Args:
        routed: the pairs, in order.
        right_TK: whether each arm's label of each pair is the known one.
        arms: how many there are.
    """
    counts = Counter(r.arm for r in routed)
    count = arms or (max(counts, default=-1) + 1)
    rewards = [r.reward for r in routed if r.reward is not None]
    told = Figures(
        shares={k: counts[k] / max(1, len(routed)) for k in range(count)},
        mean_reward=float(np.mean(rewards)) if rewards else None,
        ties=sum(r.label is None for r in routed),
    )
    if right_TK is None or not len(routed):
        return told
    mine_T = np.array([right_TK[t, r.arm] and r.label is not None for t, r in enumerate(routed)])
    best = int(np.argmax(right_TK.sum(0)))
    regret_T = np.cumsum(right_TK[:, best].astype(float) - mine_T)
    return replace(told, accuracy=float(mine_T.mean()), regret_T=regret_T.tolist())
