"""Models that pair methods need: a reference kept, halves, annotators"""

from dataclasses import replace

import pytest
from preference_runs import (
    QUICK,
)
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.contracts import Prepared
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.prepare.preference import Halves, Kept, PairTuned, RewardTuned, half_of
from gristmill.pipeline.prepare.prepare import prepare
from gristmill.pipeline.records.dataset import unique_ids


def test_the_reference_is_kept_before_the_target_moves_on(store, tiny, tuned):
    start = replace(tuned, models=Models(store=store, roles={"target": (str(tiny),)}))
    recipes = (
        Kept(),
        PairTuned(role="target", on="pool", most=8, settings=QUICK),
        PairTuned(settings=QUICK),
    )
    found = prepare(recipes, start)
    models, made = found.models, found.prepared
    assert models.roles["reference"] == (str(tiny),)
    assert models.files("target")[0].layout == "adapter"
    assert models.roles["validation"] != models.roles["target"]
    assert set(made) == {"reference", "target", "validation"}
    own = replace(start, models=start.models.bind("reference", ("elsewhere",)))
    assert prepare(recipes[:1], own).models.roles["reference"] == ("elsewhere",)


def test_halves_are_trained_on_what_the_scorer_thinks(store, tuned, monkeypatch):
    seen = []

    def train(settings, base, frame, context):
        seen.append(set(frame["id"]))
        return Prepared(references=(f"m{len(seen)}",), weights=(1.0,))

    monkeypatch.setattr("gristmill.pipeline.prepare.preference._tuned", train)
    made = Halves(seeds=(41, 42)).make(tuned)
    assert made.references == ("m1", "m2", "m3", "m4")
    ids = set(unique_ids(tuned.pool))
    for s, seed in enumerate((41, 42)):
        for half in (0, 1):
            assert seen[2 * s + half] == {i for i in ids if half_of(i, seed) == half}
        assert seen[2 * s] | seen[2 * s + 1] == ids
    alone = Halves(seeds=tuple(range(40)))
    monkeypatch.setattr("gristmill.pipeline.prepare.preference.unique_ids", lambda _: ["a", "b"])
    with pytest.raises(ValueError, match="2 pairs cannot be cut in two halves"):
        alone.make(tuned)


def test_an_annotator_is_trained_on_a_share_or_on_the_targets(tuned, monkeypatch):
    seen = []

    def train(frame, *rest, **more):
        seen.append(frame.height)
        raise LookupError

    monkeypatch.setattr("gristmill.pipeline.prepare.preference.train_reward", train)
    for context in (tuned, replace(tuned, reference=None)):
        with pytest.raises(LookupError):
            RewardTuned(share=0.3).make(context)
    assert seen == [6, round(0.3 * 14)]
