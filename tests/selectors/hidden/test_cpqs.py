"""CPQS: the network against its equations, the contrast set, cross-fitting, keys, bad input."""

import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from answers_as_chats import chat
from ingested import dataset
from quality_runs import scored
from rows import SUBJECTS, chat_rows, write_jsonl
from tolerances import LOG_PROB, rounding, worst
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Frames, settings_of
from gristmill.pipeline.models.completion import local as completion_local
from gristmill.pipeline.models.completion.recorded import Recorded
from gristmill.pipeline.models.completion.requests import Sampling
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.forward import forward
from gristmill.pipeline.models.load import load, load_tokenizer, loaded
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import make_tiny
from gristmill.pipeline.numerics.ranks import auc
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.hidden import _contrast as contrast
from gristmill.selectors.hidden import _contrast_set as contrast_set
from gristmill.selectors.hidden import _contrast_training as contrast_training
from gristmill.selectors.hidden import _text_cnn as text_cnn
from gristmill.selectors.hidden._contrast_classifier import (
    FACTS,
    WEIGHTS,
    answer_span,
    chosen_layers,
    classifier,
    made_at,
    networks,
    prompt_key,
)
from gristmill.selectors.hidden._contrast_set import damaged, marks
from gristmill.selectors.hidden._contrast_training import (
    Labelled,
    Training,
    deal,
    fit,
)
from gristmill.selectors.hidden._text_cnn import KERNELS, TextCnn
from gristmill.selectors.hidden.cpqs import ContrastScore, Cpqs, length_control

SLIM = Training(form="slim", rank=16, passes=8)
ONE_STEP = Training(form="slim", rank=4, layers="last", span="answer", learning_rate=1e-4)
QUICK = {"training": SLIM, "damage": "none"}
# a float32 network on states that differ by the rounding of another batch
# The network's sums: a convolution, two inner ones and the dense layer, 768 each, and the output.
NETWORK = rounding(75 + 3 * 768 + 512, size=3.0)  # size: normal inputs


def turns(prompt, answer):
    return [
        {"role": "user", "content": prompt, "extra": None},
        {"role": "assistant", "content": answer, "extra": None},
    ]


def ladder(n, start=0):
    """Strong and weak answers to the same prompts, alike in length: sentences and letter salad."""
    rows = []
    rng = np.random.default_rng(start)
    for i in range(start, start + n):
        text = f"The answer to number {i} is about {SUBJECTS[i % 5]}, as one can see."
        salad = "".join(rng.permutation(list(text.replace(" ", "#"))))
        for quality, answer in (("strong", text), ("weak", salad)):
            asked = [{"role": "user", "content": f"Question {i} of {SUBJECTS[i % 5]}?"}]
            said = {"role": "assistant", "content": answer}
            rows.append({"messages": [*asked, said], "quality": quality})
    return rows


