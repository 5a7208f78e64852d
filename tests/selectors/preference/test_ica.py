"""In-context gains: by hand, of an exchangeable model, and behind real examples"""

import itertools
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from ingested import dataset
from preference_toy import frame, toy, values
from rows import chat_rows, pair_rows
from toy_training import (
    one_thread,  # noqa: F401  (a fixture)
)

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.numerics.ranks import auc
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.dataset import unique_ids
from gristmill.pipeline.selection.rules.weighted import Weighted
from gristmill.pipeline.signals.pair_signals import (
    CHOSEN,
    REJECTED,
    VIEWS,
    log_probs,
)
from gristmill.selectors.preference._in_context_examples import BehindExamples, Neighbours
from gristmill.selectors.preference.ica import Ica


def test_in_context_gains():
    plain, behind = log_probs(), Ica(given=toy("neighbours")).in_context
    columns = {
        plain[0].column: [-10.0, -5.0, -3.0],
        plain[1].column: [-12.0, -6.0, None],
        behind[0].column: [-8.0, -5.5, -2.5],
        behind[1].column: [-13.0, -5.0, None],
    }
    scores = Ica(given=toy("neighbours")).score(frame("abc", columns))["score"].to_list()
    assert scores == pytest.approx([5.0 - 2.0, -0.5 - 1.0, 0.5])
    for given, expected in (([0.3, -0.1, 0.5], [1, 0.66666667]), ([0.0] * 4, [1.0] * 4)):
        scores = pl.DataFrame({"id": list("abcd")[: len(given)], "score": given})
        weight = Weighted(stretch=True).order(scores, np.inf)["weight"]
        assert weight.to_list() == pytest.approx(expected)  # the lowest one falls out
    with pytest.raises(ValueError, match="let `score` run its recipes"):
        Ica().score(frame("abc", columns))


def test_the_in_context_gain_is_the_holdout_gain_of_an_exchangeable_model():
    def log_evidence(ones, zeros, a=2, b=3):  # Beta-Bernoulli
        gamma = math.lgamma
        top = gamma(a + ones) + gamma(b + zeros) - gamma(a + b + ones + zeros)
        return top - (gamma(a) + gamma(b) - gamma(a + b))

    holdout = [1, 1, 0, 1]
    ones, zeros = sum(holdout), len(holdout) - sum(holdout)
    behind = log_evidence(ones + 1, zeros) - log_evidence(ones, zeros)
    alone = log_evidence(1, 0)
    plain, shown = log_probs()[0], Ica(given=toy("neighbours")).in_context[0]
    others = {
        s.column: [None] for s in (log_probs()[1], Ica(given=toy("neighbours")).in_context[1])
    }
    numbers = {plain.column: [alone], shown.column: [behind]}
    types = dict.fromkeys((*numbers, *others), pl.Float64)
    block = pl.DataFrame({"id": ["x"]} | numbers | others, schema_overrides=types)
    score = Ica(given=toy("neighbours")).score(Frames(parts=(block,)))["score"][0]
    trained = log_evidence(ones + 1, zeros) - log_evidence(1, 0)
    assert score == pytest.approx(0.328504, abs=5e-7)
    assert score == pytest.approx(trained - log_evidence(ones, zeros))


SUMS = 1e-4  # of float32 log-probabilities, in other batches or with padding on the other side


def test_without_demonstrations_nothing_is_gained(store, tiny, tmp_path):
    models = Models(store=store, roles={"target": (str(tiny),)})
    scorer = Ica(k=0)
    for name, rows in (("pairs", pair_rows(9)), ("chats", chat_rows(9))):
        pool = dataset(store, tmp_path, name, rows)
        seen = observe(RunContext(models=models, passes=Passes(device="cpu")), pool, scorer.signals)
        np.testing.assert_allclose(values(scorer.score(seen)), np.zeros(9), atol=SUMS)


def learnt(chain, history, tokens=8):
    """Log-probability of a chain after others by an exchangeable learner of bigrams (Dirichlet)."""
    count_VV = np.full((tokens, tokens), 0.5)
    for before in history:
        np.add.at(count_VV, (before[:-1], before[1:]), 1.0)
    total = 0.0
    for here, after in itertools.pairwise(chain):
        total += np.log(count_VV[here, after] / count_VV[here].sum())
        count_VV[here, after] += 1.0
    return total


