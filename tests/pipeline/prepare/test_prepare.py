"""Recipes: what is drawn, which floors act, what is shared, and which roles are bound."""

import dataclasses
import json
import math

import pytest
from ingested import dataset
from rows import chat_rows, pair_rows
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Context, Prepared, asked_roles, takes_the_place
from gristmill.pipeline.finetune.dpo import Dpo
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.models.checkpoint import optimizer_state
from gristmill.pipeline.models.load import loaded
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.prepare.prepare import (
    PreferenceWarmUp,
    ValidationTuned,
    WarmUp,
    draw,
    for_small_pools,
    needless,
    prepare,
    unique_ids,
)
from gristmill.pipeline.records.schema import uniform
from gristmill.selectors import catalog

SMALL_LORA = Lora(rank=4, alpha=8.0, dropout=0.0)
QUICK = Training(epochs=2, batch_size=16, micro_batch=16, learning_rate=3e-3, max_length=128)


@pytest.fixture
def context(store, tiny, tmp_path):
    said = []
    return Context(
        models=Models(store=store, roles={"target": (str(tiny),)}),
        pool=dataset(store, tmp_path, "pool", chat_rows(30), shard_rows=7),
        reference=dataset(store, tmp_path, "reference", chat_rows(8, start=100), shard_rows=7),
        passes=Passes(device="cpu"),
        log=said.append,
    ), said


def test_a_draw_is_keyed_by_id(store, tmp_path):
    rows = chat_rows(40)
    few = dataset(store, tmp_path, "few", rows[:30], shard_rows=7)
    more = dataset(store, tmp_path, "more", list(reversed(rows)) + rows[:5], shard_rows=11)
    ids = unique_ids(more)
    assert len(ids) == 40  # copies count once
    drawn = draw(more, 10, 0, "warm-up")
    by_hash = sorted(ids, key=lambda i: uniform(0, "warm-up", i))
    assert drawn["id"].to_list() == sorted(by_hash[:10])
    assert set(drawn["id"]) & set(unique_ids(few)) <= set(draw(few, 10, 0, "warm-up")["id"])
    assert not drawn.equals(draw(more, 10, 1, "warm-up"))
    assert not drawn.equals(draw(more, 10, 0, "margins"))
    assert draw(more, 100, 0, "warm-up").height == 40


def test_floors_of_small_pools():
    paper = WarmUp()
    small, said = for_small_pools(paper.training, paper.lora, 1_999)
    assert (small.checkpoints, small.learning_rate) == ("last", 1e-4)
    assert said == [
        "one checkpoint, not 4: the pool has 1,999 rows.",
        "learning rate 0.0001, not 2e-05: the pool has 1,999 rows.",
    ]
    assert for_small_pools(paper.training, paper.lora, 2_000) == (paper.training, [])
    full, said = for_small_pools(paper.training, None, 100)
    assert full.learning_rate == 2e-5  # the rate's floor is for adapters
    assert len(said) == 1
    assert small.published(10 * 128) == (40,)
    assert paper.training.published(10 * 128) == (10, 20, 30, 40)


def test_lesss_settings_give_its_published_weights():
    # 270,679 rows: 13,534 drawn, 106 steps of 128 an epoch; mean rates as published with LESS
    training = WarmUp().training
    rows = math.ceil(0.05 * 270_679)
    steps, warm = training.steps(rows), training.warmup_steps(rows)
    rate = [2e-5 * (s / warm if s < warm else (steps - s) / (steps - warm)) for s in range(steps)]
    per_epoch = training.steps_per_epoch(rows)
    means = [math.fsum(rate[e * per_epoch : (e + 1) * per_epoch]) / per_epoch for e in range(4)]
    published = [1.6877e-5, 1.2859e-5, 7.7030e-6, 2.5616e-6]
    shares = [m / math.fsum(means) for m in means]
    # theirs are logged a step late
    assert shares == pytest.approx([p / math.fsum(published) for p in published], abs=3e-3)


