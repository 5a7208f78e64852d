"""Scoring with models that must be made first: roles, weights, keys, and what users are asked."""

import dataclasses
import importlib
from typing import ClassVar

import polars as pl
import pytest
from curation import walk_through
from rows import chat_rows, write_jsonl

from gristmill.flows.config import CurateConfig
from gristmill.flows.steps import open_store
from gristmill.pipeline.contracts import Frames, Scorer, asked_roles
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.load import loaded
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.prepare.prepare import ValidationTuned, WarmUp
from gristmill.pipeline.score.score import ScoreRun, ready, score
from gristmill.pipeline.signals.gradient_signals import Backward, ProjectedGradient

TRAINING = Training(epochs=2, batch_size=16, micro_batch=16, learning_rate=3e-3, max_length=128)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmedUp(Scorer):
    """The first number of each checkpoint's Adam features, and their weighted sum."""

    multi_model: ClassVar = True
    epochs: int = 2

    @property
    def signals(self):
        return (
            ProjectedGradient(of=Backward(layers="lora"), projection="sjlt", size=8, update="adam"),
        )

    @property
    def recipes(self):
        training = dataclasses.replace(TRAINING, epochs=self.epochs)
        return (WarmUp(training=training, lora=Lora(rank=2, alpha=4.0, dropout=0.0)),)

    def score(self, pool, reference=None):
        columns = pool.columns(self.signals[0])
        return pl.concat(
            block.select(
                "id",
                score=pl.sum_horizontal(w * pl.col(c).arr.get(0) for c, w in columns).cast(float),
                **{f"score_{k}": pl.col(c).arr.get(0) for k, (c, _) in enumerate(columns)},
            )
            for block in pool.blocks()
        )


