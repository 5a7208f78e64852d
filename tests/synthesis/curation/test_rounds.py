"""Both stages on pairs of a hidden linear reward with planted wrong labels."""

import numpy as np
import polars as pl
import pytest
from hidden_reward import KnowingJudges, record, world

from gristmill.pipeline.records.schema import PAIR
from gristmill.synthesis.curation.linear_reward import fit
from gristmill.synthesis.curation.people import Simulated
from gristmill.synthesis.curation.rounds import Rounds, Stage1, Standing
from gristmill.synthesis.curation.sweep import GOLD_DISAGREES, Stage2

SMALL = {"start_people": 40, "start_labels": 60, "labels": 40, "people": 10, "rounds": 2}


def stage1(some, store, judges=None, **settings):
    return Stage1(
        pool=some.pool(store),
        models=some.models(store),
        labeller=judges,
        people=some.people(),
        store=store,
        settings=Rounds(**{**SMALL, **settings}),
    )


def walked(run):
    standing = Standing.of([run.start()])
    for _ in range(run.settings.rounds):
        entry = run.next(standing)
        if entry is None:
            break
        standing = Standing.of([*standing.entries, entry])
    return standing


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """A whole curation of 1,400 pairs, 30 % of them flipped."""
    from gristmill.pipeline.records.store import Store

    store = Store(root=tmp_path_factory.mktemp("curated"))
    some = world(1_400, flips=0.3)
    judges = KnowingJudges(Simulated(truth=some.truth, error=0.05, name="judge"))
    run = stage1(some, store, judges)
    standing = walked(run)
    sweep = Stage2(
        pool=run.pool,
        models=run.models,
        labeller=judges,
        people=run.people,
        store=store,
        flip=True,
    )
    return some, judges, run, standing, sweep, sweep.run(standing)


def test_bradley_terry_is_at_its_minimum():
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(60, 4)) * [1.0, 30.0, 0.1, 3.0]
    w_D = fit(x_ND, 0.5)
    wrong_N = 1 / (1 + np.exp(x_ND @ w_D))
    assert np.abs(0.5 * w_D - x_ND.T @ wrong_N).max() < 1e-6


def test_people_give_gold_and_judges_silver_and_no_pair_is_asked_twice(curated):
    some, judges, run, standing, *_ = curated
    assert standing.labels["id"].is_unique().all()
    assert len(standing.gold) == 40 + 2 * 10
    assert some.right(standing.gold) == 1.0
    assert 0.9 < some.right(standing.silver) < 1.0
    counts = dict(standing.labels.group_by("round").len().iter_rows())
    assert counts == {0: 100, 1: 40, 2: 40}
    asked = standing.labels.filter(pl.col("round") > 0)["asked_by"]
    assert set(asked) <= set(standing.gold), "gold pairs ask"
    note = standing.entries[-1].note
    assert note["people_agree"][1] == 10
    assert note["gold"] == 60


def test_the_pairs_that_are_asked_for_are_neighbours_of_gold_pairs_that_are_ranked_wrong(curated):
    some, _, run, standing, *_ = curated
    gold = {
        i: v
        for i, v in Standing.of(standing.entries[:1]).gold.items()
        if i in run.pool.ids
    }
    frame = run.pool.labelled(gold)
    margin = dict(
        zip(sorted(gold), run.models.margins(standing.references[0], frame), strict=True)
    )
    asking = standing.labels.filter(pl.col("round") == 1)["asked_by"].unique()
    worst = sorted(margin, key=margin.get)[: len(asking)]
    assert set(asking) == set(worst)


def test_one_sweep_raises_the_accuracy_of_labels(curated):
    some, *_, entry = curated
    outcome = entry.frame()
    assert outcome["id"].sort().to_list() == some.pairs["id"].sort().to_list()
    of = {o: dict(f.select("id", "label").iter_rows()) for (o,), f in outcome.group_by("origin")}
    before = some.right(dict.fromkeys(some.truth, "chosen"))
    assert before < 0.73
    assert some.right(of["consistent"]) > 0.9
    assert some.right(of["flipped"]) > 0.5, "flipped only where that is sure"
    assert some.right(of["people"]) == 1.0
    dropped = outcome.filter(pl.col("label").is_null())
    assert dropped["reason"].null_count() == 0
    assert entry.note["flip"]["low"] > 0.5
    kept = outcome.drop_nulls("label")
    assert some.right(dict(kept.select("id", "label").iter_rows())) > 0.85