def scores_of(store, tiny, scorer, pool, reference=None, batch_tokens=2_000, **roles):
    models = Models(store=store, roles={"target": (str(tiny),), **roles})
    run = ScoreRun(
        scorer=scorer,
        dataset=pool,
        reference=reference,
        context=RunContext(models=models, passes=Passes(device="cpu", batch_tokens=batch_tokens)),
    )
    entry = score(run)
    return entry.frame(), entry.note["prepared"]


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A store with a slim classifier, scores of unseen rows and of those it was trained on."""
    folder = tmp_path_factory.mktemp("cpqs")
    (folder / "store").mkdir()
    store = Store(root=folder / "store")
    reference = dataset(store, folder, "contrast", ladder(24))
    pool = dataset(store, folder, "pool", ladder(12, start=100) + ladder(24))
    frame, said = scores_of(store, tiny, Cpqs(**QUICK), pool, reference)
    (place,) = (store.root / "contrast").glob("*/classifier")
    return store, frame, said, place, pool


# --- the network ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "width", "count"),
    [
        (3, 4, 826_114),
        (33, 4096, 416_025_346),
        (29, 3584, 320_080_642),
        (37, 4096, 466_356_994),
        (29, 1536, 137_628_418),
        (25, 896, 69_602_050),
    ],
)
def test_parameter_counts(layers, width, count):
    assert TextCnn(layers=layers, width=width).parameters == count


def test_slim_has_less_than_a_tenth_of_the_parameters():
    for layers, width in [(31, 576), (33, 4096), (25, 896)]:
        sizes = [TextCnn(layers=layers, width=width, form=f).parameters for f in ("slim", "full")]
        assert sizes[0] < sizes[1] / 10


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (9, (1, 1, 1)),
        (6, (0.888889, 0.777778, 0.444444)),
        (5, (0.777778, 0.444444, 0.111111)),
        (3, (1 / 9, 1 / 12, 1 / 15)),
        (1, (1 / 27, 1 / 36, 1 / 45)),
        (0, (0, 0, 0)),
    ],
)
def test_golden_values_of_the_branches(tokens, expected):
    net = TextCnn(layers=3, width=4)
    weights = {name: torch.zeros(shape) for name, shape in net.shapes.items()}
    each = torch.tensor([1 / (3 * k * 4) for k in KERNELS])
    weights["conv"] += each.repeat_interleave(torch.tensor(KERNELS))[:, None]
    for name in ("inner.0", "inner.1"):
        weights[name] += 1 / 768
    pooled = net.pooled(weights, [torch.ones(tokens, 3, 4)])[0].reshape(3, 256)
    for branch, value in zip(pooled, expected, strict=True):
        # all terms are equal; the figures have six digits
        np.testing.assert_allclose(branch, value, atol=worst(5 * 12 + 2 * 768) + 5e-7)


def test_the_network_is_the_papers_two_dimensional_convolution():
    net = TextCnn(layers=3, width=5)
    weights = net.init(0)
    states = [torch.randn(t, 3, 5, generator=torch.Generator().manual_seed(t)) for t in (1, 4, 9)]
    found = net.logits(weights, states)
    for x_TCD, row in zip(states, found, strict=True):
        branches, offset = [], 0
        for b, k in enumerate(KERNELS):
            kernel = weights["conv"][:, offset : offset + k].reshape(3, 5, k, 256)
            offset += k
            x = torch.zeros(1, 3, max(len(x_TCD), k), 5)
            x[0, :, : len(x_TCD)] = x_TCD.transpose(0, 1)
            y = torch.nn.functional.conv2d(x, kernel.permute(3, 0, 2, 1), weights["conv.bias"][b])
            y = y[..., 0].relu()
            for i in range(2):
                inner = weights[f"inner.{i}"], weights[f"inner.{i}.bias"]
                y = torch.nn.functional.conv1d(y, *inner, padding=1).relu()
            branches.append(y.max(-1).values[0])
        z = torch.cat(branches)
        z = (weights["dense.0"] @ z + weights["dense.0.bias"]).relu()
        expected = weights["dense.1"] @ z + weights["dense.1.bias"]
        np.testing.assert_allclose(row, expected, atol=NETWORK)


def test_slim_mixes_normalised_layers():
    net = TextCnn(layers=2, width=6, form="slim", rank=4)
    weights = net.init(1)
    weights["mix"] = torch.tensor([0.0, 3.0]).log1p()  # 1 : 4
    x = torch.randn(7, 2, 6, generator=torch.Generator().manual_seed(0))
    norm = x / x.square().mean(-1, keepdim=True).sqrt()
    mixed = (0.2 * norm[:, 0] + 0.8 * norm[:, 1]) @ weights["down"]
    full = TextCnn(layers=1, width=4)
    same = {k: v for k, v in weights.items() if k not in ("mix", "down")}
    expected = full.logits(same, [mixed[:, None]])
    np.testing.assert_allclose(net.logits(weights, [x]), expected, atol=NETWORK)
    scaled = net.logits(weights, [x * torch.tensor([100.0, 0.01])[:, None]])
    np.testing.assert_allclose(scaled, expected, atol=1e-2)  # 1e-6 keeps a zero state finite


def test_dropout_is_seeded_and_keeps_the_mean():
    net = TextCnn(layers=1, width=2, form="slim", rank=2)
    weights, x = net.init(0), [torch.ones(6, 1, 2)]
    draws = [net.logits(weights, x, torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_layer_choices():
    names = ("all", "last", "front", "middle", "back")
    at = {n: list(range(31))[chosen_layers(n, 31)] for n in names}
    assert {n: len(v) for n, v in at.items()} == dict(zip(names, (31, 1, 10, 10, 11), strict=True))
    assert at["front"] + at["middle"] + at["back"] == at["all"]
    assert at["last"] == [30]


# --- what of a dialogue is read ---------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    files = resolve(str(tiny), Store(root=tmp_path_factory.mktemp("resolve")))
    return load(files, load_tokenizer(files), device="cpu")


def test_the_span_is_the_last_answer_and_nothing_else(model):
    messages = [*turns("first", "no"), *turns("naïve 日本語?", " Yes, 日本語. ")]
    encoded = Dialogue().encode({"messages": messages, "tools": None}, model.chat)
    read = [model.chat.tokenizer.decode([encoded.ids[t] for t in answer_span(encoded, s)])
            for s in ("answer", "with_tail")]  # fmt: skip
    assert read == [" Yes, 日本語. ", " Yes, 日本語. <|im_end|>\n"]
    later = [*messages, {"role": "user", "content": "And then?", "extra": None}]
    asked = Dialogue().encode({"messages": later, "tools": None}, model.chat)
    told = model.chat.tokenizer.decode([asked.ids[t] for t in answer_span(asked, "with_tail")])
    assert told == read[1], "a user's turn behind the answer is no part of it"
    other = Dialogue().encode(
        {"messages": [*messages[:-1], {**messages[-1], "content": "No"}], "tools": None}, model.chat
    )
    assert prompt_key(encoded) == prompt_key(other)
    alone = Dialogue().encode({"messages": messages[2:], "tools": None}, model.chat)
    assert prompt_key(alone) != prompt_key(encoded)


def labelled(rows, chat):
    out = []
    for i, row in enumerate(rows):
        messages = [{**m, "extra": None} for m in row["messages"]]
        encoded = Dialogue().encode({"messages": messages, "tools": None}, chat)
        out.append(Labelled(id=f"{i:03}", strong=row["quality"] == "strong", encoded=encoded))
    return out


def test_prompts_are_dealt_whole_and_evenly(model):
    rows = labelled(ladder(9), model.chat)
    folds = deal(rows, 3, 0)
    assert len(folds) == 9  # both answers of a prompt share its fold
    assert sorted(folds.values()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert deal(rows[::-1], 3, 0) == folds
    assert deal(rows, 3, 1) != folds


def test_states_that_do_not_fit_in_memory_are_made_again(model, tmp_path, monkeypatch):
    rows, how = labelled(ladder(4), model.chat), Training(form="slim", rank=4, passes=2)
    fit(rows, model, how, tmp_path / "held")
    monkeypatch.setattr(contrast_training, "HOLD", 0)
    fit(rows, model, how, tmp_path / "again")
    for name in (WEIGHTS, FACTS):
        assert (tmp_path / "held" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_step_in_parts_is_the_same_step(model, tmp_path, monkeypatch):
    rows, how = labelled(ladder(3), model.chat), ONE_STEP
    monkeypatch.setattr(text_cnn, "DROPOUT", 0.0)
    fit(rows, model, how, tmp_path / "whole")
    monkeypatch.setattr(contrast_training, "CHUNK", 1)  # one answer at a time
    fit(rows, model, how, tmp_path / "parts")
    whole, parts = (networks(made_at(str(tmp_path / n)), "full", "cpu") for n in ("whole", "parts"))
    for key, value in whole.items():
        # Adam's first step is +-rate wherever a gradient is not zero: compare what is well above it
        same = (parts[key] - value).abs() < 1e-6
        assert same.float().mean() > 0.999, key


# --- the method -------------------------------------------------------------------------------


def test_it_tells_strong_from_weak_answers_that_it_has_not_seen(trained):
    _, frame, said, _, pool = trained
    quality = pool.frame(["id", "meta"]).select(
        "id", strong=pl.col("meta").str.json_path_match("$.quality") == "strong"
    )
    rows = frame.join(quality, on="id")
    for seen in (0.0, 1.0):  # prompts outside the contrast set, prompts of the other folds
        part = rows.filter(pl.col("score_crossfit") == seen)
        assert part.height == (24 if seen == 0 else 48)
        groups = [part.filter(pl.col("strong") == s)["score"].to_list() for s in (True, False)]
        assert auc(*groups) > 0.9
    assert frame["score"].is_between(0, 1).all()
    assert "held-out AUC" in said[-1]
    assert "Spearman" in said[-1]
    assert -1 <= length_control(frame) <= 1


def aucs(store):
    """The AUC of held-out folds, by the form of the network."""
    places = (p for p in (store.root / "contrast").glob("*/*") if p.is_dir())
    found = [json.loads((p / FACTS).read_text()) for p in places]
    return {f["net"]["form"]: f["auc"] for f in found}


def test_the_full_network_learns_from_a_few_answers(tiny, tmp_path, store):
    rows = dataset(store, tmp_path, "contrast", ladder(8))
    how = Training(layers="last", passes=8)
    scores_of(store, tiny, Cpqs(training=how, damage="none"), rows, rows)
    assert aucs(store)["full"] > 0.9


@pytest.mark.slow
def test_full_and_slim_agree_in_auc(trained, tiny, tmp_path):
    store, _, _, _, pool = trained
    reference = dataset(store, tmp_path, "contrast", ladder(24))
    how = Training(layers="back", passes=8)
    scores_of(store, tiny, Cpqs(training=how, damage="none"), pool, reference)
    value = aucs(store)
    assert value["full"] > 0.9
    assert value["slim"] > value["full"] - 0.02


def test_a_prompt_is_scored_by_the_network_that_never_saw_it(trained, model):
    _, _, _, place, _ = trained
    judge = classifier(made_at(str(place)))
    rows = labelled([*ladder(3), *ladder(1, start=100)], model.chat)
    signal = ContrastScore(made=judge.made)
    batch = forward([r.encoded for r in rows], model, signal.needs)
    values = signal.read(batch)
    for b, (row, value) in enumerate(zip(rows, values, strict=True)):
        fold = judge.fold_of.get(prompt_key(row.encoded))
        assert value["crossfit"] == (fold is not None) == (b < 6)
        weights = networks(judge.made, "full" if fold is None else f"fold{fold}", "cpu")
        at = answer_span(row.encoded, judge.span)
        states = torch.stack([h[b, at] for h in batch.outputs["hidden"]], dim=1)
        weak, strong = judge.net.logits(weights, [states])[0].double()
        assert value["margin"] == pytest.approx(float(strong - weak), abs=1e-9)
        assert value["tokens"] == len(answer_span(row.encoded, "answer")) < len(at)


def test_scores_do_not_depend_on_order_shards_or_batches(trained, tiny, tmp_path, store):
    _, frame, _, place, _ = trained
    rows = (ladder(12, start=100) + ladder(24))[::-1]
    pool = dataset(store, tmp_path, "backwards", rows, shard_rows=5)
    other, said = scores_of(store, tiny, Cpqs(classifier=str(place)), pool, batch_tokens=1)
    assert said == []
    both = frame.join(other, on="id", suffix="_other")
    assert both.height == 72
    np.testing.assert_allclose(both["score"], both["score_other"], atol=LOG_PROB + NETWORK)


@pytest.mark.parametrize(
    "scorer",
    [
        Cpqs(training=Training(form="slim", rank=4), damage="alone"),
        Cpqs(training=Training(form="slim", rank=4), contrast="contrast.jsonl", damage="none"),
        Cpqs(classifier="classifier"),
    ],
    ids=["pool", "contrast", "classifier"],
)
def test_no_folder_enters_a_key(scorer, trained, tiny, tmp_path):
    """The name of the model's folder was in the classifier, the paths were among the settings."""
    found = []
    for here in (tmp_path / "one", tmp_path / "two" / "deeper"):
        here.mkdir(parents=True)
        shutil.copytree(tiny, here / "model")
        shutil.copytree(trained[3], here / "classifier")
        write_jsonl(here / "contrast.jsonl", ladder(3))
        paths = {k: str(here / v) for k in ("contrast", "classifier") if (v := vars(scorer)[k])}
        (here / "store").mkdir()
        store = Store(root=here / "store")
        pool = dataset(store, here, "pool", ladder(3))
        scores_of(store, here / "model", dataclasses.replace(scorer, **paths), pool)
        found.append({(p.parts[-3], p.parts[-2]) for p in store.root.glob("*/*/manifest.json")})
    assert found[0] == found[1]
    assert ("contrast" in {step for step, _ in found[0]}) == (not scorer.classifier)