def test_a_warm_up_is_made_once_and_takes_the_roles_place(context):
    context, said = context
    recipe = WarmUp(training=QUICK, lora=SMALL_LORA)
    found = prepare([recipe, WarmUp(training=QUICK, lora=SMALL_LORA)], context)
    models, made = found.models, found.prepared
    assert said[:2] == [
        "warm-up on 30 of 30 rows: 5% would be 2.",
        "one checkpoint, not 2: the pool has 30 rows.",
    ]
    result = made["target"]
    assert result.notes[:2] == tuple(said[:2])
    assert models.roles["target"] == result.references
    assert models.files("target")[0].layout == "adapter"
    assert result.weights == (1.0,)
    assert optimizer_state(result.references[0])
    before = (len(loaded()), len(context.models.store.computed()))
    again = prepare([recipe], context).models
    assert again.roles == models.roles
    assert (len(loaded()), len(context.models.store.computed())) == before
    other = dataclasses.replace(recipe, seed=1, share=1.0)  # the same 30 rows all the same
    assert prepare([other], context).models.roles == models.roles


def test_checkpoints_are_weighted_by_their_mean_rates(context, monkeypatch):
    context, _ = context
    monkeypatch.setattr("gristmill.pipeline.prepare.prepare.SMALL", 0)
    recipe = WarmUp(training=dataclasses.replace(QUICK, warmup=0.0), lora=SMALL_LORA)
    result = recipe.make(context)
    assert len(result.references) == 2
    # 4 steps, linear from the peak: rates 1, 3/4 | 1/2, 1/4
    assert result.weights == pytest.approx((0.7, 0.3))
    models = prepare([recipe], context).models
    assert [f.reference for f in models.files("target")] == list(result.references)


def test_the_validation_tuned_model_goes_on_from_the_warm_up(context):
    context, _ = context
    recipes = [
        WarmUp(training=QUICK, lora=SMALL_LORA),
        ValidationTuned(training=QUICK, lora=SMALL_LORA),
    ]
    found = prepare(recipes, context)
    models, made = found.models, found.prepared
    assert set(models.roles) == {"target", "validation"}
    manifest = resolve(made["validation"].references[-1], context.models.store).path.parents[1]
    inputs = json.loads((manifest / "manifest.json").read_text())["inputs"]
    assert inputs["model"] == models.files("target")[-1].fingerprint
    with pytest.raises(ValueError, match=r"trains on the reference .target. set"):
        prepare(recipes[1:], dataclasses.replace(context, reference=None))


def test_a_bound_role_is_kept_and_an_unbound_base_refused(context, tiny):
    context, _ = context
    roles = {"target": (str(tiny),), "validation": ("mine",)}
    bound = dataclasses.replace(context, models=dataclasses.replace(context.models, roles=roles))
    found = prepare([ValidationTuned(training=QUICK, lora=None)], bound)
    models, made = found.models, found.prepared
    assert models.roles["validation"] == ("mine",)
    assert made == {}
    with pytest.raises(ValueError, match="no model is bound to the role 'proxy'"):
        prepare([WarmUp(role="warm", base="proxy", training=QUICK)], context)
    two = [WarmUp(training=QUICK), WarmUp(training=QUICK, seed=9)]
    made_up = [dataclasses.replace(r, lora=None) for r in two]
    with pytest.raises(ValueError, match="two recipes fill the role 'target'"):
        prepare(made_up, context)


def test_preference_preparation_runs_until_margins_tell(store, tiny, tmp_path):
    said = []
    context = Context(
        models=Models(store=store, roles={"target": (str(tiny),)}),
        pool=dataset(store, tmp_path, "pairs", pair_rows(16), shard_rows=7),
        reference=dataset(store, tmp_path, "validation", pair_rows(20)[16:], shard_rows=7),
        passes=Passes(device="cpu"),
        log=said.append,
    )
    training = dataclasses.replace(QUICK, epochs=1, learning_rate=2e-3, checkpoints="last")
    recipe = PreferenceWarmUp(settings=Dpo(training=training, lora=SMALL_LORA))
    result = recipe.make(context)
    assert isinstance(result, Prepared)
    doubled = [s for s in said if "trained again" in s]
    assert doubled
    assert doubled[0].startswith("mean |margin| is 0")
    epochs = [int(s.rpartition(" for ")[2].rstrip(".")) for s in doubled]
    assert epochs == [2 ** (k + 1) for k in range(len(epochs))]

    from gristmill.pipeline.evaluate.preference import preference_accuracy

    frame = context.pool.frame()
    size = preference_accuracy(frame, result.references[0], store, reference=str(tiny)).size.value
    assert size > 0.1
    still = dataclasses.replace(training, learning_rate=1e-9, epochs=16)
    stuck = PreferenceWarmUp(settings=Dpo(training=still, lora=None)).make(context)
    told = next(s for s in stuck.notes if "raise the learning rate" in s)
    assert told.startswith("mean |margin| is ")
    assert "after 16 epochs, below 0.1" in told
    # pairs in the reference set are learned by DPO
    tuned = ValidationTuned(training=training, lora=SMALL_LORA).make(context)
    assert "/dpo/" in tuned.references[0]


