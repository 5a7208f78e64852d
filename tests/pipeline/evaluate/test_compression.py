"""Compression: what says the same goes, searches find the best, estimates hold on other models."""

import itertools
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from colours import TASK
from rows import write_jsonl
from scipy.stats import kendalltau, rankdata

from gristmill.pipeline.evaluate.compression.agreement import agreement, figures_of
from gristmill.pipeline.evaluate.compression.compress import Compression, compress, split
from gristmill.pipeline.evaluate.compression.genetic import Genetic, bred
from gristmill.pipeline.evaluate.compression.matrix import of_evaluations, of_table
from gristmill.pipeline.evaluate.compression.search import (
    by_answers,
    by_expectation,
    distinct,
    swapped,
)
from gristmill.pipeline.evaluate.compression.subset import Subset
from gristmill.pipeline.evaluate.compression.weights import equal, learned
from gristmill.pipeline.evaluate.evaluation import Evaluation, TaskChoice, evaluate
from gristmill.pipeline.evaluate.tasks import evaluate_tasks
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.numerics.ranks import spearman
from gristmill.pipeline.numerics.spline import fitted, slopes

FEW = Genetic(population=30, elite=4, generations=20)
QUICK = Compression(items=30, restarts=2, genetic=replace(FEW, generations=5, rounds=1))


def answers(models, items, seed, copies=1):
    """Right and wrong answers by a two-parameter logistic model."""
    draw = np.random.default_rng(seed)
    skill, hard = draw.normal(size=(models, 1)), draw.normal(size=items)
    steep = draw.lognormal(0, 0.5, size=items)
    return (draw.random((models, items)) < 1 / (1 + np.exp(-steep * (skill - hard)))).astype(float)


def matrix(value_MN):
    models, items = np.indices(value_MN.shape)
    table = {"model": models.ravel(), "item": items.ravel(), "value": value_MN.ravel()}
    named = pl.DataFrame(table).with_columns(
        pl.format("m{}", pl.col("model").cast(pl.String).str.zfill(4)).alias("model"),
        pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(4)).alias("item"),
    )
    return of_table(named, "sums")


# ------------------------------------------------------------------------------------- the curve


def test_a_straight_line_is_met_and_goes_on_beyond_the_points():
    x = np.linspace(0.3, 0.6, 12)
    curve = fitted(x, 0.2 + 0.7 * x)
    assert curve([0.05, 0.45, 0.95]) == pytest.approx([0.235, 0.515, 0.865], abs=1e-6)
    height, slope = slopes(x, np.stack([x, 1 - 2 * x], axis=1))
    np.testing.assert_allclose(height, np.stack([x, 1 - 2 * x], axis=1), atol=1e-6)
    np.testing.assert_allclose(slope, np.tile([1, -2], (12, 1)), atol=1e-5)
    wave = np.sin(6 * np.linspace(0, 1, 200))
    assert fitted(np.linspace(0, 1, 200), wave)(np.linspace(0, 1, 200)) == pytest.approx(
        wave, abs=0.1
    )


# ---------------------------------------------------------------------------------- what goes first