def test_the_key_is_the_classifiers_content_and_not_its_place(trained, tmp_path):
    _, _, _, place, _ = trained
    moved = tmp_path / "elsewhere"
    shutil.copytree(place, moved)
    there, here = (ContrastScore(made=made_at(str(p))) for p in (place, moved))
    assert settings_of(there) == settings_of(here)
    assert (there.column, hash(there)) == (here.column, hash(here))
    facts = json.loads((moved / FACTS).read_text())
    (moved / FACTS).write_text(json.dumps({**facts, "auc": 0.0}))
    assert ContrastScore(made=made_at(str(moved))).column != here.column


def test_weak_answers_are_written_once(tiny, tmp_path, store, monkeypatch):
    rows = dataset(store, tmp_path, "pool", chat_rows(8))
    ids = rows.frame(["id"])["id"].sort().to_list()
    answers = {i: f"Dunno {k}." for k, i in enumerate(ids[:6])}  # and nothing for two prompts
    asked = []

    def recorded(loaded):
        asked.append(loaded.files.reference)
        return Recorded(answers=answers)

    monkeypatch.setattr(completion_local, "Local", recorded)
    scorer = Cpqs(**{**QUICK, "training": dataclasses.replace(SLIM, passes=1)})
    frame, said = scores_of(store, tiny, scorer, rows, weak=(str(tiny),))
    assert frame["score"].is_finite().all()
    assert frame["score_crossfit"].to_list() == [1.0] * 8  # all were positives
    assert "wrote 6 weak answers to 8 prompts" in said[0]
    assert said[1].startswith("9 passes over the contrast set, not 1: 14 answers make 1 steps")
    (made,) = (store.root / "weak-answers").glob("*/answers.parquet")
    prompts = {r["id"]: r["messages"][:-1] for r in rows.frame().to_dicts()}
    for row in pl.read_parquet(made).to_dicts():
        text = row["messages"][-1]["content"]
        (source,) = (i for i, a in answers.items() if a == text)
        assert row["messages"][:-1] == prompts[source]
    before = len(loaded())
    again, said_again = scores_of(store, tiny, scorer, rows, weak=(str(tiny),))
    assert again.equals(frame)
    assert said_again == said
    assert len(loaded()) == before, "a rerun loads no model"
    assert asked == [str(tiny)]


