"""Stage 1: rounds of retrieve, label, verify and train, each an entry of the store.

A round's key holds the round before it, the labels of the judges and the verdicts of people, so
rounds form a chain: a rerun walks along it, and goes on where it ended.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import settings_of
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import Entry, Step, Store, table
from gristmill.synthesis.curation import retrieval
from gristmill.synthesis.curation.labelling import Known, Target
from gristmill.synthesis.curation.people import People, Verdicts, agreement, to_verify, verdicts
from gristmill.synthesis.curation.pool import Pool
from gristmill.synthesis.curation.retrieval import Arm, Retrieved
from gristmill.synthesis.curation.reward_models import RewardModels, best, probabilities
from gristmill.synthesis.curation.votes import Label

ROUND: dict[str, Any] = {
    "id": pl.String,
    "label": pl.String,  # the better side of the record; null: undecided
    "origin": pl.String,  # who decided, or could not: people, judges, or the label as given
    "reason": pl.String,  # why it is undecided
    "round": pl.Int64,
    "asked_by": pl.String,  # the gold pair that asked for it
    "votes": pl.String,  # of the judges, JSON
    "comment": pl.String,  # of people
}


class Labeller(Protocol):
    """Who labels pairs where people do not: language models that vote, or reward models."""

    def label(self, targets: Sequence[Target], known: Known, store: Store) -> Entry:
        """An entry of the table `labelling.LABELS`; its note says what is to be told of it."""


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """The settings of stage 1.

    Attributes:
        rounds: after the start.
        start_people: pairs that people verify at the start, the easiest first.
        start_labels: pairs that the judges label at the start, at random.
        labels: pairs that the judges label in a round.
        people: of these, pairs that people verify in a round: those first on which judges disagree.
        retrieval: how the pairs of a round are found.
        seed: of all draws.
    """

    rounds: int = 8
    start_people: int = 100
    start_labels: int = 400
    labels: int = 400
    people: int = 50
    retrieval: Arm = "error"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("start_people", "start_labels", "labels"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name} is {vars(self)[name]}; give at least 1.")
        if self.rounds < 0 or not 0 <= self.people <= self.labels:
            raise ValueError(
                f"rounds is at least 0, and people between 0 and labels; found {self.rounds}, "
                f"{self.people} and {self.labels}."
            )


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known after some rounds.

    Attributes:
        entries: of the rounds, the start first.
        labels: their tables as one, `ROUND`.
    """

    entries: tuple[Entry, ...]
    labels: pl.DataFrame

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "Standing":
        frames = [e.frame() for e in entries]
        return cls(entries=tuple(entries), labels=pl.concat([pl.DataFrame(schema=ROUND), *frames]))

    @property
    def gold(self) -> dict[str, Label]:
        """The labels that people gave."""
        return _labels(self.labels.filter(pl.col("origin") == "people"))

    @property
    def silver(self) -> dict[str, Label]:
        """The labels that nobody verified."""
        return _labels(self.labels.filter(pl.col("origin") != "people"))

    @property
    def comments(self) -> dict[str, str]:
        """What people wrote beside their labels."""
        return dict(self.labels.drop_nulls("comment").select("id", "comment").iter_rows())

    @property
    def reference(self) -> str:
        """The reward model of the last round."""
        return str(self.entries[-1].note["model"])

    @property
    def references(self) -> list[str]:
        """The reward model of every round, in order."""
        return [str(e.note["model"]) for e in self.entries]