def test_of_twenty_noisy_copies_one_stays_and_what_all_answer_alike_goes():
    draw = np.random.default_rng(0)
    latent = draw.random((80, 10))
    copies = np.repeat(latent, 20, axis=1) + 0.01 * draw.normal(size=(80, 200))
    value = np.concatenate([copies, np.ones((80, 5))], axis=1)
    kept = distinct(value, 2, alike=0.95)
    assert (kept // 20).tolist() == list(range(10))
    assert (kept % 20 == 0).all(), "the first of each"
    assert len(distinct(value, 30, alike=0.95)) == 30, "no fewer than are asked for"
    texts = np.eye(10)[[0, 0, *range(2, 10)]]
    two = distinct(latent, 2, alike=0.95, vector_ND=texts, text_alike=0.95)
    assert two.tolist() == [0, *range(2, 10)]


# ------------------------------------------------------------------------------------- the search


def searches(seed, fitness_of):
    value = answers(30, 14, seed)
    whole = answers(30, 200, seed).mean(axis=1)
    fitness = fitness_of(value, whole)
    best = min(
        float(fitness.masks(np.isin(np.arange(14), some)[None])[0])
        for some in itertools.combinations(range(14), fitness.k)
    )
    draw = np.random.default_rng(seed)
    swaps = swapped(fitness, np.arange(14), restarts=6, swaps=50, draw=draw)
    return fitness, best, swaps, draw


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "fitness_of",
    [
        lambda v, w: by_answers(v, w, fitted(v.mean(axis=1), w), 5),
        lambda v, w: by_answers(v / 2 + 0.1, w, fitted(v.mean(axis=1), w), 5),
        lambda v, w: by_expectation(v, w, 5),
    ],
)
def test_searches_find_the_best_of_all_subsets(seed, fitness_of):
    fitness, best, swaps, draw = searches(seed, fitness_of)
    assert len(swaps.items) == 5
    assert swaps.error == pytest.approx(best, abs=1e-12)
    again = float(fitness.masks(np.isin(np.arange(14), swaps.items)[None])[0])
    assert swaps.error == pytest.approx(again, abs=1e-12)
    found = bred(fitness, np.arange(14), FEW, draw)
    assert found.error == pytest.approx(best, rel=0.2)
    assert bred(fitness, np.arange(14), FEW, draw, start=[swaps]).error == swaps.error


def test_the_expected_error_ranks_subsets_as_new_models_do():
    """Item curves are of some models; what a subset's estimate is off by shows on others."""
    value = answers(700, 300, 5)
    whole = value.mean(axis=1)
    old, new = slice(0, 300), slice(300, None)
    fitness = by_expectation(value[old], whole[old], 25)
    told = [np.corrcoef(value[old][:, i], whole[old])[0, 1] for i in range(300)]
    expected, shown = [], []
    for items in np.array_split(np.argsort(told), 12):  # from dull to sharp items
        expected.append(float(fitness.masks(np.isin(np.arange(300), items)[None])[0]))
        off = equal(value[old][:, items], whole[old])(value[new][:, items]) - whole[new]
        shown.append(float(np.sqrt((off**2).mean())))
    assert spearman(expected, shown) > 0.9
    assert expected[-1] == pytest.approx(shown[-1], rel=0.25)


# ----------------------------------------------------------------------------------------- the verb


def test_models_are_split_in_three_with_weak_and_strong_ones_in_each():
    given = matrix(answers(50, 40, 1))
    parts = split(given, Compression())
    every = np.concatenate([parts.train, parts.held_out, parts.report])
    assert sorted(every) == list(range(50))
    assert (len(parts.held_out), len(parts.report)) == (4, 10)
    means = [given.whole_M[p].mean() for p in (parts.train, parts.held_out, parts.report)]
    assert np.ptp(means) < 0.06
    assert not np.array_equal(parts.report, split(given, Compression(seed=1)).report)


@pytest.fixture(scope="module")
def chosen():
    return compress(matrix(answers(150, 400, 2)), QUICK)


def test_items_keep_the_order_of_models_better_than_random_ones(chosen):
    subset, even, drawn = chosen.figures
    assert (subset["form"], subset["items"], subset["models"]) == ("subset", 30, 30)
    for other in (even, drawn):
        assert subset["kendall"] > other["kendall"]
        assert subset["rmse"] < 0.85 * other["rmse"]
        assert subset["near"] >= other["near"]
    assert subset["kendall_low"] <= subset["kendall"] <= subset["kendall_high"]