def test_damaged_answers_alone(tiny, tmp_path, store):
    pool = dataset(store, tmp_path, "pool", chat_rows(8))
    alone = Cpqs(**{**QUICK, "training": dataclasses.replace(SLIM, passes=1), "damage": "alone"})
    frame, _ = scores_of(store, tiny, alone, pool)
    assert frame["score"].is_finite().all()
    rows = pool.frame(["id", "messages", "tools"]).sort("id")
    found = damaged(rows, 0)
    assert found.equals(damaged(rows[::-1], 0))
    assert not found["strong"].any()
    answers = {tuple(m["content"] for m in r["messages"][:-1]): r["messages"][-1]["content"]
               for r in rows.to_dicts()}  # fmt: skip
    kinds = dict.fromkeys(("shuffled", "cut", "elsewhere"), 0)
    for row in found.to_dicts():
        text, whole = row["messages"][-1]["content"], ""
        whole = answers[tuple(m["content"] for m in row["messages"][:-1])]
        assert text != whole
        if text in answers.values():
            kinds["elsewhere"] += 1
        elif sorted(text.split()) == sorted(whole.split()):
            kinds["shuffled"] += 1
        else:
            assert " ".join(whole.split()).startswith(text)
            kinds["cut"] += 1
    assert kinds == {"shuffled": 8, "cut": 8, "elsewhere": 8}


