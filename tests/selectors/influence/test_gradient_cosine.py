"""Gradient cosine: golden aggregations, tasks, planted labels, rows without a gradient"""

import dataclasses
import logging

import numpy as np
import polars as pl
import pytest
import torch
from influence_frames import gradients, ids, run, values
from torch import nn
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Frames
from gristmill.pipeline.models.gradients.hooks import row_gradients
from gristmill.pipeline.models.gradients.layout import Layout
from gristmill.pipeline.models.gradients.projections import Full
from gristmill.pipeline.numerics.similarity import task_scores, task_vectors
from gristmill.pipeline.selection.rules.round_robin import RoundRobin
from gristmill.selectors.influence.gradient_cosine import GradientCosine
from gristmill.selectors.influence.less import Less
from gristmill.selectors.influence.tracin import Tracin

# AUROC of clean over mislabelled rows, mean of 5 draws
AREAS = {
    3: (0.93, 0.93, 0.92, 0.31),
    40: (0.87, 0.74, 0.70, 0.07),
    150: (0.83, 0.63, 0.60, 0.05),
}


def areas(seed, steps):
    draw = np.random.default_rng(seed)
    truth = draw.normal(size=(5, 10))
    warm, clean, bad = (draw.normal(size=(n, 10)) for n in (100, 300, 300))
    shift, target = draw.integers(4, size=300), draw.normal(size=(100, 10))
    label = lambda x: (x @ truth.T).argmax(1)  # noqa: E731
    net = nn.Sequential(nn.Linear(10, 5, bias=False)).double()
    with torch.no_grad():
        net[0].weight.zero_()

    def gradients(x, y):
        inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
        loss = lambda: nn.functional.cross_entropy(net(inputs), labels, reduction="sum")  # noqa: E731
        return row_gradients(net, loss, Layout(shape=(len(x),), rows=len(x)), Full())[0].numpy()

    for _ in range(steps):
        step = gradients(warm, label(warm)).mean(0).reshape(5, 10)
        with torch.no_grad():
            net[0].weight -= 0.5 * torch.from_numpy(step)
    pool = np.concatenate([clean, bad])
    x = gradients(pool, np.concatenate([label(clean), (label(bad) + 1 + shift) % 5]))
    y = gradients(target, label(target))
    scores = []
    for similarity, aggregation in (
        ("cosine", "mean_of_cosines"),
        ("cosine", "mean_gradient"),
        ("inner", "mean_gradient"),
    ):
        how = {"similarity": similarity}
        _, vectors = task_vectors(y, ["t"] * 100, aggregation=aggregation, **how)
        scores.append(task_scores([x], vectors, **how)[:, 0])
    scores.append(np.linalg.norm(x, axis=1))
    return [(s[:300, None] > s[300:]).mean() for s in scores]


@pytest.mark.parametrize("steps", AREAS)
def test_golden_areas_of_planted_labels(steps):
    mean = np.mean([areas(seed, steps) for seed in range(5)], axis=0)
    # two published digits
    assert mean == pytest.approx(AREAS[steps], abs=0.006)


TARGETS, POOL = [[4.0, 0], [0, 1]], [[1.0, 0], [1, 1]]  # influence.md 1.8


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("mean_of_cosines", [0.5, 0.70710678]), ("mean_gradient", [0.97014250, 0.85749293])],
)
@pytest.mark.parametrize("method", [GradientCosine, Less])
def test_golden_aggregations(method, aggregation, expected):
    scored = run(method(aggregation=aggregation), POOL, TARGETS)
    assert np.allclose(values(scored), expected)
    assert np.allclose(values(run(Tracin(), POOL, TARGETS)), [2, 2.5])


def test_tasks_are_named_by_the_data_and_reduced():
    tasks = ["sums", "sums", None, "law"]
    targets = [[1.0, 0], [1, 1], [0, 1], [-1, 0]]
    pool = [[2.0, 0], [0, 3], [-1, -1], [1, 2]]
    scored = run(GradientCosine(), pool, targets, tasks=tasks)
    parts = [c for c in scored.columns if c.startswith("score_target_")]
    assert parts == ["score_target_file.jsonl", "score_target_law", "score_target_sums"]
    matrix = scored.sort("id").select(parts).to_numpy()
    root = np.sqrt(0.5)
    assert np.allclose(matrix[0], [0, -1, (1 + root) / 2])
    assert np.allclose(values(scored), matrix.max(1))
    mean = run(GradientCosine(reduce="mean"), pool, targets, tasks=tasks)
    assert np.allclose(values(mean), matrix.mean(1))
    order = RoundRobin().order(scored.sort("id").with_columns(cost=1), 4)["index"].to_list()
    # the source's best is the second row, law's the third, sums' the first
    assert order == [1, 2, 0, 3]