@dataclass(frozen=True, kw_only=True)
class Stage1:
    """What every round of a curation is given.

    Attributes:
        pool: the pairs.
        models: trains and asks reward models.
        labeller: labels pairs; None: they keep the label that they came with.
        people: verify pairs.
        store: keeps the rounds.
        settings: of the rounds.
    """

    pool: Pool
    models: RewardModels
    labeller: Labeller | None
    people: People
    store: Store
    settings: Rounds

    def start(self) -> Entry:
        """The first verdicts of people, the first labels, the first reward model."""
        asked = self.settings
        ranks = {i: self.pool.rank(i) for i in self.pool.ids}
        first = to_verify(self.pool.ids, ranks, asked.start_people, seed=asked.seed, number=0)
        said = verdicts(self.people.judgements(self.pool.records(first), "the first pairs"), first)
        if not said.labels:
            raise ValueError(
                f"people decided none of the first {len(first)} pairs, and nothing can be measured "
                "without: raise start_people."
            )
        rows = [self._verified(i, 0, said) for i in first]
        left = self._left(set(first), said.labels.keys())
        if not left:
            raise ValueError(
                f"people verify the first {len(first)} of {len(ranks)} pairs, and none is left to "
                "train on: lower start_people, or give more pairs."
            )
        drawn = retrieval.at_random(left, asked.start_labels, seed=asked.seed, number=0)
        known = Known(gold=said.labels)
        labelled, told = self._labelled(drawn, known, said.comments, 0)
        told["labelled"] = len(labelled)
        return self._round(0, None, [*rows, *labelled.values()], told)

    def next(self, standing: Standing) -> Entry | None:
        """The round after these; None: no pair is left that a gold pair asks for."""
        number = len(standing.entries)
        gold = standing.gold
        left = self._left(set(standing.labels["id"]), gold.keys())
        drawn = self.retrieve(standing, left)
        if not drawn.ids:
            return None
        known = Known(gold=gold, model=standing.reference)
        labelled, told = self._labelled(drawn, known, standing.comments, number)
        undecided = {i: 0 if row["label"] is None else 1 for i, row in labelled.items()}
        asked = self.settings
        seen = to_verify(drawn.ids, undecided, asked.people, seed=asked.seed, number=number)
        if seen:
            items = self.pool.records(seen)
            said = verdicts(self.people.judgements(items, f"round {number}"), seen)
            theirs = {i: r["label"] for i, r in labelled.items() if r["label"] is not None}
            told["people_agree"] = list(agreement(said.labels, theirs))
            for ident in seen:
                row = self._verified(ident, number, said)
                labelled[ident] |= {k: v for k, v in row.items() if k not in ("votes", "asked_by")}
        told |= {"counted": drawn.counted, "served": drawn.served, "labelled": len(labelled)}
        return self._round(number, standing, list(labelled.values()), told)

    def retrieve(self, standing: Standing, left: Sequence[str]) -> Retrieved:
        """The pairs that this round labels."""
        asked, number = self.settings, len(standing.entries)
        if asked.retrieval == "random":
            return retrieval.at_random(left, asked.labels, seed=asked.seed, number=number)
        if asked.retrieval == "uncertainty":
            records = self.pool.records(left)
            p_N = probabilities(self.models.margins(standing.reference, records))
            known = dict(zip(records["id"], p_N.tolist(), strict=True))
            scored = {i: p for i, p in known.items() if np.isfinite(p)}
            return retrieval.uncertain(scored, asked.labels)
        gold = standing.gold
        p_G = probabilities(self.models.margins(standing.reference, self.pool.labelled(gold)))
        by_id = zip(sorted(gold), p_G.tolist(), strict=True)  # the order of `labelled`
        p = {i: v for i, v in by_id if np.isfinite(v)}
        return retrieval.error_driven(
            p, self.pool.vectors(list(p)), left, self.pool.vectors(left), asked.labels
        )

    def _left(self, done: set[str], gold: Collection[str]) -> list[str]:
        """Pairs that nobody labelled and that are no near duplicate of a gold pair."""
        gone = done | self.pool.like(gold)
        return [i for i in self.pool.ids if i not in gone]

    def _labelled(
        self,
        drawn: Retrieved,
        known: Known,
        comments: Mapping[str, str],
        number: int,
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """A row of `ROUND` for every drawn pair, and what the labeller tells."""
        empty = {**dict.fromkeys(ROUND), "round": number}
        rows = {i: {**empty, "id": i, "asked_by": drawn.asked_by.get(i)} for i in drawn.ids}
        if self.labeller is None:
            return {i: {**r, "label": "chosen", "origin": "given"} for i, r in rows.items()}, {}
        if not rows:
            return {}, {}
        targets = self.pool.targets(drawn.ids, known.gold, comments)
        entry = self.labeller.label(targets, known, self.store)
        for found in entry.frame().iter_rows(named=True):
            rows[found["id"]] |= {**found, "origin": "judges"}
        return rows, {"judges": dict(entry.note)} if entry.note else {}

    def _verified(self, ident: str, number: int, said: Verdicts) -> dict[str, Any]:
        verdict = said.of[ident]
        return {
            **dict.fromkeys(ROUND),
            "id": ident,
            "label": verdict.label,
            "origin": "people",
            "reason": verdict.reason,
            "round": number,
            "comment": said.comments.get(ident),
        }

    def _round(
        self,
        number: int,
        before: Standing | None,
        rows: Sequence[Mapping[str, Any]],
        told: Mapping[str, Any],
    ) -> Entry:
        frame = pl.DataFrame(rows, schema=ROUND)
        earlier = before.labels if before else pl.DataFrame(schema=ROUND)
        every = Standing(entries=(), labels=pl.concat([earlier, frame]))
        if not every.silver:
            raise ValueError(
                "no pair has a label to train on: the judges decided none of "
                f"{frame.height} pairs; look at their answers."
            )
        step = Step(
            name="curation_round",
            version=1,
            settings={"number": number, **settings_of(self.settings)},
            inputs={
                "pool": self.pool.content,
                "models": self.models.name,
                "before": before.entries[-1].key if before else "",
                "rows": digest(frame.rows()),
            },
        )
        found = self.store.find(step)
        if found is not None:
            return found
        gold = self.pool.labelled(every.gold)
        chosen = best(self.models, self.models.fit(self.pool.labelled(every.silver)), gold)
        note = {
            "model": chosen.reference,
            "accuracy": chosen.accuracy,
            "checkpoints": chosen.checkpoints,
            "gold": len(every.gold),
            "silver": len(every.silver),
            **told,
        }
        return self.store.run(step, [table("labels", lambda: frame)], note=lambda _: note)


def _labels(rows: pl.DataFrame) -> dict[str, Label]:
    """The pairs that have a label."""
    return dict(rows.drop_nulls("label").select("id", "label").iter_rows())
