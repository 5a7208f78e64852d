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
from gristmill.pipeline.records.schema import canonical_json, digest
from gristmill.pipeline.records.store import Entry, Step, Store, table
from gristmill.synthesis.curation.labelling import LABELS, Known, Target
from gristmill.synthesis.curation.linear_reward import Floats, Sides
from gristmill.synthesis.curation.pairs import turned
from gristmill.synthesis.curation.pool import Pool
from gristmill.synthesis.curation.reward_models import RewardModels, Scorer
from gristmill.synthesis.curation.votes import Label
from gristmill.synthesis.routing.encoder import Training, fit
from gristmill.synthesis.routing.router import Routed, Router, figures


@dataclass(frozen=True, kw_only=True)
class RoutedRewards:
    """Labels by reward models, of which a router asks one a pair.

    Attributes:
        names: of the reward models.
        fingerprints: all that their rewards depend on, in the same order.
        scorers: the reward models, in the same order.
        pool: the pairs.
        sides: features of the chosen and of the rejected sides.
        features: all that `sides` depends on.
        models: the curation's own reward models, for feedback.
        training: of the encoder.
        router: the online part.
    """

    names: tuple[str, ...]
    fingerprints: tuple[str, ...]
    scorers: tuple[Scorer, ...]
    pool: Pool
    sides: Sides
    features: str
    models: RewardModels
    training: Training = field(default_factory=Training)
    router: Router = field(default_factory=Router)

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise ValueError(
                f"a router chooses among reward models and {len(self.names)} is given: give at "
                "least two."
            )

    def label(self, targets: Sequence[Target], known: Known, store: Store) -> Entry:
        """Labels of all targets, as the table `labelling.LABELS`."""
        ids = [t.pair.id for t in targets]
        step = Step(
            name="routed_labels",
            version=1,
            settings={"training": settings_of(self.training), "router": settings_of(self.router)},
            inputs={
                "arms": digest([self.names, self.fingerprints]),
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
            return {"arms": shares, "mean_reward": told.mean_reward, "ties": told.ties}

        return store.run(step, [table("labels", routed)], note=note)

    def route(self, ids: Sequence[str], known: Known) -> dict[str, Routed]:
        """The arm, its margin and its label of each pair."""
        gold = self.pool.labelled(known.gold)
        right_NK = np.stack([s(gold) > 0 for s in self.scorers], axis=1)
        encoder = fit(*self.sides(gold), right_NK, self.training)
        pairs = self.pool.records(ids)  # in the order of the pool, which is that of ids
        pairs = pairs[np.argsort(np.argsort(ids)).tolist()]
        frames = {t: pairs[t] for t in range(len(ids))}

        def margins(arm: int, places: Sequence[int]) -> Floats:
            return self.scorers[arm](pl.concat([frames[t] for t in places]))

        def feedback(decided: Mapping[int, Label]) -> Mapping[int, float]:
            assert known.model is not None, "asked for with a model alone"
            places = sorted(decided)
            labels = {ids[t]: decided[t] for t in places}
            labelled = turned(pl.concat([frames[t] for t in places]), labels)
            margin_T = self.models.margins(known.model, labelled)
            loss_T = np.logaddexp(0.0, -np.nan_to_num(margin_T))
            return {t: -float(loss) for t, loss in zip(places, loss_T, strict=True)}

        return self.router.run(
            ids,
            encoder.encode(*self.sides(pairs)),
            encoder.arm_KD,
            margins,
            feedback if known.model is not None else None,
        )

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