def test_the_same_answers_give_the_same_file(chosen, tmp_path):
    given = matrix(answers(150, 400, 2))
    again = compress(given, QUICK)
    for name, found in (("a", chosen), ("b", again)):
        found.save(tmp_path / f"{name}.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    read = Subset.load(tmp_path / "a.json")
    assert read.ids == chosen.ids
    assert read.notes == list(chosen.notes)
    model = pl.DataFrame({"id": given.items["id"], "value": given.value_MN[0]})
    interval = read.estimated(model)
    assert interval == chosen.estimated(model)
    assert interval.low < given.whole_M[0] < interval.high
    with pytest.raises(ValueError, match="1 of 30 items of the subset of 'sums' have no answer"):
        read.estimated(model.filter(pl.col("id") != read.ids[3]))
    (tmp_path / "c.json").write_text('{"items": []}')
    with pytest.raises(ValueError, match="is no subset of a task"):
        Subset.load(tmp_path / "c.json")


def test_all_items_leave_no_error():
    found = compress(matrix(answers(40, 12, 3)), replace(QUICK, items=12))
    assert found.figures[0]["rmse"] == pytest.approx(0, abs=1e-3)
    assert found.figures[0]["kendall"] == pytest.approx(1)


def test_learned_weights_are_refused_where_they_are_no_better():
    """Chance answers alone: there is nothing to learn. A planted mixture: there is."""
    draw = np.random.default_rng(0)
    value = draw.random((60, 20)).round()
    assert learned(value, value @ draw.random(20) / 20)(value) is not None
    chance = compress(matrix(answers(60, 100, 4)), replace(QUICK, items=20, weights="learned"))
    note = chance.notes[-1]
    assert ("refused" in note) != chance.estimate.learned
    level = draw.random((80, 1))
    # a fifth of the items is noise, which weights can leave out and equal ones cannot
    told = (draw.random((80, 60)) < level).astype(float)
    noise = (draw.random((80, 15)) < 0.5).astype(float)
    mixed = np.concatenate([told[:, :10], noise], axis=1)
    off = [f(mixed[:50], level[:50, 0])(mixed[50:]) - level[50:, 0] for f in (equal, learned)]
    assert (off[1] ** 2).mean() < (off[0] ** 2).mean()


def test_a_few_models_have_wide_intervals():
    whole = np.linspace(0.2, 0.8, 9)
    found = agreement([f"m{i}" for i in range(9)], whole[[1, 0, *range(2, 9)]], whole)
    assert found.kendall.value == pytest.approx(1 - 2 / 36)
    assert found.kendall.low < found.kendall.value <= found.kendall.high == pytest.approx(1)
    assert found.near.value == pytest.approx(7 / 9)
    assert agreement(["a", "b"], np.array([0.5, 0.5]), np.array([0.2, 0.4])).kendall.value == 0


def test_figures_of_resamples_are_those_of_the_rows_written_out():
    draw = np.random.default_rng(0)
    estimate, whole = draw.random(12).round(1), draw.random(12).round(1)  # with ties
    count = draw.integers(0, 3, size=(12, 5)).astype(float)
    found = figures_of(estimate, whole, count)
    for r in range(5):
        x, y = (np.repeat(v, count[:, r].astype(int)) for v in (estimate, whole))
        assert found["kendall"][r] == pytest.approx(kendalltau(x, y).statistic)
        assert found["rmse"][r] == pytest.approx(100 * np.sqrt(((x - y) ** 2).mean()))
        near = np.abs(rankdata(x) - rankdata(y)) <= 0.05 * len(x)
        assert found["near"][r] == pytest.approx(near.mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": [0.5] * 19 + [2.0]}, "have no value from 0 to 1, first that of model m9"),
        ({"model": ["m0"] * 20}, "answers item i0 more than once"),
        ({"item": [f"i{k}" for k in range(20)]}, "answered 2 of 20 items"),
        ({"model": [f"m{k // 4}" for k in range(20)], "item": [f"i{k % 4}" for k in range(20)]},
         "5 models answered 'sums'; a search takes 8 or more"),
    ],
)  # fmt: skip
def test_tables_that_are_no_matrix_are_refused(change, message):
    table = {
        "model": [f"m{k // 2}" for k in range(20)],
        "item": [f"i{k % 2}" for k in range(20)],
        "value": [1.0] * 20,
    }
    with pytest.raises(ValueError, match=message):
        of_table(pl.DataFrame({**table, **change}), "sums")
    with pytest.raises(ValueError, match="lacks the columns value"):
        of_table(pl.DataFrame(table).drop("value"), "sums")
    with pytest.raises(ValueError, match="'sums' has 2 items; found items=30"):
        compress(of_table(pl.DataFrame(table), "sums"), QUICK)


