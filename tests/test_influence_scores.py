"""Gradient cosine, TracIn and LESS: golden numbers, tasks, checkpoints, rows without a gradient."""

import logging

import numpy as np
import polars as pl
import pytest
from influence_frames import gradients, ids, values

from gristmill.pipeline.prepare.prepare import WarmUp
from gristmill.pipeline.selection.rules.round_robin import RoundRobin
from gristmill.pipeline.signals.gradient_signals import ProjectedGradient
from gristmill.selectors.influence.gradient_cosine import GradientCosine
from gristmill.selectors.influence.less import Less
from gristmill.selectors.influence.tracin import Tracin

TARGETS, POOL = [[4.0, 0], [0, 1]], [[1.0, 0], [1, 1]]  # influence.md 1.8
RATES = (0.4219, 0.3215, 0.1926, 0.0640)  # LESS's


def run(scorer, pool, targets, **how):
    tasks = how.pop("tasks", None)
    return scorer.score(
        gradients([pool], scorer.signals[0], **how),
        gradients([targets], scorer.reference_signals[0], prefix="t", tasks=tasks),
    )


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


def test_checkpoints_are_summed_by_their_learning_rates():
    draw = np.random.default_rng(0)
    pool, target = draw.normal(size=(4, 7, 5)), draw.normal(size=(4, 3, 5))
    for scorer in (Less(), Tracin()):
        scored = scorer.score(
            gradients(pool, scorer.signals[0], weights=RATES, blocks=3),
            gradients(target, scorer.reference_signals[0], prefix="t", weights=RATES),
        )
        expected = np.zeros(7)
        for weight, x, y in zip(RATES, pool, target, strict=True):
            product = x @ y.T
            if isinstance(scorer, Less):
                product /= np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
            expected += weight * product.mean(1)
        assert np.allclose(values(scored), expected / sum(RATES), rtol=1e-3)
    own = sum(w * np.square(x).sum(1) for w, x in zip(RATES, pool, strict=True))
    assert np.allclose(values(scored, "score_self"), own, rtol=1e-6)
    assert "score_target_all" not in scored.columns


def test_tracin_is_the_first_order_drop_of_the_target_loss():
    draw = np.random.default_rng(1)
    x, y, x_test, y_test = draw.normal(size=(30, 4)), draw.normal(size=30), draw.normal(size=4), 0.7
    theta = draw.normal(size=4)
    loss = lambda at: (x_test @ at - y_test) ** 2 / 2  # noqa: E731
    steps = (x @ theta - y)[:, None] * x
    scored = run(Tracin(), steps, [(x_test @ theta - y_test) * x_test])
    rate = 1e-5
    drop = [(loss(theta) - loss(theta - rate * g)) / rate for g in steps]
    assert np.allclose(values(scored), drop, atol=1e-3)


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
    many = gradients([np.ones((70, 2))], signal, prefix="t", tasks=ids(70, "task"))
    assert scorer.score(pool, many).columns == ["id", "score", "reason"]


def test_less_reads_adams_step_of_the_pool_and_plain_gradients_of_targets():
    less = Less(update="adam_eps_inside", projection="dense_jl", size=64)
    (pool,), (target,) = less.signals, less.reference_signals
    assert isinstance(pool, ProjectedGradient)
    assert (pool.update, target.update) == ("adam_eps_inside", "plain")
    assert pool.of == target.of
    # one random matrix: all that draws it is equal
    draws = [(s.projection, s.size, s.seed) for s in (pool, target)]
    assert draws[0] == draws[1]
    (warm,) = less.recipes
    assert isinstance(warm, WarmUp)
    lora, training = warm.lora, warm.training
    assert (lora.rank, lora.alpha, lora.dropout) == (128, 512, 0.1)
    assert lora.targets == ("attention",)
    assert (training.epochs, training.batch_size, training.learning_rate) == (4, 128, 2e-5)
    assert (training.warmup, training.schedule, training.checkpoints) == (0.03, "linear", "epoch")
    assert warm.share == 0.05
    assert Tracin().recipes == Less().recipes, "one warm-up serves both"


def test_no_method_needs_a_task_column():
    scorer = GradientCosine()
    (signal,) = scorer.signals
    frame = gradients([TARGETS], signal, prefix="t").frame()
    bare = type(gradients([POOL], signal))(
        parts=(frame.with_columns(source=pl.lit(None, pl.String)),)
    )
    assert "score_target_target" in scorer.score(gradients([POOL], signal), bare).columns