# --- bad input --------------------------------------------------------------------------------


def test_rows_without_a_score_say_why(trained, model):
    judge = made_at(str(trained[3]))
    signal = ContrastScore(made=judge)
    records = [turns("q", ""), turns("q", "No"), turns("q", "A longer answer")]
    encoded = [Dialogue().encode({"messages": m, "tools": None}, model.chat) for m in records]
    values = signal.read(forward(encoded, model, signal.needs))
    from gristmill.pipeline.signals.forward_signals import as_column

    column = as_column(signal.column, [*values, None], signal.dtype(None))
    pool = Frames(parts=(pl.DataFrame({"id": list("abcd")}).with_columns(column),))
    found = Cpqs(classifier=str(judge.path), shortest=3).score(pool)
    assert found["reason"].to_list() == ["no_answer_token", "answer_too_short", None, None]
    assert found["score"].is_null().to_list() == [True, True, False, True]


def test_a_classifier_of_another_model_is_refused(trained, tmp_path, store):
    other = make_tiny(tmp_path / "other", seed=9)
    pool = dataset(store, tmp_path, "pool", chat_rows(3))
    with pytest.raises(
        ValueError, match=r"trained on the states of .*model; the target is .*other"
    ):
        scores_of(store, other, Cpqs(classifier=str(trained[3])), pool)