def test_shuffled_reasoning_gains_less_than_clean_reasoning():
    draw = np.random.default_rng(5)

    def reasoning(steps=12):  # each step follows from the one before, most of the time
        chain = [draw.integers(8)]
        for _ in range(steps):
            chain.append((chain[-1] + 1) % 8 if draw.random() < 0.8 else draw.integers(8))
        return np.array(chain)

    holdout = [reasoning() for _ in range(3)]
    clean = [reasoning() for _ in range(60)]
    corrupted = [draw.permutation(chain) for chain in clean]
    ids = [f"{kind}{i}" for kind in "ab" for i in range(60)]
    plain, behind = log_probs(), Ica(given=toy("neighbours")).in_context
    told = {
        s.column: [learnt(chain, history) for chain in (*clean, *corrupted)]
        for s, history in ((plain[0], ()), (behind[0], holdout))
    }
    nobody = {s.column: pl.Series([None] * 120, dtype=pl.Float64) for s in (plain[1], behind[1])}
    examples = pl.DataFrame({"id": ids} | told | nobody)
    score = values(Ica(given=toy("neighbours")).score(Frames(parts=(examples,))))
    assert auc(score[:60], score[60:]) > 0.9  # above 0.5 is asked for
    # as pairs: the clean chain chosen, and the label turned round
    turned = {
        after.column: [*told[before.column][60:], *told[before.column][:60]]
        for before, after in zip((plain[0], behind[0]), (plain[1], behind[1]), strict=True)
    }
    pairs = pl.DataFrame({"id": ids} | told | turned)
    score = values(Ica(given=toy("neighbours")).score(Frames(parts=(pairs,))))
    assert auc(score[:60], score[60:]) > 0.9
    np.testing.assert_allclose(score[:60], -score[60:], atol=1e-9)


def test_a_record_behind_its_demonstrations(store, tiny, tuned, pair_chat):
    models = tuned.models.bind("embedder", (str(tiny),))
    made = Neighbours(k=2).make(replace(tuned, models=models))
    found = made.artifact
    near = dict(pl.read_parquet(found.path / "neighbours.parquet").iter_rows())
    assert set(near) == set(unique_ids(tuned.pool))
    targets = {r["id"]: r for r in tuned.reference.frame(["id", "chosen"]).to_dicts()}
    assert all(len(n) == 2 and set(n) <= set(targets) for n in near.values())
    roomy = replace(pair_chat, limit=512)
    for row in tuned.pool.frame(["id", "prompt", "chosen", "rejected"]).to_dicts()[:3]:
        shown = BehindExamples(side="rejected", found=found, shots=2).encode(row, roomy)
        plain = REJECTED.encode(row, roomy)
        own = [i for i, t in zip(shown.ids, shown.turn, strict=True) if t]
        assert own == [i for i, t in zip(plain.ids, plain.turn, strict=True) if t]
        told = [targets[i]["chosen"][0]["content"] for i in near[row["id"]]]
        at = [shown.text.index(f"assistant\n{t}<") for t in told]
        assert at[0] > at[1]  # the nearest stands last
        without = BehindExamples(side="rejected").encode(row, roomy)
        assert (without.ids, without.turn) == (plain.ids, plain.turn)
        tight = replace(pair_chat, limit=max(len(v.encode(row, roomy).ids) for v in VIEWS))
        assert BehindExamples(side="rejected", found=found).encode(row, tight).ids == plain.ids
    example = {"id": "x", "messages": [*row["prompt"], *row["chosen"]]}
    assert BehindExamples(side="rejected").encode(example, pair_chat).reason == "one_side_only"
    assert REJECTED.encode(example, pair_chat).reason == "one_side_only"
    assert BehindExamples().encode(example, pair_chat).ids == CHOSEN.encode(example, pair_chat).ids
    lost = BehindExamples(found=found).encode(example, pair_chat)
    assert lost.reason == "prompt_cannot_be_embedded"
