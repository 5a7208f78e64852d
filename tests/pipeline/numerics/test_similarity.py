"""Scores over features: golden numbers, brute force, planted truth, and blocks of any size."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from gristmill.pipeline.models.gradients.hooks import row_gradients
from gristmill.pipeline.models.gradients.layers import linear_layers
from gristmill.pipeline.models.gradients.layout import Layout
from gristmill.pipeline.models.gradients.projections import Full
from gristmill.pipeline.numerics.similarity import (
    from_half,
    over_checkpoints,
    over_tasks,
    round_robin,
    task_scores,
    task_vectors,
    to_half,
    unit,
)

# influence.md 1.8
TARGETS = np.array([[4.0, 0], [0, 1]])
POOL = np.array([[1.0, 0], [1, 1]])


def scored(pool, targets, tasks, **how):
    names, vectors = task_vectors(targets, tasks, **how)
    similarity = how.get("similarity", "cosine")
    return names, task_scores([pool], vectors, similarity=similarity)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("mean_of_cosines", [0.5, 0.70710678]), ("mean_gradient", [0.97014250, 0.85749293])],
)
def test_golden_aggregations_order_rows_differently(aggregation, expected):
    _, score = scored(POOL, TARGETS, ["t", "t"], aggregation=aggregation)
    assert np.allclose(score[:, 0], expected)


@pytest.mark.parametrize("similarity", ["cosine", "inner"])
@pytest.mark.parametrize("aggregation", ["mean_of_cosines", "mean_gradient"])
def test_scores_equal_their_definition(similarity, aggregation):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(9, 6)), draw.normal(size=(5, 6))
    tasks = ["b", "a", "b", "c", "b"]
    names, found = scored(x, y, tasks, similarity=similarity, aggregation=aggregation)
    assert names == ("a", "b", "c")

    def cos(u, v):
        return u @ v / np.sqrt(u @ u) / np.sqrt(v @ v)

    for i, (s, task) in itertools.product(range(9), enumerate(names)):
        group = [v for v, t in zip(y, tasks, strict=True) if t == task]
        if similarity == "inner":
            expected = np.mean([x[i] @ v for v in group])
        elif aggregation == "mean_of_cosines":
            expected = np.mean([cos(x[i], v) for v in group])
        else:
            expected = cos(x[i], np.mean(group, axis=0))
        assert np.isclose(found[i, s], expected)
    assert np.array_equal(over_tasks(found), found.max(1))
    assert np.allclose(over_tasks(found, "mean"), found.mean(1))


def test_blocks_of_any_size_and_type_give_the_same_scores():
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(50, 8)).astype(np.float32), draw.normal(size=(3, 8))
    _, vectors = task_vectors(y, ["a", "b", "a"])
    whole = task_scores([x], vectors)
    assert whole.dtype == np.float64
    for rows in (1, 7, 64):
        assert np.allclose(task_scores([x], vectors, rows=rows), whole, rtol=1e-12)
    assert np.allclose(task_scores(np.array_split(x, 6), vectors), whole, rtol=1e-12)
    assert task_scores([], vectors).shape == (0, 2)


def test_cosine_ignores_the_scale_of_a_row_and_the_inner_product_does_not():
    draw = np.random.default_rng(2)
    x, y = draw.normal(size=(5, 8)), draw.normal(size=(3, 8))
    scale = np.array([1, 2, 0.1, 30, 5])[:, None]
    assert np.allclose(scored(x * scale, y, ["t"] * 3)[1], scored(x, y, ["t"] * 3)[1])
    inner = scored(x * scale, y, ["t"] * 3, similarity="inner")[1]
    assert np.allclose(inner, scored(x, y, ["t"] * 3, similarity="inner")[1] * scale)


def test_a_row_without_a_direction_has_no_score():
    pool = np.array([[0.0, 0], [np.nan, 1], [1, 1]])
    _, score = scored(pool, TARGETS, ["t", "t"])
    assert np.isnan(score[:2]).all()
    assert np.isfinite(score[2]).all()
    assert scored(pool, TARGETS, ["t", "t"], similarity="inner")[1][0] == 0
    assert np.isnan(over_tasks(score)[0])


def test_checkpoints_are_weighted_by_their_mean_rates():
    rates = [1.6877e-5, 1.2859e-5, 7.7030e-6, 2.5616e-6]
    parts = [np.eye(4)[i : i + 1] for i in range(4)]
    assert np.allclose(
        over_checkpoints(parts, rates), [[0.4219, 0.3215, 0.1926, 0.0640]], atol=5e-5
    )
    with pytest.raises(ValueError, match="one rate above 0"):
        over_checkpoints(parts, rates[:3])
    with pytest.raises(ValueError, match="one rate above 0"):
        over_checkpoints(parts[:1], [0.0])


def slow_round_robin(score, ids):
    left, order = [i for i in range(len(score)) if np.isfinite(score[i]).all()], []
    while left:
        for s in range(score.shape[1]):
            if left:
                best = min(left, key=lambda i: (-score[i, s], ids[i]))
                left.remove(best)
                order.append(best)
    return order


def test_round_robin_takes_each_tasks_best_unused_row():
    draw = np.random.default_rng(3)
    for trial in range(20):
        score = draw.integers(0, 4, size=(15, 3)).astype(float)  # many ties
        score[trial % 15] = np.nan
        ids = [f"{i:03d}" for i in draw.permutation(15)]
        expected = slow_round_robin(score, ids)
        assert round_robin(score, ids).tolist() == expected
        assert round_robin(score, ids, picks=5).tolist() == expected[:5]
    assert round_robin(np.zeros((0, 2)), []).tolist() == []


def test_half_precision_storage_keeps_direction_and_norm_of_tiny_gradients():
    draw = np.random.default_rng(4)
    x = draw.normal(size=(4, 300)) * np.array([1e-9, 1e-3, 1e4, 0])[:, None]
    assert not x[:1].astype(np.float16).any()  # what storing raw gradients would do
    half, norm = to_half(x)
    assert half.dtype == np.float16
    back = from_half(half, norm)
    assert np.allclose(norm, np.linalg.norm(x, axis=1), rtol=1e-6)
    error = np.linalg.norm(back - x, axis=1)[:3] / np.linalg.norm(x, axis=1)[:3]
    assert error.max() < 1e-3
    assert not back[3].any()
    broken, _ = to_half(np.array([[np.inf, 1.0], [1, 1]]))
    assert np.isnan(broken[0]).all()
    assert np.isfinite(broken[1]).all()


def test_targets_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="as many of each"):
        task_vectors(TARGETS, ["t"])
    with pytest.raises(ValueError, match="1 of 2 target rows"):
        task_vectors(np.array([[1.0, np.nan], [1, 1]]), ["t", "t"])
    with pytest.raises(ValueError, match="zero has no direction"):
        task_vectors(np.array([[0.0, 0], [1, 1]]), ["t", "t"])
    with pytest.raises(ValueError, match="both must come from the same layers"):
        task_scores([np.ones((2, 3))], TARGETS)


def auroc(clean, bad):
    return float((clean[:, None] > bad).mean() + (clean[:, None] == bad).mean() / 2)


def planted(seed, steps):
    """AUROC of clean over mislabelled rows by method; influence.md 1.9."""
    draw = np.random.default_rng(seed)
    truth = draw.normal(size=(5, 10))
    warm, clean, bad = (draw.normal(size=(n, 10)) for n in (100, 300, 300))
    shift = draw.integers(4, size=300)
    target = draw.normal(size=(100, 10))
    label = lambda x: (x @ truth.T).argmax(1)  # noqa: E731
    net = nn.Sequential(nn.Linear(10, 5, bias=False)).double()
    weight = np.zeros((5, 10))
    for _ in range(steps):
        logits = warm @ weight.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(100), label(warm)] -= 1
        weight -= 0.5 * p.T @ warm / 100
    with torch.no_grad():
        net[0].weight.copy_(torch.from_numpy(weight))

    def gradients(x, y):
        inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
        loss = lambda: nn.functional.cross_entropy(net(inputs), labels, reduction="sum")  # noqa: E731
        layout = Layout(shape=(len(x),), rows=len(x))
        return row_gradients(net, loss, layout, Full(), layers=linear_layers(net))[0].numpy()

    pool = np.concatenate([clean, bad])
    labels = np.concatenate([label(clean), (label(bad) + 1 + shift) % 5])
    x, y = gradients(pool, labels), gradients(target, label(target))
    tasks = ["t"] * 100
    columns = {
        "mean_of_cosines": scored(x, y, tasks)[1][:, 0],
        "mean_gradient": scored(x, y, tasks, aggregation="mean_gradient")[1][:, 0],
        "norm": np.linalg.norm(x, axis=1),
    }
    return {name: auroc(c[:300], c[300:]) for name, c in columns.items()}


@pytest.mark.parametrize(("steps", "floor"), [(3, 0.9), (10, 0.9), (150, 0.78)])
def test_planted_labels_are_found_by_direction_and_not_by_norm(steps, floor):
    found = [planted(seed, steps) for seed in range(5)]
    mean = {name: np.mean([f[name] for f in found]) for name in found[0]}
    assert mean["mean_of_cosines"] > floor
    assert mean["norm"] < 0.4
    if steps == 150:  # an over-trained checkpoint loses the signal of the mean gradient first
        assert mean["mean_gradient"] < mean["mean_of_cosines"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unit_rows(dtype):
    x = np.array([[3, 4], [0, 0], [-1e-20, 0]], dtype=dtype)
    scaled = unit(x)
    assert scaled.dtype == dtype
    assert np.allclose(scaled, [[0.6, 0.8], [0, 0], [-1, 0]])
    marked = unit(x, zero=np.nan)
    assert marked.dtype == dtype
    assert np.isnan(marked).all(1).tolist() == [False, True, False]
    assert (marked[[0, 2]] == scaled[[0, 2]]).all()
    assert np.isnan(unit(np.array([[np.nan, 1.0]]), zero=np.nan)).all()