def test_contrast_sets_that_teach_nothing_are_refused(tiny, tmp_path, store):
    pool = dataset(store, tmp_path, "pool", chat_rows(3))
    one = dataset(store, tmp_path, "one", [r for r in ladder(4) if r["quality"] == "weak"])
    with pytest.raises(ValueError, match="strong answers to 0 prompts and weak ones to 4: give"):
        scores_of(store, tiny, Cpqs(**QUICK), pool, one)
    strong = dataset(store, tmp_path, "strong", [r for r in ladder(4) if r["quality"] == "strong"])
    for given in (None, strong):
        with pytest.raises(
            ValueError, match="no answer is marked weak, and the role 'weak' has no"
        ):
            scores_of(store, tiny, Cpqs(**QUICK), pool, given)
    documents = write_jsonl(tmp_path / "documents.jsonl", [{"text": "One."}, {"text": "Two."}])
    with pytest.raises(ValueError, match="the contrast set holds document records: give examples"):
        scores_of(store, tiny, Cpqs(contrast=str(documents)), pool)
    with pytest.raises(ValueError, match=f"is not a folder with {WEIGHTS} and {FACTS}"):
        scores_of(store, tiny, Cpqs(classifier=str(tmp_path)), pool)
    with pytest.raises(ValueError, match="folds is at least 2"):
        scores_of(store, tiny, Cpqs(training=Training(folds=1)), pool)


def test_marks(tmp_path, store):
    rows = [*ladder(2), {"messages": ladder(3)[4]["messages"], "quality": 3.5}]
    found = marks(dataset(store, tmp_path, "some", rows))
    assert sorted(map(str, found["strong"])) == ["False", "False", "None", "True", "True"]
    label = {"messages": rows[0]["messages"], "label": "weak"}
    only = marks(dataset(store, tmp_path, "label", [label]))
    assert only["strong"].to_list() == [False]
    with pytest.raises(ValueError, match="1 rows of the contrast set are marked strong and weak"):
        marks(dataset(store, tmp_path, "both", [rows[0], label]))