def test_settings_that_a_user_gave_are_kept_on_a_small_pool_and_said():
    paper = WarmUp()
    kept, notes = for_small_pools(paper.training, paper.lora, 92, fixed=("learning_rate",))
    assert kept.learning_rate == 2e-5
    assert notes[1:] == [
        "learning rate 2e-05, as given; by default it would be 0.0001: the pool has 92 rows."
    ]
    assert (paper.taken(92), paper.taken(1_000), paper.taken(10_000)) == (92, 256, 500)
    given = WarmUp(share=0.05)
    assert (given.taken(92), given.taken(1_000), given.taken(10_000)) == (5, 50, 500)


@pytest.mark.parametrize("method", ["tracin", "less", "datainf", "iprox"])
def test_an_adapters_warm_up_tells_given_settings_from_defaults(method):
    plain, asked = (
        catalog.make(method, settings).recipes[0]
        for settings in (
            {},
            {"warm_up": {"learning_rate": 2e-5, "share": 0.05, "targets": "q_proj, v_proj"}},
        )
    )
    assert (plain.fixed, plain.share) == ((), None)
    assert (asked.fixed, asked.share) == (("learning_rate",), 0.05)
    assert plain.training.learning_rate == asked.training.learning_rate == 2e-5
    assert (plain.lora.targets, asked.lora.targets) == (("attention",), ("q_proj", "v_proj"))


def test_a_warm_up_on_pairs_keeps_the_epochs_that_a_user_gave(store, tiny, tmp_path):
    said = []
    context = Context(
        models=Models(store=store, roles={"target": (str(tiny),)}),
        pool=dataset(store, tmp_path, "pairs", pair_rows(8)),
        passes=Passes(device="cpu"),
        log=said.append,
    )
    scorer = catalog.make("irm", {"warm_up": {"epochs": 1, "learning_rate": 1e-7}})
    recipe = scorer.recipes[1]
    assert recipe.fixed == ("epochs", "learning_rate")
    assert catalog.make("irm").recipes[1].fixed == ()
    made = recipe.make(context)
    assert not [s for s in said if "trained again" in s]
    assert "after 1 epochs, below 0.1: raise epochs or learning rate" in " ".join(made.notes)
    assert any(s.startswith("learning rate 1e-07, as given") for s in made.notes)


def test_checkpoints_of_a_warm_ups_form_are_used_as_they_are(context, tiny):
    context, said = context
    first = prepare([WarmUp(training=QUICK, lora=SMALL_LORA)], context).models.roles["target"]
    other = WarmUp(training=QUICK, lora=SMALL_LORA, seed=1, share=0.5)
    second = prepare([other], context).models.roles["target"]
    assert first != second
    mine = Models(store=context.models.store, roles={"target": (*first, *second)})
    before = len(context.models.store.computed())
    said.clear()
    for method in ("tracin", "less"):
        found = prepare(catalog.make(method).recipes, dataclasses.replace(context, models=mine))
        assert found.models.roles["target"] == (*first, *second)
        assert sum(found.prepared["target"].weights) == pytest.approx(1)
    assert (
        said
        == ["the 2 checkpoints are used as bound to 'target'; none is trained in their place."] * 2
    )
    assert len(context.models.store.computed()) == before, "nothing was trained"
    # a plain model beside an adapter is no warm-up, and all weights are none of an adapter's
    assert not needless(other, Models(store=mine.store, roles={"target": (*first, str(tiny))}))
    assert not needless(dataclasses.replace(other, lora=None), mine)


@pytest.mark.parametrize(
    ("method", "bound"),
    [
        ("reward_margin", {"reward"}),
        ("cw_po", {"judge"}),
        ("bees", {"reward", "proxy", "reference"}),
    ],
)
def test_a_bound_model_needs_no_base_to_be_made_of(method, bound):
    scorer = catalog.make(method)
    assert not bound >= set(asked_roles(scorer)), "without it a base is asked for"
    assert set(asked_roles(scorer, bound)) == bound
    assert {r.role for r in scorer.recipes if takes_the_place(bound, r)} == bound
