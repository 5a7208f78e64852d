"""DSIR: the printed buckets, the log ratio by hand, what is counted once."""

import hashlib
import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from ingested import dataset

from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.numerics.ranks import auc
from gristmill.pipeline.score.score import ScoreRun, ready, score
from gristmill.selectors.data_space import _ngrams
from gristmill.selectors.data_space._ngrams import Buckets, buckets_of, ngrams
from gristmill.selectors.data_space.dsir import Dsir

SUMS = "add the two numbers and divide by three : the sum is"
CHAT = "the harbour at dawn was quiet , and nobody spoke"


def rows(text, n, start=0):
    words = text.split()
    return [
        {"text": " ".join(words[k % 5 :] + words[: k % 7]) + f" {k}"}
        for k in range(start, start + n)
    ]


def run(store, folder, scorer, pool, target, name="pool", **how):
    return ScoreRun(
        scorer=scorer,
        dataset=dataset(store, folder, name, pool, **how),
        reference=dataset(store, folder, "target", target),
        context=RunContext(models=Models(store=store, roles={})),
    )


def test_buckets_are_the_printed_ones_and_are_remembered_within_bounds(monkeypatch):
    words, found = ngrams("Alice went to the store", 2, 10_000)
    assert (words, len(found)) == (5, 9)
    assert buckets_of(10_000)["alice"] == found[0] == 6720
    assert buckets_of(10_000)["alice went"] == found[5] == 114
    assert ngrams("Don't!", 1, 7)[0] == 4, "runs of punctuation are words"
    monkeypatch.setattr(_ngrams, "KNOWN", 3)
    few = Buckets(97)
    asked = [few[w] for w in "abcdabcd"]
    assert asked[:4] == asked[4:]
    assert len(few) <= 3


# Made with the package data-selection 1.0.3 on nltk 3.10.4: HashedNgramDSIR of these pool and target
# rows with ngrams=n, num_buckets=buckets, min_example_length=8 (tokenizer "wordpunct");
# fit_importance_estimator(num_tokens_to_fit="all"); compute_importance_weights(); the log weights and
# lengths that it saved. Before 3.10 nltk matched words by `re`, which tears them at combining marks
# and counts a fraction or a superscript to a word: rows four and five then differ, and through the
# pool's counts all others by a little.
POOL = (
    "Add the two numbers, then divide by three: the sum is 12.",
    "The harbour at dawn was quiet; nobody spoke.",
    "Don't divide by zero -- it isn't defined!!",
    "caf\u00e9 na\u00efve \u2014 1\u00bd miles, km\u00b2",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902 \u092f\u094b\u0917",
    "the the the the the the",
)
TARGET = ("Divide the sum by three and add 12.", "What is the sum of the two numbers?")
PACKAGE = {
    (2, 10_000): (
        *(-150.033251455, -233.390728592, -320.380746482),
        *(-234.566272718, -68.786213549, -76.602601213),
    ),
    (3, 97): (
        *(-224.544728047, -181.545874046, -333.464385022),
        *(-252.384862509, -56.854377716, -79.005556736),
    ),
}
LENGTHS = (15, 10, 13, 9, 3, 6)


@pytest.mark.parametrize(("n", "buckets"), PACKAGE)
def test_scores_and_lengths_are_those_of_the_authors_package(store, tmp_path, n, buckets):
    pool, target = ([{"text": t} for t in texts] for texts in (POOL, TARGET))
    scorer = Dsir(n=n, buckets=buckets)
    asked = run(store, tmp_path, scorer, pool, target)
    table = score(asked).frame().join(asked.dataset.frame(["id", "text"]), on="id")
    found = {t: (s, w) for t, s, w in table.select("text", "score", "score_words").iter_rows()}
    assert [found[t][0] for t in POOL] == pytest.approx(PACKAGE[n, buckets], abs=1e-6)
    assert [found[t][1] for t in POOL] == list(LENGTHS)
    long = run(store, tmp_path, Dsir(n=n, buckets=buckets, least_words=8), pool, target)
    short = score(long).frame().filter(pl.col("score").is_null())
    assert sorted(short["score_words"]) == [3, 6], "least_words is the package's filter"


