"""Pairs whose better side a hidden linear reward decides, with planted wrong labels.

Every text has a random vector, which stands in for a sentence embedding; the prompts of a topic lie
near one another.
"""

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from gristmill.pipeline.records.schema import PAIR, content_id
from gristmill.synthesis.curation.labelling import LABELS
from gristmill.synthesis.curation.linear_reward import LinearReward
from gristmill.synthesis.curation.pairs import shown
from gristmill.synthesis.curation.people import Simulated
from gristmill.synthesis.curation.pool import Pool

WIDTH = 8


def record(prompt, chosen, rejected, row=0):
    def said(role, text):
        return [{"role": role, "content": text, "extra": None}]

    content = {
        "prompt": said("user", prompt),
        "chosen": said("assistant", chosen),
        "rejected": said("assistant", rejected),
    }
    return {
        **dict.fromkeys(PAIR),
        "id": content_id("pair", content),
        "source": "world",
        "row": row,
        **content,
    }


@dataclass
class World:
    """A pool, its truth, and the features of its texts."""

    pairs: pl.DataFrame
    vectors: dict
    truth: dict  # id -> the better side of the record
    given: dict = field(default_factory=dict)

    def embed(self, texts):
        return np.stack([self.vectors[t] for t in texts])

    def sides(self, pairs):
        rows = shown(pairs)
        return self.embed([p.chosen for p in rows]), self.embed([p.rejected for p in rows])

    def models(self, store):
        return LinearReward(store=store, sides=self.sides, name="world")

    def pool(self, store, attributes=None):
        return Pool.of(self.pairs, self.embed, store, attributes)

    def people(self, error=0.0):
        return Simulated(truth=self.truth, error=error)

    def right(self, labels):
        """Share of labels that are true."""
        return float(np.mean([self.truth[i] == label for i, label in labels.items()]))


def world(count, *, flips=0.3, seed=0, topics=6):
    rng = np.random.default_rng(seed)
    w_D = rng.normal(size=WIDTH)
    topic_TD = rng.normal(size=(topics, WIDTH))
    rows, vectors, truth = [], {}, {}
    for n in range(count):
        prompt, texts = f"prompt {n} of seed {seed}", [f"answer {n} {s} {seed}" for s in "ab"]
        near = topic_TD[n % topics] + 0.3 * rng.normal(size=WIDTH)
        vectors[prompt] = near / np.linalg.norm(near)
        for text in texts:
            vectors[text] = rng.normal(size=WIDTH)
        better = (vectors[texts[0]] - vectors[texts[1]]) @ w_D > 0
        flipped = rng.random() < flips
        chosen, rejected = texts if better != flipped else texts[::-1]
        row = record(prompt, chosen, rejected, n)
        rows.append(row)
        truth[row["id"]] = "rejected" if flipped else "chosen"
    return World(pairs=pl.DataFrame(rows, schema=PAIR), vectors=vectors, truth=truth)


@dataclass
class KnowingJudges:
    """Judges who know the truth, and err at a known rate; they note what they were asked."""

    people: Simulated
    asked: list = field(default_factory=list)

    def label(self, targets, known, store):
        from gristmill.pipeline.records.schema import digest
        from gristmill.pipeline.records.store import Step

        ids = [t.pair.id for t in targets]
        self.asked += ids
        rows = [{**dict.fromkeys(LABELS), "id": i, "label": self.people.label(i)} for i in ids]
        step = Step(name="knowing", version=1, inputs={"rows": digest(rows)})
        return store.put(step, pl.DataFrame(rows, schema=LABELS))
