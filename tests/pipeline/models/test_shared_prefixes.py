"""Stems: sequences that begin alike are read as if each were read by itself, for less."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from rows import write_jsonl
from tolerances import LOG_PROB

from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.chat_tokenizer import Encoded
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.forward import backbone, forward
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.shared_prefixes import computed, last_states, prefix_lengths, worth
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.signals.forward_signals import MeanLoss, SequenceLogProb, TokenLosses
from gristmill.pipeline.signals.next_token import JudgePrompt, NextTokenProbs
from gristmill.pipeline.signals.pair_signals import CHOSEN, REJECTED, log_probs

PASSES = Passes(device="cpu", max_length=128)
LONG = "Tell me, in as few words as you can and without any preamble, about item number"


@pytest.fixture
def models(store, tiny):
    return Models(store=store, roles=dict.fromkeys(("target", "judge"), (str(tiny),)))


@pytest.fixture
def model(models):
    return load(models.files("target")[0], device="cpu", dtype="float32")


def pair(i, **sides):
    turn = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
    return {"prompt": [{"role": "user", "content": f"{LONG} {i}."}], **turn}


@pytest.fixture
def pairs(store, tmp_path):
    rows = [pair(i, chosen=f"Good {i}. " * (1 + i % 3), rejected="Bad.") for i in range(9)]
    rows.append(pair(LONG * 9, chosen="Good.", rejected="Bad."))  # fills the limit by itself
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    return ingest(store, [Source(path=str(path))], shard_rows=5)


def drawn(draw, groups):
    """Sequences with prefixes of random lengths behind a header, and some without either."""
    ids, prefix_of = [], []
    header = draw.integers(5, 200, draw.integers(0, 5)).tolist()
    for s, members in enumerate(groups):
        prefix = header + draw.integers(5, 200, draw.integers(0, 9)).tolist()
        for k in range(members):
            ids.append([*prefix, 4 if k % 2 else 3, *draw.integers(5, 200, draw.integers(0, 7))])
            prefix_of.append(s)
    order = draw.permutation(len(ids))
    return [[int(t) for t in ids[i]] for i in order], np.array(prefix_of)[order]


@pytest.mark.parametrize("seed", range(5))
def test_stem_lengths_against_brute_force(seed):
    ids, prefix_of = drawn(np.random.default_rng(seed), [1, 2, 3, 4])
    for s, found in enumerate(prefix_lengths(ids, prefix_of)):
        members = [row for row, t in zip(ids, prefix_of, strict=True) if t == s]
        size = 0
        while all(len(m) > size + 1 and m[size] == members[0][size] for m in members):
            size += 1
        assert found == size


def test_what_is_computed():
    ids = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 9, 9]]
    header, rows = np.zeros(3, dtype=np.int64), np.array([0, 0, 1])
    assert computed(ids, []) == 11
    assert computed(ids, [header]) == 11 - 2
    assert computed(ids, [header, rows]) == 11 - 2 - 2
    assert worth(ids, [header, rows])
    assert not worth([[1, 2, 3], [4, 5, 6]], [np.zeros(2, dtype=np.int64)])


@pytest.mark.parametrize("seed", range(5))
def test_states_are_those_of_each_sequence_alone(model, seed):
    ids, prefix_of = drawn(np.random.default_rng(seed), [1, 2, 3, 4])
    net = backbone(model.model)
    with torch.inference_mode():
        for shared in ([], [prefix_of], [np.zeros_like(prefix_of), prefix_of]):
            found = last_states(net, ids, shared, model.chat.pad_id, "cpu")
            for b, row in enumerate(ids):
                alone = net(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]
                torch.testing.assert_close(found[b, : len(row)], alone, atol=LOG_PROB, rtol=1e-4)
                assert not found[b, len(row) :].any()


def test_losses_of_a_pass_with_stems_are_those_without(model):
    ids, prefix_of = drawn(np.random.default_rng(7), [3, 3])
    encoded = [Encoded(ids=row, turn=[0, *[1] * (len(row) - 1)]) for row in ids]
    needs = frozenset({"losses", "entropy"})
    plain, prefixes = (forward(encoded, model, needs, groupings=g) for g in ([], [prefix_of]))
    for b in range(len(ids)):
        np.testing.assert_allclose(prefixes.losses(b), plain.losses(b), atol=LOG_PROB, rtol=1e-4)
        np.testing.assert_allclose(
            prefixes.entropies(b), plain.entropies(b), atol=LOG_PROB, rtol=1e-4
        )
    part = prefixes.part(slice(2, 4))
    assert part.rows == 2
    np.testing.assert_array_equal(part.losses(1), prefixes.losses(3))


def apart(root, dataset, models, signals):
    """Each signal observed by itself, row by row, in a store of its own."""
    frames = []
    alone = replace(PASSES, batch_tokens=1)
    for signal in signals:
        store = Store(root=root / signal.column)
        context = RunContext(models=replace(models, store=store), passes=alone)
        frames.append(observe(context, dataset, [signal]).frame())
    return pl.concat(frames, how="align_left").sort("id")


def test_the_prompt_of_a_pair_is_read_once(store, pairs, models, tmp_path, read):
    signals = (*log_probs(), TokenLosses(view=CHOSEN), MeanLoss(view=REJECTED))
    single = apart(tmp_path, pairs, models, signals)
    before = sum(read)
    read.clear()
    frame = observe(RunContext(models=models, passes=PASSES), pairs, signals).frame().sort("id")
    assert sum(read) < 0.7 * before / 2  # two signals of each side
    for column in (s.column for s in signals):
        assert frame[column].null_count() == single[column].null_count() == 1
        for one, two in zip(frame[column].drop_nulls(), single[column].drop_nulls(), strict=True):
            np.testing.assert_allclose(one, two, atol=LOG_PROB, rtol=1e-4)


def test_what_is_missing_of_a_shared_pass_is_made_again_to_the_bit(pairs, models, tmp_path):
    """As after a kill between the two tables of a shard."""
    sides = log_probs()
    whole = Store(root=tmp_path / "whole")
    context = RunContext(models=replace(models, store=whole), passes=PASSES)
    expected = observe(context, pairs, sides)
    for shard in range(2):
        (gone,) = expected.signals[shard][1]
        kept = pl.read_parquet(gone)
        entry = gone.parent
        for path in sorted(entry.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        entry.rmdir()
        again = observe(context, pairs, sides)
        assert pl.read_parquet(again.signals[shard][1][0]).equals(kept)


def test_questions_about_one_text_share_it(store, pairs, models, tmp_path, read):
    views = [
        JudgePrompt(label=name, question="Read this: {text}\n\n" + ask)
        for name, ask in (("good", "Is it good?"), ("true", "Is all of it true?"))
    ]
    signals = [NextTokenProbs(view=view) for view in views]
    single = apart(tmp_path, pairs, models, signals)
    before = sum(read)
    read.clear()
    frame = observe(RunContext(models=models, passes=PASSES), pairs, signals).frame().sort("id")
    assert sum(read) < 0.8 * before
    for column in (s.column for s in signals):
        np.testing.assert_allclose(
            frame[column].drop_nulls().to_numpy(), single[column].drop_nulls().to_numpy(), rtol=1e-3
        )


def test_rows_behind_one_header_share_it(store, pairs, models, read):
    header = "You check texts for a school, and you are asked to be strict and to be brief. "
    signal = NextTokenProbs(view=JudgePrompt(label="long", question=header + "Good?\n{text}"))
    frame = observe(RunContext(models=models, passes=PASSES), pairs, [signal]).frame().sort("id")
    shared = sum(read)
    read.clear()
    apart = replace(models, store=Store(root=store.root / "alone"))
    context = RunContext(models=apart, passes=replace(PASSES, batch_tokens=1))
    alone = observe(context, pairs, [signal]).frame().sort("id")
    assert shared < 0.6 * sum(read)
    np.testing.assert_allclose(
        frame[signal.column].drop_nulls().to_numpy(),
        alone[signal.column].drop_nulls().to_numpy(),
        rtol=1e-3,
    )


def test_models_with_a_recurrent_state_are_read_without_stems(store, pairs, models, read):
    observe(RunContext(models=models, passes=PASSES), pairs, log_probs())
    shared = sum(read)
    read.clear()
    other = Store(root=store.root / "plain")
    loaded = models.load(models.files("target")[0], PASSES)
    loaded.model._is_stateful = True
    observe(RunContext(models=replace(models, store=other), passes=PASSES), pairs, log_probs())
    assert sum(read) > 1.3 * shared
    plain, prefixes = (
        observe(
            RunContext(models=replace(models, store=s), passes=PASSES),
            pairs,
            [SequenceLogProb(view=CHOSEN)],
        )
        for s in (other, store)
    )
    assert plain.rows == prefixes.rows == 10