# ------------------------------------------------------------------------------------ an evaluation


def test_an_evaluation_asks_the_subset_and_tells_what_it_says_of_all(tiny, store, tmp_path):
    (tmp_path / "colours.yaml").write_text(TASK)
    rows = [{"query": f"Colour {n}?", "choices": ["red", "green"], "gold": n % 2} for n in range(8)]
    write_jsonl(tmp_path / "colours.jsonl", rows)
    names = (str(tmp_path / "colours.yaml"),)
    passes = Passes(device="cpu")
    ask = {"data": tmp_path, "passes": passes}
    whole = evaluate_tasks(names, str(tiny), store, **ask)["colours"]
    draw = np.random.default_rng(0)
    for k in range(12):  # as if so many models had answered
        folder = tmp_path / f"m{k:02d}"
        folder.mkdir()
        right = (draw.random(8) < (k + 1) / 14).astype(float)
        whole.items.with_columns(value=pl.Series(right)).write_parquet(folder / "tasks.parquet")
        told = {"tasks": {"colours": {"made_of": dict(whole.made_of)}}}
        (folder / "summary.json").write_text(json.dumps(told))
    folders = [tmp_path / f"m{k:02d}" for k in range(12)]
    given = of_evaluations(folders, "colours")
    assert given.items["row"].to_list() == list(range(8))
    subset = compress(given, replace(QUICK, items=3))
    assert subset.rows == tuple(sorted(subset.rows))
    context = RunContext(models=Models(store=store, roles={"target": (str(tiny),)}), passes=passes)
    choice = TaskChoice(names=names, data=tmp_path, subsets={"colours": subset})
    found = evaluate(context, Evaluation(model=str(tiny), tasks=choice))
    asked = found.items["tasks"]
    assert asked["row"].to_list() == list(subset.rows)
    same = whole.items.filter(pl.col("row").is_in(subset.rows))
    assert asked.select("id", "value", "prompts").equals(same.select("id", "value", "prompts"))
    lines = found.lines.select("measure", "set", "items").rows()
    assert lines == [("task", "colours", 3), ("task, estimated", "colours", 8)]
    right = subset.estimate(asked["value"].to_numpy()[None])[0]
    assert found.lines["value"][1] == pytest.approx(right)
    again = evaluate_tasks(names, str(tiny), store, **ask)["colours"]
    assert again.items.height == 8, "another step of the store"

    def refused(change, message, **more):
        subsets = {"colours": replace(subset, **change)}
        with pytest.raises(ValueError, match=message):
            evaluate_tasks(names, str(tiny), store, subsets=subsets, **ask, **more)

    refused({}, "a subset names its items: leave the limit out", limit=2)
    refused({"rows": ()}, "names no rows of the task's data file")
    refused({"made_of": {}}, "made with another version of the task, or other data")
    with pytest.raises(ValueError, match="the subset is of the task 'other', which is not asked"):
        evaluate_tasks(names, str(tiny), store, subsets={"other": subset}, **ask)
    with pytest.raises(ValueError, match="is no evaluation with tasks"):
        of_evaluations([tmp_path], "colours")
    with pytest.raises(ValueError, match="did not ask the task 'gsm8k'; it asked colours"):
        of_evaluations(folders, "gsm8k")
