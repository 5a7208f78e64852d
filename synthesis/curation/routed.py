"""Reward models as judges: for each pair one of several labels it, the one that is trusted there.

The router learns from the gold pairs where each reward model is right, and goes on with feedback
(`synthesis/routing/`). Departures from arXiv:2510.02850: features of a side are those of the run's
sentence embedder, and the feedback of a labelled pair is minus the Bradley-Terry loss of the
curation's own reward model, where the paper has the DPO loss of the policy that it trains.
"""

# T = pairs, K = arms

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.records.schema import canonical_json, digest, uniform
from gristmill.pipeline.records.store import Entry, Step, Store, table
from gristmill.synthesis.curation.labelling import LABELS, Known, Target
from gristmill.synthesis.curation.linear_reward import Floats, Sides
from gristmill.synthesis.curation.pairs import turned
from gristmill.synthesis.curation.pool import Pool
from gristmill.synthesis.curation.reward_models import RewardModels, Scorer
from gristmill.synthesis.curation.votes import Label
from gristmill.synthesis.routing.encoder import Encoder, Training, fit
from gristmill.synthesis.routing.router import Margins, Routed, Router, figures

FEWEST = 10  # gold pairs on either side of the split that the router's own figures are taken on


@dataclass(frozen=True, kw_only=True)
class RoutedRewards:
    """Labels by reward models, of which a router asks one a pair.

    Attributes:
        fingerprints: all that the rewards of each model depend on.
        scorers: the reward models, in the same order.
        pool: the pairs.
        sides: features of the chosen and of the rejected sides.
        features: all that `sides` depends on.
        models: the curation's own reward models, for feedback.
        training: of the encoder.
        router: the online part.
    """

    fingerprints: tuple[str, ...]
    scorers: tuple[Scorer, ...]
    pool: Pool
    sides: Sides
    features: str
    models: RewardModels
    training: Training = field(default_factory=Training)
    router: Router = field(default_factory=Router)
    _asked: dict[str, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.scorers) < 2:
            raise ValueError(
                f"a router chooses among reward models and {len(self.scorers)} is given: give at "
                "least two."
            )

    @property
    def names(self) -> list[str]:
        """Of the reward models, by their places in the role: where they lie decides nothing."""
        return [f"reward-{n}" for n in range(len(self.scorers))]

    def label(self, targets: Sequence[Target], known: Known, store: Store) -> Entry:
        """Labels of all targets, as the table `labelling.LABELS`."""
        ids = [t.pair.id for t in targets]
        step = Step(
            name="routed_labels",
            version=2,
            settings={"training": settings_of(self.training), "router": settings_of(self.router)},
            inputs={
                "arms": digest(list(self.fingerprints)),
                "features": self.features,
                "model": known.model or "",
                "gold": digest(dict(known.gold)),
                "targets": digest(ids),
            },
        )

        def routed() -> pl.DataFrame:
            found = self.route(ids, known)
            return pl.DataFrame([self._row(i, r) for i, r in found.items()], schema=LABELS)

        def note(work: Path) -> Mapping[str, Any]:
            votes = [_read(v) for v in pl.read_parquet(work / "labels.parquet")["votes"]]
            told = figures([self._routed(v) for v in votes], arms=len(self.names))
            shares = {self.names[k]: share for k, share in told.shares.items()}
            facts = {"arms": shares, "mean_reward": told.mean_reward, "ties": told.ties}
            return {**facts, "held_out_gold": self._held_out(known)}

        return store.run(step, [table("labels", routed)], note=note)

    def route(self, ids: Sequence[str], known: Known) -> dict[str, Routed]:
        """The arm, its margin and its label of each pair."""
        gold = self.pool.labelled(known.gold)
        encoder = fit(*self.sides(gold), self._margins(gold) > 0, self.training)
        pairs = self.pool.records(ids)  # in the order of the pool, which is that of ids
        pairs = pairs[np.argsort(np.argsort(ids)).tolist()]

        def margins(arm: int, places: Sequence[int]) -> Floats:
            return self.scorers[arm](pairs[list(places)])

        return self._run(pairs, encoder, margins, known.model)

    def _run(
        self, pairs: pl.DataFrame, encoder: Encoder, margins: Margins, model: str | None
    ) -> dict[str, Routed]:
        ids: list[str] = pairs["id"].to_list()

        def feedback(decided: Mapping[int, Label]) -> Mapping[int, float]:
            assert model is not None, "asked for with a model alone"
            places = sorted(decided)
            labels = {ids[t]: decided[t] for t in places}
            margin_T = self.models.margins(model, turned(pairs[places], labels))
            loss_T = np.logaddexp(0.0, -np.nan_to_num(margin_T))
            return {t: -float(loss) for t, loss in zip(places, loss_T, strict=True)}

        return self.router.run(
            ids,
            encoder.encode(*self.sides(pairs)),
            encoder.arm_KD,
            margins,
            feedback if model is not None else None,
        )

    def _margins(self, pairs: pl.DataFrame) -> Floats:
        """What every reward model says of the pairs, N x K; asked once for each set of pairs."""
        key = digest(pairs["id"].to_list())
        if key not in self._asked:
            self._asked.clear()
            self._asked[key] = np.stack([s(pairs) for s in self.scorers], axis=1)
        return self._asked[key]

    def _held_out(self, known: Known) -> Mapping[str, Any] | None:
        """How the router fares on one half of the gold pairs when it learnt from the other."""
        gold = self.pool.labelled(known.gold)
        margin_NK = self._margins(gold)
        seed = self.router.seed
        learnt_N = np.array([uniform(seed, "router half", i) < 0.5 for i in gold["id"]])
        held = gold.filter(~learnt_N)
        if held.height < FEWEST or learnt_N.sum() < FEWEST:
            return None
        encoder = fit(*self.sides(gold.filter(learnt_N)), margin_NK[learnt_N] > 0, self.training)
        margin_TK = margin_NK[~learnt_N]
        found = self._run(held, encoder, lambda k, at: margin_TK[list(at), k], known.model)
        told = figures(list(found.values()), margin_TK > 0)
        return {
            "pairs": held.height,
            "accuracy": told.accuracy,
            "best_single": float((margin_TK > 0).mean(0).max()),
            "regret": told.regret_T[-1],
        }

    def _row(self, ident: str, one: Routed) -> dict[str, Any]:
        vote = {
            "judge": self.names[one.arm],
            "margin": one.margin if np.isfinite(one.margin) else None,
            "verdict": one.label,
            "reward": one.reward,
        }
        reason = None if one.label is not None else "rewards_tie"
        return {"id": ident, "label": one.label, "reason": reason, "votes": canonical_json([vote])}

    def _routed(self, vote: Mapping[str, Any]) -> Routed:
        margin = vote["margin"]
        return Routed(
            arm=self.names.index(vote["judge"]),
            margin=float("nan") if margin is None else margin,
            label=vote["verdict"],
            reward=vote["reward"],
        )


def _read(votes: str) -> Mapping[str, Any]:
    (vote,) = json.loads(votes)
    found: Mapping[str, Any] = vote
    return found
