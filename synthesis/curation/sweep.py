"""Stage 2: every pair that stage 1 left unverified keeps its label, is dropped, or is flipped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from gristmill.pipeline.records.schema import digest, uniform
from gristmill.pipeline.records.store import Entry, Step, Store, table
from gristmill.synthesis.curation.consistency import FLIPS, FlipTest, judged_again, kept
from gristmill.synthesis.curation.labelling import Known
from gristmill.synthesis.curation.people import People, verdicts
from gristmill.synthesis.curation.pool import Pool
from gristmill.synthesis.curation.reward_models import RewardModels, best, probabilities
from gristmill.synthesis.curation.rounds import Labeller, Standing
from gristmill.synthesis.curation.votes import Label, Verdict

OUTCOME: dict[str, Any] = {
    "id": pl.String,
    "label": pl.String,  # the better side of the record; null: dropped
    "origin": pl.String,  # people, judges, consistent (2B) or flipped (2C)
    "reason": pl.String,  # why it is dropped
    "round": pl.Int64,  # of stage 1; null: stage 2
    "p_best": pl.Float64,  # that the best reward model gives to the label as given
    "p_gold": pl.Float64,  # that the gold reward model gives to it
    "votes": pl.String,  # of the judges, JSON
    "comment": pl.String,  # of people
}
GOLD_DISAGREES = "gold_model_disagrees"
NOBODY_AGREES = "neither_judges_nor_best_model_agree"
NOT_SCORED = "not_scored_by_the_gold_model"


@dataclass(frozen=True, kw_only=True)
class Stage2:
    """The sweep over the unverified pairs.

    Attributes:
        pool: the pairs.
        models: trains and asks reward models.
        labeller: judges the pairs of which the best model doubts the label; None: nobody does.
        people: look at a sample of what is discarded, if it may be flipped.
        store: keeps the result.
        flip: flip what is discarded, if the sample allows it.
        flip_sample: discarded pairs that people look at.
        seed: of that sample.
    """

    pool: Pool
    models: RewardModels
    labeller: Labeller | None
    people: People
    store: Store
    flip: bool = False
    flip_sample: int = 240
    seed: int = 0

    def __post_init__(self) -> None:
        if self.flip_sample < FLIPS:
            raise ValueError(f"flip_sample is {self.flip_sample}; give at least {FLIPS}.")

    def run(self, standing: Standing) -> Entry:
        """What becomes of every pair of the pool, as the table `OUTCOME`."""
        gold, frame = standing.gold, self.pool.labelled(standing.gold)
        chosen = best(self.models, list(reversed(standing.references)), frame)
        gold_model = self.models.fit_alone(frame)
        settled = standing.labels.filter(_settled())
        rest = self.pool.pairs.filter(~pl.col("id").is_in(settled["id"].to_list()))
        ids: list[str] = rest["id"].to_list()
        p_best = probabilities(self.models.margins(chosen.reference, rest))
        p_gold = probabilities(self.models.margins(gold_model, rest))
        doubted = [i for i, p in zip(ids, p_best, strict=True) if judged_again(float(p))]
        found: dict[str, dict[str, Any]] = {}
        told: dict[str, Any] = {}
        if self.labeller is not None and doubted:
            targets = self.pool.targets(doubted, gold, standing.comments)
            known = Known(gold=gold, model=chosen.reference)
            entry = self.labeller.label(targets, known, self.store)
            found = {r["id"]: r for r in entry.frame().iter_rows(named=True)}
            told = {"judges": dict(entry.note)} if entry.note else {}
        rows = [
            self._row(ident, float(best_p), float(gold_p), found.get(ident))
            for ident, best_p, gold_p in zip(ids, p_best, p_gold, strict=True)
        ]
        test = self._flipped(rows)
        every = [*map(_of_stage1, settled.iter_rows(named=True)), *rows]
        outcome = pl.DataFrame(every, schema=OUTCOME).sort("id")
        note = {
            "best_model": chosen.reference,
            "best_accuracy": chosen.accuracy,
            "gold_model": gold_model,
            "judged_again": len(doubted),
            "flip": None if test is None else {"sentence": test.sentence, "low": test.low},
            **told,
        }
        step = Step(
            name="curation_outcome",
            version=1,
            inputs={
                "pool": self.pool.content,
                "before": standing.entries[-1].key,
                "outcome": digest(outcome.rows()),
            },
        )
        return self.store.run(step, [table("outcome", lambda: outcome)], note=lambda _: note)

    def _row(
        self, ident: str, p_best: float, p_gold: float, found: dict[str, Any] | None
    ) -> dict[str, Any]:
        gold = p_gold > 0.5
        judges = found is not None and found["label"] == "chosen"
        stays = kept(gold=gold, judges=judges, best=not judged_again(p_best))
        return {
            **dict.fromkeys(OUTCOME),
            "id": ident,
            "label": "chosen" if stays else None,
            "origin": "consistent" if stays else None,
            "reason": None if stays else _why(gold, p_gold),
            "p_best": p_best if np.isfinite(p_best) else None,
            "p_gold": p_gold if np.isfinite(p_gold) else None,
            "votes": None if found is None else found["votes"],
        }

    def _flipped(self, rows: Sequence[dict[str, Any]]) -> FlipTest | None:
        """2C: turn the discarded rows round in place, if people's sample of them allows it."""
        dropped = [r for r in rows if r["label"] is None and r["p_gold"] is not None]
        if not self.flip:
            return None
        if len(dropped) < FLIPS:
            return FlipTest(right=0, decided=0)
        ranked = sorted(r["id"] for r in dropped)
        ranked.sort(key=lambda i: uniform(self.seed, "flip sample", i))
        sample = sorted(ranked[: self.flip_sample])
        asked = self.people.judgements(self.pool.records(sample), "the flip of what was discarded")
        said = verdicts(asked, sample)
        right = sum(label == "rejected" for label in said.labels.values())
        test = FlipTest(right=right, decided=len(said.labels))
        for row in dropped:
            if row["id"] in said.of:
                verdict, comment = said.of[row["id"]], said.comments.get(row["id"])
                row |= {**_by_people(verdict), "comment": comment}
            elif test.allowed:
                row |= {"label": "rejected", "origin": "flipped", "reason": None}
        return test


def _settled() -> pl.Expr:
    """Pairs that judges or people decided in stage 1, or that people could not decide.

    A pair that only lent a round the label that it came with is as unverified as any other.
    """
    judged = pl.col("label").is_not_null() & (pl.col("origin") != "given")
    return judged | (pl.col("origin") == "people")


def _why(gold: bool, p_gold: float) -> str:
    if not np.isfinite(p_gold):
        return NOT_SCORED
    return NOBODY_AGREES if gold else GOLD_DISAGREES


def _of_stage1(row: dict[str, Any]) -> dict[str, Any]:
    return {**dict.fromkeys(OUTCOME), **{k: v for k, v in row.items() if k in OUTCOME}}


def _by_people(verdict: Verdict) -> dict[str, Any]:
    label: Label | None = verdict.label
    return {"label": label, "origin": "people" if label else None, "reason": verdict.reason}