# a small classifier that learns from a few answers
LEARNT = {"form": "slim", "rank": 16, "layers": "last", "learning_rate": 3e-3}


def planted(n, start=0):
    """Answers by kind, to the same prompts: intact, with words shuffled, cut in half."""
    where = ("north", "south", "east", "west")
    intact = [
        chat(f"Where is {i}?", f"It lies {where[i % 4]} of {i}, as one can see.")
        for i in range(start, start + n)
    ]
    frame = pl.DataFrame({"id": [f"{i:03}" for i in range(n)], "messages": intact}).with_columns(
        tools=pl.lit(None, dtype=pl.String)
    )
    kinds = {"intact": intact, "cut": [], "shuffled": []}
    whole = {m[-1]["content"]: len(m[-1]["content"].split()) for m in intact}
    for messages in damaged(frame, 1)["messages"].to_list():
        said = messages[-1]["content"]
        if said not in whole:  # else it is another prompt's
            kinds["cut" if len(said.split()) == 4 else "shuffled"].append(messages)
    assert {len(rows) for rows in kinds.values()} == {n}
    return kinds


def test_one_pass_tells_planted_bad_answers(tiny, tmp_path, store, monkeypatch):
    monkeypatch.setattr(contrast, "LEAST_STEPS", 1)
    marked = {kind: "strong" if kind == "intact" else "weak" for kind in planted(1)}
    given = [{"messages": m, "quality": marked[k]} for k, ms in planted(64).items() for m in ms]
    train = write_jsonl(tmp_path / "contrast.jsonl", given)
    scorer = Cpqs(contrast=str(train), damage="none", training=Training(batch_size=1, **LEARNT))
    unseen = [{"messages": m} for ms in planted(12, start=200).values() for m in ms]
    found = scored(store, tmp_path, scorer, unseen, target=tiny)["score"].to_list()
    for bad in (found[12:24], found[24:]):
        assert auc(found[:12], bad) > 0.9
    (facts,) = (json.loads(p.read_text()) for p in store.root.glob(f"contrast/*/*/{FACTS}"))
    assert facts["steps"] == facts["answers"] == 192  # one pass
    assert facts["auc"] > 0.9  # of prompts that a network has not seen


def test_answers_shorter_than_the_kernels(tiny, tmp_path, store):
    marked = {"intact": "strong", "cut": "weak", "shuffled": "weak"}
    given = [{"messages": m, "quality": marked[k]} for k, ms in planted(4).items() for m in ms]
    train = write_jsonl(tmp_path / "contrast.jsonl", given)
    made = Cpqs(contrast=str(train), damage="none", training=Training(span="answer", **LEARNT))
    said = ("4", "42", "421", "four hundred")
    rows = [{"messages": chat("How many?", text)} for text in said]
    found = scored(store, tmp_path, made, rows, target=tiny)
    assert found["score_tokens"].to_list() == [1, 2, 3, 12]
    assert found["score"].is_between(0, 1).to_list() == [True] * 4  # filled up with zeros
    (place,) = store.root.glob("contrast/*/classifier")
    short = Cpqs(classifier=str(place), shortest=3)
    found = scored(store, tmp_path, short, rows, target=tiny)
    assert found["reason"].to_list() == [*["answer_too_short"] * 2, None, None]


def test_weak_models_are_asked_with_the_calls_of_the_prompt():
    turns = [
        {"role": r, "content": c, "extra": None} for r, c in (("user", "a"), ("assistant", ""))
    ]
    turns[1]["extra"] = '{"tool_calls": [{"function": {"name": "weather"}}]}'
    turns.append({"role": "assistant", "content": None, "extra": '{"reasoning": "so"}'})
    row = {"id": "x", "messages": turns, "tools": None}
    asked = contrast_set._request(row, Sampling()).messages
    assert asked[1]["tool_calls"] == [{"function": {"name": "weather"}}]
    assert contrast_set._last(turns) == ""  # words are shuffled and halved, and it has none