def test_similarity_and_row_loss_are_settings():
    scale = np.array([[1.0], [3.0]])
    cosine = run(GradientCosine(), POOL, TARGETS)
    assert np.allclose(values(run(GradientCosine(), POOL * scale, TARGETS)), values(cosine))
    inner = GradientCosine(similarity="inner")
    grown = values(run(inner, POOL * scale, TARGETS)) / values(run(inner, POOL, TARGETS))
    assert np.allclose(grown, [1, 3])
    assert GradientCosine(loss="sum").signals[0].of.loss == "sum"
    assert GradientCosine(layers="lora").signals[0].of.layers == "lora"
    assert GradientCosine(role="proxy").signals[0].role == "proxy"


def test_rows_without_a_gradient_have_no_score_and_disturb_nobody():
    pool = np.array([[1.0, 0], [9, 9], [0, 0], [1, 1]])
    scored = run(GradientCosine(), pool, TARGETS, nulls=(1,), blocks=4).sort("id")
    assert scored["reason"].to_list() == [None, None, "zero_gradient", None]
    assert scored["score"].is_null().to_list() == [False, True, True, False]
    assert np.allclose(scored["score"].drop_nulls(), [0.5, 0.70710678])
    inner = run(Tracin(), pool, TARGETS, nulls=(1,)).sort("id")
    assert inner["score"].to_list() == [2.0, None, 0.0, 2.5]
    assert inner["score_self"].to_list() == [1.0, None, 0.0, 2.0]
    nothing = run(GradientCosine(), pool, TARGETS, nulls=(0, 1, 2, 3))
    assert nothing["score"].null_count() == 4


def test_targets_that_cannot_be_used(caplog):
    scorer = GradientCosine()
    (signal,) = scorer.signals
    pool = gradients([POOL], signal)
    with pytest.raises(ValueError, match="none of the 2 rows of the reference set has a gradient"):
        scorer.score(pool, gradients([TARGETS], signal, nulls=(0, 1)))
    with caplog.at_level(logging.WARNING):
        scorer.score(pool, gradients([TARGETS], signal, nulls=(0,)))
    assert "1 of 2 target rows have no gradient" in caplog.text
    two = gradients([TARGETS, TARGETS], signal, weights=(0.5, 0.5))
    with pytest.raises(ValueError, match="1 models and the reference set with 2"):
        scorer.score(pool, two)
    many = gradients([np.ones((1_025, 2))], signal, prefix="t", tasks=ids(1_025, "task"))
    assert scorer.score(pool, many).columns == ["id", "score", "reason"]
    assert "1,025 tasks: scores are not kept task by task beyond 1,024" in caplog.text


def test_no_method_needs_a_task_column():
    scorer = GradientCosine()
    (signal,) = scorer.signals
    frame = gradients([TARGETS], signal, prefix="t").frame()
    bare = type(gradients([POOL], signal))(
        parts=(frame.with_columns(source=pl.lit(None, pl.String)),)
    )
    assert "score_target_target" in scorer.score(gradients([POOL], signal), bare).columns


def test_a_target_row_of_two_tasks_counts_for_both():
    scorer = GradientCosine()
    twice = gradients([[[1.0, 0], [0, 1], [1.0, 0]]], scorer.signals[0], prefix="t", tasks="aab")
    frame = twice.frame().with_columns(id=pl.Series(["t0", "t1", "t0"]))

    @dataclasses.dataclass(frozen=True)
    class Copied(Frames):
        def frame(self):
            return super().frame().unique("id", keep="first", maintain_order=True)

        def copies(self):
            return super().frame()

    found = scorer.score(gradients([[[1.0, 0]]], scorer.signals[0]), Copied(parts=(frame,)))
    assert found["score_target_a"].to_list() == [0.5]
    assert found["score_target_b"].to_list() == [1.0]
    tracin = Tracin()
    frame = frame.rename({scorer.signals[0].column: tracin.signals[0].column})
    mean = tracin.score(gradients([[[2.0, 4]]], tracin.signals[0]), Copied(parts=(frame,)))
    assert mean["score"].to_list() == [3.0], "where tasks do not count, each row counts once"


def test_round_robin_takes_turns_among_a_hundred_tasks():
    draw = np.random.default_rng(0)
    pool, target = draw.normal(size=(300, 8)), draw.normal(size=(100, 8))
    names = [f"task{i:03d}" for i in range(100)]
    scored = run(GradientCosine(), pool, target, tasks=names)
    order = RoundRobin().order(scored.with_columns(cost=pl.lit(1)), 100)["index"][:100]
    assert len(set(order)) == 100
    assert order[0] == int(np.argmax(scored["score_target_task000"].to_numpy()))
