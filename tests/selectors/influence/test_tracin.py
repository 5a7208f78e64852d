"""TracIn: checkpoints by their learning rates, and the first-order drop of the target loss"""

import numpy as np
from influence_frames import gradients, run, values

from gristmill.selectors.influence.less import Less
from gristmill.selectors.influence.tracin import Tracin

RATES = (0.4219, 0.3215, 0.1926, 0.0640)  # LESS's


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