def test_the_judges_are_asked_again_only_where_the_best_model_doubts(curated):
    _, judges, run, standing, sweep, entry = curated
    outcome = entry.frame().filter(pl.col("p_best").is_not_null())
    again = set(judges.asked) - set(standing.labels["id"])
    assert again == set(outcome.filter(pl.col("p_best") <= 0.5)["id"])
    assert entry.note["judged_again"] == len(again)


def test_without_the_flip_what_is_discarded_is_dropped_with_a_reason(curated):
    some, judges, run, standing, sweep, entry = curated
    from dataclasses import replace

    plain = replace(sweep, flip=False).run(standing).frame()
    assert "flipped" not in set(plain["origin"].drop_nulls())
    assert GOLD_DISAGREES in set(plain["reason"].drop_nulls())
    flipped = entry.frame().filter(pl.col("origin") == "flipped")["id"]
    assert plain.filter(pl.col("id").is_in(flipped.to_list()))["label"].null_count() == len(flipped)


def test_a_pool_whose_labels_are_right_is_not_flipped(store):
    some = world(700, flips=0.0, seed=2)
    wrong = KnowingJudges(Simulated(truth=some.truth))
    run = stage1(some, store, wrong, start_people=8, start_labels=8, rounds=0)
    sweep = Stage2(
        pool=run.pool,
        models=run.models,
        labeller=None,
        people=run.people,
        store=store,
        flip=True,
    )
    entry = sweep.run(walked(run))
    outcome = entry.frame()
    assert "were not flipped" in entry.note["flip"]["sentence"]
    assert "flipped" not in set(outcome["origin"].drop_nulls())


def test_a_rerun_of_a_finished_curation_makes_nothing(curated, monkeypatch):
    *_, run, standing, sweep, entry = curated[1:]
    from gristmill.pipeline.records.store import Store

    journal = len(run.store.computed())
    again = walked(run)
    assert [e.key for e in again.entries] == [e.key for e in standing.entries]
    assert sweep.run(again).key == entry.key
    assert len(run.store.computed()) == journal
    assert isinstance(run.store, Store)


def test_another_reward_model_is_another_curation(curated):
    some, _, run, standing, *_ = curated
    from dataclasses import replace

    other = replace(run, models=replace(run.models, name="another embedder"))
    assert other.start().key != standing.entries[0].key


def test_a_near_duplicate_of_a_gold_pair_is_never_trained_on(store):
    words = " ".join(f"w{n}" for n in range(40))
    some = world(60, flips=0.0, seed=3)
    rows = [record(f"{words} {end}", f"{words} good", f"{words} bad") for end in ("one", "two")]
    for row in rows:
        some.truth[row["id"]] = "chosen"
        for part in ("prompt", "chosen", "rejected"):
            some.vectors[row[part][0]["content"]] = np.ones(8) / np.sqrt(8)
    some.pairs = pl.concat([some.pairs, pl.DataFrame(rows, schema=PAIR)])
    pool = some.pool(store)
    one, two = (r["id"] for r in rows)
    assert pool.like([one]) == {two}
    assert pool.like([i for i in pool.ids if i not in (one, two)]) == set()


def test_without_judges_pairs_keep_the_label_that_they_came_with(store):
    some = world(120, flips=0.2, seed=4)
    standing = walked(stage1(some, store, start_people=20, start_labels=20, labels=10, people=2))
    silver = standing.labels.filter(pl.col("origin") == "given")
    assert set(silver["label"]) == {"chosen"}
    assert silver.height == 20 + 2 * 8


def test_a_start_that_people_cannot_decide_is_refused(store):
    some = world(30, seed=5)
    run = stage1(some, store)

    class Undecided(Simulated):
        def judgements(self, items, why):
            return super().judgements(items, why).with_columns(judgement=pl.lit("tie"))

    from dataclasses import replace

    with pytest.raises(ValueError, match="people decided none of the first 30 pairs"):
        replace(run, people=Undecided(truth=some.truth)).start()
