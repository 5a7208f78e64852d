"""LESS: Adam's step of the pool against plain gradients of the targets"""

from gristmill.pipeline.prepare.prepare import WarmUp
from gristmill.pipeline.signals.gradient_signals import ProjectedGradient
from gristmill.selectors.influence.less import Less
from gristmill.selectors.influence.tracin import Tracin


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
    assert warm.share is None
    assert warm.taken(100_000) == 5_000
    assert Tracin().recipes == Less().recipes, "one warm-up serves both"
