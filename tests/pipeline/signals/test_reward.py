"""A reward model is observed as it scores"""

import numpy as np
import pytest
from ingested import dataset
from preference_runs import QUICK
from rows import pair_rows
from tolerances import LOG_PROB
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.finetune import data
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.reward import Reward, load_reward, rewards, train_reward
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load_tokenizer
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.signals.pair_signals import (
    VIEWS,
)
from gristmill.pipeline.signals.reward import RewardScore


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
    signals = [RewardScore(view=view) for view in VIEWS]
    seen = observe(
        RunContext(models=models, passes=Passes(device="cpu", max_length=128)), pool, signals
    )
    both = asked.join(seen.frame(), on="id")
    for side, signal in zip(("chosen", "rejected"), signals, strict=True):
        np.testing.assert_allclose(both[signal.column], both[side], atol=LOG_PROB)
    plain = Models(store=store, roles={"reward": (str(tiny),)})
    with pytest.raises(ValueError, match="has no reward head"):
        observe(RunContext(models=plain, passes=Passes(device="cpu")), pool, signals)