def by_hand(scorer, pool, target):
    """The paper's weight of each row, from dictionaries."""

    def grams(text):
        words = text.lower().split()
        return [
            int(hashlib.sha256(" ".join(words[i : i + k]).encode()).hexdigest(), 16)
            % scorer.buckets
            for k in range(1, scorer.n + 1)
            for i in range(len(words) - k + 1)
        ]

    counts = [Counter(g for t in {r["text"] for r in s} for g in grams(t)) for s in (pool, target)]
    total = [sum(c.values()) for c in counts]

    def ratio(g):
        p, q = (c[g] / n + 1e-8 for c, n in zip(counts, total, strict=True))
        return math.log(q) - math.log(p)

    return {r["text"]: sum(map(ratio, grams(r["text"]))) for r in pool}


@pytest.mark.parametrize("settings", [{}, {"n": 3, "buckets": 97}])
def test_scores_are_those_by_hand_and_find_the_target(store, tmp_path, settings):
    pool = [*rows(SUMS, 20), *rows(CHAT, 60), *rows(CHAT, 3)]
    target = rows(SUMS, 10, start=100)
    asked = run(store, tmp_path, Dsir(**settings), pool, target, shard_rows=30)
    table = score(asked).frame()
    text = dict(asked.dataset.frame(["id", "text"]).iter_rows())
    hand = by_hand(asked.scorer, pool, target)
    found = {text[i]: s for i, s in table.select("id", "score").iter_rows()}
    assert found == pytest.approx(hand, rel=1e-9)
    sums = np.array([t in {r["text"] for r in pool[:20]} for t in found])
    value = np.array(list(found.values()))
    assert auc(value[sums], value[~sums]) == 1
    if settings:
        return
    mean = score(run(store, tmp_path, Dsir(per_ngram=True), pool, target, shard_rows=30)).frame()
    grams = 2 * table["score_words"] - 1
    assert mean["score"].to_list() == pytest.approx((table["score"] / grams).to_list())
    counted = [s for s in store.computed() if s["step"] == "ngram-counts"]
    ready(run(store, tmp_path, Dsir(), [*pool, *rows(CHAT, 6, 90)], target, shard_rows=30))
    later = [s for s in store.computed() if s["step"] == "ngram-counts"]
    assert len(later) == len(counted) + 1, "the shard that grew"


def test_each_task_has_the_score_of_a_target_set_of_its_own(store, tmp_path):
    pool = [*rows(SUMS, 6), *rows(CHAT, 6)]
    sums, chat = rows(SUMS, 4, start=100), rows(CHAT, 8, start=100)
    both = [*({**r, "task": "sums"} for r in sums), *({**r, "task": "chat"} for r in chat)]
    asked = run(store, tmp_path, Dsir(by_task=True), pool, both)
    entry = score(asked)
    whole = entry.frame()
    for task, own in (("sums", sums), ("chat", chat)):
        alone = score(run(store, tmp_path, Dsir(), pool, own)).frame()
        assert whole[f"score_target_{task}"].to_list() == pytest.approx(alone["score"].to_list())
    together = score(run(store, tmp_path, Dsir(), pool, both)).frame()
    assert whole["score"].to_list() == together["score"].to_list()
    sizes = {t: sum(len(ngrams(r["text"], 2, 9)[1]) for r in s) for t, s in
             (("chat", chat), ("sums", sums))}  # fmt: skip
    told = f"chat {sizes['chat']:,}, sums {sizes['sums']:,}."
    assert entry.note["prepared"][0].endswith(told)


def test_rows_without_words_have_a_reason(store, tmp_path):
    pool = [{"text": "one two three"}, {"text": "one"}, {"text": "\u2028 _ "}]
    scorer = Dsir(least_words=2)
    table = score(run(store, tmp_path, scorer, pool, pool[:1])).frame().sort("row")
    assert table["reason"].to_list() == [None, "too_few_words", "too_few_words"]
    assert table["score_words"].to_list() == [3, 1, 1]
    with pytest.raises(ValueError, match="n and buckets are at least 1; found 0 and 10000"):
        Dsir(n=0)
    with pytest.raises(ValueError, match="dsir needs a reference"):
        score(
            ScoreRun(
                scorer=Dsir(),
                dataset=dataset(store, tmp_path, "p", pool),
                context=RunContext(models=Models(store=store, roles={})),
            )
        )
