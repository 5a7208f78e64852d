"""Toxicity: insults, slurs and threats, found by a small linear model that ships with the code.

The model is a logistic regression on hashed character 3- to 5-grams (32,768 weights of one byte,
`toxicity.json`). `benchmarks/toxicity.py` trains it on the 821 English social-media comments of
surge-ai/toxicity (MIT) and on clean instruction data, and prints what it finds in cross-validation:
at the default threshold 39 % of the toxic comments and 1 % of the clean ones, and 0 to 0.3 % of the
rows of instruction sets it never saw. It knows English, sees words and not intentions, and misses
polite malice: it thins out the worst, it certifies nothing. Where safety matters, have a judge
look.
"""

# L = bytes of a run, W = character n-grams, N = passages

import base64
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gristmill.pipeline.clean.text import distinct, slices, spaced, window_hashes
from gristmill.pipeline.records.text import Part, texts

BITS = 15
SIZES = (3, 4, 5)  # of character n-grams, in bytes
PASSAGE = 40  # words; a long text is as toxic as its worst passage
_RUN = 100_000  # bytes; three hashes a byte should fit the cache
MODEL = Path(__file__).with_name("toxicity.json")


@dataclass(frozen=True, kw_only=True)
class Toxicity:
    """Drops records with a toxic passage: `toxicity`.

    Attributes:
        part: what is looked at.
        threshold: least probability of the worst passage.
    """

    part: Part = "all"
    threshold: float = 0.9

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        score = pl.Series(toxicity(texts(records, self.part)), dtype=pl.Float64)
        return pl.select(pl.when(score >= self.threshold).then(pl.lit("toxicity"))).to_series()


def toxicity(text: pl.Series) -> NDArray[np.float64]:
    """Probability that the worst passage of each text is toxic; 0 for a text without words."""
    weight, bias = _model()
    worst = np.zeros(len(text))
    for run in slices(text, _RUN):
        passages = [passages_of(t) for t in spaced(text[run])]
        flat = [p for parts in passages for p in parts]
        owner = np.repeat(np.arange(run.start, run.stop), [len(parts) for parts in passages])
        bucket_P, passage_P = features(flat)
        count_N = np.bincount(passage_P, minlength=len(flat))
        sum_N = np.bincount(passage_P, weights=weight[bucket_P], minlength=len(flat))
        logit_N = sum_N / np.sqrt(np.maximum(1, count_N)) + bias
        np.maximum.at(worst, owner, 1 / (1 + np.exp(-logit_N)))
    return worst


def passages_of(words: str) -> list[str]:
    """A text of spaced words, cut into passages."""
    found = words.split()
    return [" ".join(found[i : i + PASSAGE]) for i in range(0, len(found), PASSAGE)]


def features(passages: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The buckets of the n-grams that occur in each passage, once each: bucket, passage."""
    raw = [f" {p} ".encode() for p in passages]
    size_N = np.array([len(r) for r in raw], np.int64)
    begin_N = np.cumsum(size_N) - size_N
    byte_L = np.frombuffer(b"".join(raw), np.uint8).astype(np.uint64) + np.uint64(1)
    met = []
    for n in SIZES:
        count_N = np.maximum(size_N - n + 1, 0)
        passage_W = np.repeat(np.arange(len(raw)), count_N)
        within_W = np.arange(len(passage_W)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
        first_W = within_W + begin_N[passage_W]
        bucket_W = window_hashes(byte_L, first_W, first_W + n) >> np.uint64(64 - BITS)
        met.append((passage_W << BITS) + bucket_W.astype(np.int64))
    pair_P = distinct(np.concatenate(met))
    return pair_P & ((1 << BITS) - 1), pair_P >> BITS


@functools.cache
def _model() -> tuple[NDArray[np.float64], float]:
    held = json.loads(MODEL.read_text("utf-8"))
    weight = np.frombuffer(base64.b64decode(held["weights"]), np.int8)
    return weight.astype(np.float64) * float(held["scale"]), float(held["bias"])
