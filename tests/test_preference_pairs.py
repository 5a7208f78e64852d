"""How a pair is shown, what bad pairs become, and the models that pair methods need."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from conftest import pair_rows, write_jsonl
from tolerances import LOG_PROB
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.clean.reversed_pairs import reversed_pairs
from gristmill.pipeline.contracts import Context, Frames, Given, Prepared
from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.dpo import Dpo, train_dpo
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward, load_reward, rewards, train_reward
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load, load_tokenizer
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.prepare.preference import Halves, Kept, PairTuned, RewardTuned, half_of
from gristmill.pipeline.prepare.prepare import prepare, unique_ids
from gristmill.pipeline.score.score import spread
from gristmill.pipeline.selection.rules.top import Top
from gristmill.pipeline.selection.selection import select
from gristmill.pipeline.signals.pair_signals import (
    CHOSEN,
    REJECTED,
    VIEWS,
    Objective,
    counts,
    log_probs,
)
from gristmill.pipeline.signals.reward import RewardScore
from gristmill.pipeline.signals.views import Dialogue
from gristmill.selectors.preference._finite_differences import ABOUT, Perturbed, mean_gradient
from gristmill.selectors.preference._in_context_examples import Demonstrated, Neighbours
from gristmill.selectors.preference.tif import Tif

LORA = Lora(rank=2, alpha=4.0, dropout=0.0)
QUICK = Dpo(
    training=Training(
        epochs=1,
        batch_size=8,
        micro_batch=8,
        learning_rate=1e-2,
        max_length=128,
        checkpoints="last",
    ),
    lora=LORA,
)


def pair(prompt="Say it", chosen="Gladly.", rejected="No.", before=()):
    return {
        "prompt": [*before, {"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


@pytest.fixture
def chat(tiny, store):
    return load_tokenizer(resolve(str(tiny), store), limit=64)


def dataset(store, tmp_path, name, rows):
    return ingest(store, [Source(path=str(write_jsonl(tmp_path / f"{name}.jsonl", rows)))])


def test_only_the_side_itself_carries_loss(chat):
    before = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = pair(prompt="c", chosen="dd", rejected="e", before=before)
    for view, side, text in ((CHOSEN, "chosen", "dd"), (REJECTED, "rejected", "e")):
        shown = view.encode(row, chat)
        whole = Dialogue(side=side).encode(row, chat)
        assert list(shown.ids) == list(whole.ids)
        carried = [i for i, t in zip(shown.ids, shown.turn, strict=True) if t]
        assert chat.tokenizer.decode(carried) == f"{text}<|im_end|>"
    trained = data.token_rows(pl.DataFrame([row | {"id": "x"}]), "pair", chat).row(0, named=True)
    labels = [t if turn else -100 for t, turn in zip(shown.ids, shown.turn, strict=True)]
    assert trained["rejected_labels"] == labels  # what DPO trains on is what is observed


def thinking(chosen: str, rejected: str, answer: str = "4") -> dict:
    """A pair whose sides differ in their reasoning alone."""
    row = pair(chosen=answer, rejected=answer)
    for side, text in (("chosen", chosen), ("rejected", rejected)):
        row[side][-1]["extra"] = json.dumps({"reasoning_content": text})
    return row


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (pair(chosen="Same.", rejected="Same."), "chosen_equals_rejected"),
        (pair(chosen="x" * 90 + "a", rejected="x" * 90 + "b"), "chosen_equals_rejected"),
        (thinking("Because.", "So."), "template_hides_the_answer"),
        (thinking("x" * 90, "y" * 90, answer="z" * 90), "chosen_equals_rejected"),
        (pair(chosen="  \n"), "chosen_empty_response"),
        (pair(rejected=""), "rejected_empty_response"),
        (pair(prompt="p" * 90), "chosen_answer_cut"),
    ],
)
def test_pairs_that_cannot_be_compared_are_shown_to_nobody(chat, row, reason):
    for view in VIEWS:
        assert view.encode(row, chat).reason == reason
        assert not view.encode(row, chat).ids


def test_a_prompt_that_is_no_prefix_is_refused(chat):
    class Merging:
        """A tokenizer whose token reaches from the prompt into the response."""

        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def __call__(self, text, **settings):
            out = self.inner(text, **settings)
            at = next(i for i, (a, b) in enumerate(out["offset_mapping"]) if text[a:b] == "G")
            (start, _), (_, end) = out["offset_mapping"][at - 1], out["offset_mapping"][at]
            out["input_ids"][at - 1 : at + 1] = [out["input_ids"][at]]
            out["offset_mapping"][at - 1 : at + 1] = [(start, end)]
            return out

    merged = replace(chat, tokenizer=Merging(chat.tokenizer))
    row = pair(chosen="Gladly.", rejected="Going.")
    assert CHOSEN.encode(row, chat).reason is None
    assert CHOSEN.encode(row, merged).reason == "prompt_is_no_prefix"


def test_a_bad_pair_is_null_under_every_view_with_one_reason(store, tiny, tmp_path):
    cut_alike = pair(chosen="x" * 90 + "a", rejected="x" * 90 + "b")
    path = write_jsonl(tmp_path / "pool.jsonl", [*pair_rows(6), cut_alike, pair(chosen=" ")])
    pool = ingest(store, [Source(path=str(path))], max_bad_share=1.0)
    assert pool.quarantine()["reason"].to_list() == ["empty_content: assistant"]
    models = Models(store=store, roles={"target": (str(tiny),)})
    passes = Passes(device="cpu", max_length=64)
    seen = observe(
        RunContext(models=models, passes=passes), pool, (*log_probs(), *counts())
    ).frame()
    assert seen.height == 7
    lost = seen.filter(pl.col(log_probs()[0].column).is_null()).row(0, named=True)
    assert [lost[s.column] for s in log_probs()] == [None, None]
    assert [lost[s.column]["reason"] for s in counts()] == ["chosen_equals_rejected"] * 2
    assert seen[log_probs()[1].column].null_count() == 1


def test_both_directions_of_a_pair_are_dropped(store, tiny, tmp_path):
    rows = [
        *pair_rows(4),
        pair("Which?", "This one.", "That one."),
        pair("Which?", "That one.", "This one."),
    ]
    pool = dataset(store, tmp_path, "pool", rows)
    drops = reversed_pairs(pool.blocks())
    assert drops["row"].to_list() == [4, 5]
    assert drops["reason"].to_list() == [f"both_directions: {i}" for i in drops["id"].reverse()]
    scores = pool.frame(["id"]).select(
        "id", score=pl.lit(1.0), tokens=pl.lit(3), reason=pl.lit(None, pl.String)
    )
    ledger = select(spread(pool, scores), rule=Top(), drops=[drops])
    assert ledger.filter(pl.col("reason").str.starts_with("both_directions"))["row"].to_list() == [
        4,
        5,
    ]
    assert (ledger["verdict"] == "kept").sum() == 4


def test_a_reward_model_is_observed_as_it_scores(store, tiny, tmp_path):
    pool = dataset(store, tmp_path, "pool", pair_rows(9))
    frame = pool.frame(["id", "prompt", "chosen", "rejected"])
    trained = train_reward(
        frame, str(tiny), Reward(training=QUICK.training), store, run=Run(device="cpu")
    )
    files = resolve(trained.reference, store)
    chat = load_tokenizer(files, limit=128)
    asked = rewards(data.token_rows(frame, "pair", chat), load_reward(files, device="cpu"))
    models = Models(store=store, roles={"reward": (trained.reference,)})
    signals = [RewardScore(shown=view) for view in VIEWS]
    seen = observe(
        RunContext(models=models, passes=Passes(device="cpu", max_length=128)), pool, signals
    )
    both = asked.join(seen.frame(), on="id")
    for side, signal in zip(("chosen", "rejected"), signals, strict=True):
        np.testing.assert_allclose(both[signal.column], both[side], atol=LOG_PROB)
    plain = Models(store=store, roles={"reward": (str(tiny),)})
    with pytest.raises(ValueError, match="has no reward head"):
        observe(RunContext(models=plain, passes=Passes(device="cpu")), pool, signals)


@pytest.fixture
def trained(store, tiny, tmp_path):
    """Roles with a warmed-up adapter, and the pairs around them."""
    pool = dataset(store, tmp_path, "pool", pair_rows(14))
    targets = dataset(store, tmp_path, "targets", pair_rows(24)[18:])
    made = train_dpo(
        pool.frame(["id", "prompt", "chosen", "rejected"]),
        str(tiny),
        QUICK,
        store,
        run=Run(device="cpu"),
    )
    roles = {"target": (made.reference,), "reference": (str(tiny),)}
    context = Context(
        models=Models(store=store, roles=roles),
        pool=pool,
        reference=targets,
        passes=Passes(device="cpu"),
        say=lambda _: None,
    )
    return context


@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_the_central_difference_is_the_exact_influence(store, trained, objective):
    loss = Objective(name=objective, beta=0.5)
    losses = {"dpo": "sigmoid", "simpo": "simpo"}
    recipe = Perturbed(settings=Dpo(loss=losses[objective], beta=0.5))
    found = prepare([recipe], trained)
    models, made = found.models, found.prepared
    assert len(made["proxy"].references) == 2
    about = json.loads((resolve(models.roles["proxy"][0], store).path.parent / ABOUT).read_text())
    assert about["epsilon"] * about["norm"] ** 2 == pytest.approx(0.005)
    passes = Passes(device="cpu")
    scorer = Tif(by="difference", objective=loss, warm_up=None)
    scorer = scorer.with_given(Given(artifacts=found.artifacts))
    assert scorer.step == about["epsilon"]
    context = RunContext(models=models, passes=passes)
    pool = observe(context, trained.pool, scorer.signals, facts=scorer.facts)
    found = scorer.score(pool, Frames(parts=(trained.reference.frame(["id"]),)))
    # one pair at a time by plain backward passes
    known = {
        name: observe(
            RunContext(models=models, passes=passes), rows, log_probs("reference")
        ).frame()
        for name, rows in (("pool", trained.pool), ("targets", trained.reference))
    }
    loaded = load(models.files("target")[0], device="cpu", dtype="float32")
    weights = [p for n, p in loaded.model.named_parameters() if "lora_" in n]

    def gradient(frame, tie):
        for p in weights:
            p.requires_grad_(True)
            p.grad = None
        mean_gradient(loaded, frame, tie if loss.tied else None, loss)
        return np.concatenate([p.grad.numpy().ravel() for p in weights]).astype(float)

    columns = ["id", "prompt", "chosen", "rejected"]
    g_v = gradient(trained.reference.frame(columns), known["targets"])
    rows = trained.pool.frame(columns)
    exact = {
        rows["id"][i]: gradient(rows[i : i + 1], known["pool"]) @ g_v for i in range(rows.height)
    }
    found_N = found["score"].to_numpy()
    exact_N = np.array([exact[i] for i in found["id"]])
    assert np.corrcoef(found_N, exact_N)[0, 1] > 0.9999
    np.testing.assert_allclose(found_N, exact_N, atol=0.01 * np.abs(exact_N).max())
    by_gradient = Tif(objective=loss, warm_up=None)
    seen = [
        observe(RunContext(models=models, passes=passes), rows, by_gradient.signals)
        for rows in (trained.pool, trained.reference)
    ]
    projected = by_gradient.score(*seen)
    near_N = np.array([exact[i] for i in projected["id"]])
    assert np.corrcoef(projected["score"], near_N)[0, 1] > 0.95


def test_perturbed_models_are_made_once_and_alike(store, trained, tmp_path):
    first = prepare([Perturbed()], trained).models
    before = len(store.computed())
    assert prepare([Perturbed()], trained).models.roles == first.roles
    assert len(store.computed()) == before
    with pytest.raises(ValueError, match="has no influence here; choose of hinge, sigmoid, simpo"):
        prepare([Perturbed(settings=Dpo(loss="ipo"))], trained)
    long = "x" * 1_100  # beyond the tiny model's context
    alike = dataset(store, tmp_path, "alike", [pair(chosen=long + "a", rejected=long + "b")])
    with pytest.raises(ValueError, match="none of the 1 validation pairs can be shown"):
        prepare([Perturbed()], replace(trained, reference=alike))


def test_the_reference_is_kept_before_the_target_moves_on(store, tiny, trained):
    start = replace(trained, models=Models(store=store, roles={"target": (str(tiny),)}))
    recipes = (
        Kept(),
        PairTuned(role="target", on="pool", most=8, settings=QUICK),
        PairTuned(settings=QUICK),
    )
    found = prepare(recipes, start)
    models, made = found.models, found.prepared
    assert models.roles["reference"] == (str(tiny),)
    assert models.files("target")[0].layout == "adapter"
    assert models.roles["validation"] != models.roles["target"]
    assert set(made) == {"reference", "target", "validation"}
    own = replace(start, models=start.models.bind("reference", ("elsewhere",)))
    assert prepare(recipes[:1], own).models.roles["reference"] == ("elsewhere",)


def test_halves_are_trained_on_what_the_scorer_thinks(store, trained, monkeypatch):
    seen = []

    def train(settings, base, frame, context):
        seen.append(set(frame["id"]))
        return Prepared(references=(f"m{len(seen)}",), weights=(1.0,))

    monkeypatch.setattr("gristmill.pipeline.prepare.preference._tuned", train)
    made = Halves(seeds=(41, 42)).make(trained)
    assert made.references == ("m1", "m2", "m3", "m4")
    ids = set(unique_ids(trained.pool))
    for s, seed in enumerate((41, 42)):
        for half in (0, 1):
            assert seen[2 * s + half] == {i for i in ids if half_of(i, seed) == half}
        assert seen[2 * s] | seen[2 * s + 1] == ids
    alone = Halves(seeds=tuple(range(40)))
    monkeypatch.setattr("gristmill.pipeline.prepare.preference.unique_ids", lambda _: ["a", "b"])
    with pytest.raises(ValueError, match="2 pairs cannot be cut in two halves"):
        alone.make(trained)


def test_an_annotator_is_trained_on_a_share_or_on_the_targets(trained, monkeypatch):
    seen = []

    def train(frame, *rest, **more):
        seen.append(frame.height)
        raise LookupError

    monkeypatch.setattr("gristmill.pipeline.prepare.preference.train_reward", train)
    for context in (trained, replace(trained, reference=None)):
        with pytest.raises(LookupError):
            RewardTuned(share=0.3).make(context)
    assert seen == [6, round(0.3 * 14)]


def test_a_record_behind_its_demonstrations(store, tiny, trained, chat):
    models = trained.models.bind("embedder", (str(tiny),))
    made = Neighbours(k=2).make(replace(trained, models=models))
    found = made.artifact
    near = dict(pl.read_parquet(found.path / "neighbours.parquet").iter_rows())
    assert set(near) == set(unique_ids(trained.pool))
    targets = {r["id"]: r for r in trained.reference.frame(["id", "chosen"]).to_dicts()}
    assert all(len(n) == 2 and set(n) <= set(targets) for n in near.values())
    roomy = replace(chat, limit=512)
    for row in trained.pool.frame(["id", "prompt", "chosen", "rejected"]).to_dicts()[:3]:
        shown = Demonstrated(side="rejected", found=found, shots=2).encode(row, roomy)
        plain = REJECTED.encode(row, roomy)
        own = [i for i, t in zip(shown.ids, shown.turn, strict=True) if t]
        assert own == [i for i, t in zip(plain.ids, plain.turn, strict=True) if t]
        told = [targets[i]["chosen"][0]["content"] for i in near[row["id"]]]
        at = [shown.text.index(f"assistant\n{t}<") for t in told]
        assert at[0] > at[1]  # the nearest stands last
        without = Demonstrated(side="rejected").encode(row, roomy)
        assert (without.ids, without.turn) == (plain.ids, plain.turn)
        tight = replace(chat, limit=max(len(v.encode(row, roomy).ids) for v in VIEWS))
        assert Demonstrated(side="rejected", found=found).encode(row, tight).ids == plain.ids
    example = {"id": "x", "messages": [*row["prompt"], *row["chosen"]]}
    assert Demonstrated(side="rejected").encode(example, chat).reason == "one_side_only"
    assert REJECTED.encode(example, chat).reason == "one_side_only"
    assert Demonstrated().encode(example, chat).ids == CHOSEN.encode(example, chat).ids
    lost = Demonstrated(found=found).encode(example, chat)
    assert lost.reason == "prompt_cannot_be_embedded"