@pytest.fixture
def run(store, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("gristmill.pipeline.prepare.prepare.SMALL", 0)  # keep both checkpoints
    path = write_jsonl(tmp_path / "pool.jsonl", chat_rows(30))
    return ScoreRun(
        scorer=WarmedUp(),
        dataset=ingest(store, [Source(path=str(path))], shard_rows=9),
        context=RunContext(
            models=Models(store=store, roles={"target": (str(tiny),)}), passes=Passes(device="cpu")
        ),
    )


def test_a_method_is_scored_with_the_checkpoints_that_its_recipe_makes(store, run):
    entry = score(run)
    frame = entry.frame()
    prepared = ready(run)
    first, second = prepared.models.weights("target")
    assert (first, second) != (0.5, 0.5)
    assert first + second == pytest.approx(1.0)
    mixed = first * frame["score_0"] + second * frame["score_1"]
    assert frame["score"].to_list() == pytest.approx(mixed.to_list())
    assert frame["score_0"].to_list() != frame["score_1"].to_list()
    assert frame["tokens"].null_count() == 0
    assert entry.note["prepared"] == list(prepared.notes)
    assert any("warm-up on 30 of 30 rows" in s for s in prepared.notes)
    before = (len(loaded()), len(store.computed()))
    assert score(run).key == entry.key
    assert (len(loaded()), len(store.computed())) == before
    other = dataclasses.replace(run, scorer=WarmedUp(epochs=1))
    assert score(other).key != entry.key


def test_checkpoints_bound_by_hand_count_by_their_learning_rates(store, run, tiny):
    made = ready(run).models
    by_hand = Models(store=store, roles={"target": made.roles["target"]})
    assert by_hand.weights("target") == pytest.approx(made.weights("target"))
    strangers = Models(store=store, roles={"target": (str(tiny), made.roles["target"][0])})
    assert strangers.weights("target") == (0.5, 0.5)


def test_a_curation_with_influence_methods_shares_warm_ups_and_tells_of_them(tmp_path, tiny):
    warm_up = {"rank": 4, "alpha": 8.0, "epochs": 1, "batch_size": 16}
    both = {"size": 256, "warm_up": warm_up}
    run = {
        "name": "influence",
        "sources": [{"path": str(write_jsonl(tmp_path / "pool.jsonl", chat_rows(24)))}],
        "reference": [{"path": str(write_jsonl(tmp_path / "t.jsonl", chat_rows(4, start=50)))}],
        "models": {"target": str(tiny)},
        "scorers": [
            {"method": "less", "settings": both},
            {"method": "tracin", "settings": {**both, "warm_up.targets": "attention"}},
            {"method": "gradient_cosine", "settings": {"size": 256}},
        ],
        "select": {"budget": "25%"},
        "check_scores": True,
        "passes": {"max_length": 512, "device": "cpu"},
        "export": {"root": str(tmp_path / "curated")},
        "store": str(tmp_path / "store"),
        "shard_rows": 7,
    }
    folder = walk_through(CurateConfig.model_validate(run))
    book = open_store(run["store"]).computed()
    assert len({line["key"] for line in book if line["step"] == "sft"}) == 1
    report = (folder / "report.html").read_text("utf-8")
    assert "warm-up on 24 of 24 rows" in report
    assert "Self-checks" in report
    ledger = pl.read_parquet(folder / "ledger/*.parquet")
    assert ledger.filter(verdict="kept").height == 6
    assert ledger.select("score_tracin", "score_gradient_cosine").null_count().row(0) == (0, 0)
    # a second run loads no model; a new shard costs the methods without a warm-up only itself
    before = len(loaded())
    assert walk_through(CurateConfig.model_validate(run)) == folder
    assert len(loaded()) == before
    write_jsonl(tmp_path / "pool2.jsonl", chat_rows(5, start=200))
    alone = {**run, "scorers": [run["scorers"][2]], "check_scores": False}
    walk_through(CurateConfig.model_validate({**alone, "name": "alone"}))
    done = len(open_store(run["store"]).computed())
    more = [*run["sources"], {"path": str(tmp_path / "pool2.jsonl")}]
    walk_through(CurateConfig.model_validate({**alone, "name": "more", "sources": more}))
    new = [x for x in open_store(run["store"]).computed()[done:] if x["step"] == "observe"]
    assert len(new) == 2  # the new shard's facts and its gradients


def test_users_are_asked_for_the_bases_of_recipes_alone():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Two(WarmedUp):
        @property
        def signals(self):
            return (ProjectedGradient(role="validation"), ProjectedGradient(role="judge"))

        @property
        def recipes(self):
            return (WarmUp(), ValidationTuned())

    assert asked_roles(Two()) == ("target", "judge")


def test_frames_name_columns_as_observations_do():
    signal = ProjectedGradient()
    assert Frames(parts=()).columns(signal) == ((signal.column, 1.0),)
    two = Frames(parts=(), weights={"target": (0.75, 0.25)})
    assert two.columns(signal) == ((f"{signal.column}@0", 0.75), (f"{signal.column}@1", 0.25))


def test_methods_that_are_observed_together_share_a_pass(tmp_path, tiny, monkeypatch):
    from gristmill.flows import commands

    observe = importlib.import_module("gristmill.pipeline.observe.observe")
    calls, plain = [], observe.forward

    def counted(encoded, *args, **kwargs):
        calls.append(len(encoded))
        return plain(encoded, *args, **kwargs)

    monkeypatch.setattr(observe, "forward", counted)
    data = [str(write_jsonl(tmp_path / "pool.jsonl", chat_rows(9)))]
    target = [str(write_jsonl(tmp_path / "target.jsonl", chat_rows(3, start=40)))]
    how = {"models": [f"target={tiny}"], "passes": {"device": "cpu"}}
    both = ["perplexity", "rds_plus"]
    inputs = commands.Inputs(data=data, reference=target, store=str(tmp_path / "s"), **how)
    assert commands.observe_paths(both, inputs) == 12
    assert sum(calls) == 12  # every record once, for both methods
    with pytest.raises(ValueError, match="needs a reference"):  # before anything is observed
        commands.observe_paths(both, commands.Inputs(data=data, store=str(tmp_path / "t"), **how))
    assert sum(calls) == 12
