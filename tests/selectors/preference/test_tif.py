"""TIF by differences: the central difference is the exact influence; copies made once"""

import json
from dataclasses import replace

import numpy as np
import pytest
from ingested import dataset
from preference_runs import pair
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Frames, Given
from gristmill.pipeline.finetune.dpo import Dpo
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import load
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.observe.observe import observe
from gristmill.pipeline.prepare.prepare import prepare
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.signals.pair_signals import (
    Objective,
    log_probs,
)
from gristmill.selectors.preference._finite_differences import (
    ABOUT,
    FiniteDifferenceCopies,
    mean_gradient,
)
from gristmill.selectors.preference.tif import Tif


@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_the_central_difference_is_the_exact_influence(store, tuned, objective):
    loss = Objective(name=objective, beta=0.5)
    losses = {"dpo": "sigmoid", "simpo": "simpo"}
    recipe = FiniteDifferenceCopies(settings=Dpo(loss=losses[objective], beta=0.5))
    found = prepare([recipe], tuned)
    models, made = found.models, found.prepared
    assert len(made["proxy"].references) == 2
    about = json.loads((resolve(models.roles["proxy"][0], store).path.parent / ABOUT).read_text())
    assert about["epsilon"] * about["norm"] ** 2 == pytest.approx(0.005)
    # the copies' files name the folder of their base; what keys see of them does not
    assert found.artifacts["perturbation"].content == digest(about)
    passes = Passes(device="cpu")
    scorer = Tif(by="difference", objective=loss, warm_up=None)
    scorer = scorer.with_given(Given(artifacts=found.artifacts))
    assert scorer.step == about["epsilon"]
    context = RunContext(models=models, passes=passes)
    pool = observe(context, tuned.pool, scorer.signals, facts=scorer.facts)
    found = scorer.score(pool, Frames(parts=(tuned.reference.frame(["id"]),)))
    # one pair at a time by plain backward passes
    known = {
        name: observe(
            RunContext(models=models, passes=passes), rows, log_probs("reference")
        ).frame()
        for name, rows in (("pool", tuned.pool), ("targets", tuned.reference))
    }
    loaded = load(models.files("target")[0], device="cpu", dtype="float32")
    weights = [p for n, p in loaded.model.named_parameters() if "lora_" in n]

    def gradient(frame, tie):
        for p in weights:
            p.requires_grad_(True)
            p.grad = None
        mean_gradient(loaded, frame, tie if loss.reads_reference else None, loss)
        return np.concatenate([p.grad.numpy().ravel() for p in weights]).astype(float)

    columns = ["id", "prompt", "chosen", "rejected", "tools"]
    g_v = gradient(tuned.reference.frame(columns), known["targets"])
    rows = tuned.pool.frame(columns)
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
        for rows in (tuned.pool, tuned.reference)
    ]
    projected = by_gradient.score(*seen)
    near_N = np.array([exact[i] for i in projected["id"]])
    assert np.corrcoef(projected["score"], near_N)[0, 1] > 0.95


def test_perturbed_models_are_made_once_and_alike(store, tuned, tmp_path):
    first = prepare([FiniteDifferenceCopies()], tuned).models
    before = len(store.computed())
    assert prepare([FiniteDifferenceCopies()], tuned).models.roles == first.roles
    assert len(store.computed()) == before
    with pytest.raises(ValueError, match="has no influence here; choose of hinge, sigmoid, simpo"):
        prepare([FiniteDifferenceCopies(settings=Dpo(loss="ipo"))], tuned)
    long = "x" * 1_100  # beyond the tiny model's context
    alike = dataset(store, tmp_path, "alike", [pair(chosen=long + "a", rejected=long + "b")])
    with pytest.raises(ValueError, match="none of the 1 validation pairs can be shown"):
        prepare([FiniteDifferenceCopies()], replace(tuned, reference=alike))
