"""Plan: the passes are those that a run then makes; what is there is found; sizes are the model's."""

import dataclasses
from collections import Counter
from types import SimpleNamespace
from typing import ClassVar

import polars as pl
import pytest
from contract_runs import ROWS, build
from ingested import dataset
from rows import chat_rows, pair_rows

from gristmill.pipeline.contracts import ModelShape, asked_roles, reads_weights
from gristmill.pipeline.engine.engine import Local
from gristmill.pipeline.engine.processes import Processes
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.forward import Batch, batches
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe import observe as observing
from gristmill.pipeline.observe import shared_passes
from gristmill.pipeline.observe.observe import ModelPass, observe
from gristmill.pipeline.plan.amounts import Amount
from gristmill.pipeline.plan.lines import Plan
from gristmill.pipeline.plan.plan import planned_passes
from gristmill.pipeline.plan.probe import Timing, probing
from gristmill.pipeline.plan.run import plan_run
from gristmill.pipeline.plan.sizes import size_of
from gristmill.pipeline.plan.training import plan_training
from gristmill.pipeline.prepare.prepare import Made
from gristmill.pipeline.road.stages import observe_together
from gristmill.pipeline.score import score as scoring
from gristmill.pipeline.score.score import ScoreRun, ready, score
from gristmill.pipeline.score.together import asked_of_models
from gristmill.pipeline.signals.forward_signals import (
    HiddenState,
    MeanLoss,
    SentenceEmbedding,
)
from gristmill.pipeline.signals.gradient_signals import GradientNorm, ProjectedGradient
from gristmill.selectors import catalog

BUDGET = 300  # tokens of a batch: several of them


def context(store, tiny, roles=("target",), **how):
    models = Models(store=store, roles={r: (str(tiny),) for r in roles})
    return RunContext(models=models, passes=Passes(device="cpu", batch_tokens=BUDGET), **how)


class Counted:
    """Forward passes of a run, by what they provide; no arithmetic is done."""

    def __init__(self, patch):
        self.calls = Counter()
        self.rows = Counter()
        for module in (observing, shared_passes):
            patch.setattr(module, "forward", self._forward)
        patch.setattr(ModelPass, "read", self._read)
        patch.setattr(ModelPass, "_keep", self._keep)  # nothing, so that nothing is found
        patch.setattr(ModelPass, "_own", lambda _, model, signals: own(signals))

    def _forward(self, encoded, model, needs, *, backward=None, groupings=()):
        self.calls[needs, backward is not None] += 1
        self.rows[needs, backward is not None] += len(encoded)
        return Batch(encoded=encoded, model=model, needs=needs, outputs={"hidden": {-1: encoded}})

    @staticmethod
    def _read(work, encoded, asked, model, told):
        rows = len(next(iter(encoded.values())))
        signals = [c for c in asked if reads_weights(c)]
        if signals:
            for _ in work._batches(encoded, signals, model, lambda read: read):
                pass
        return {c: pl.Series(work.name(c), [None] * rows, pl.Float64) for c in asked}

    @staticmethod
    def _keep(work, index, rows, column, held, signal):
        mine = held.missing.is_in(rows.implode())
        return dataclasses.replace(held, missing=held.missing.filter(~mine))


def own(signals):
    """Whether signals read a backward pass, or run the model themselves."""
    alone = [s for s in signals if not hasattr(s, "needs") or "backward" in s.needs]
    return (lambda rows: {}) if alone else None


def planned(runs, reference):
    """Forward passes that the plan has, by what they provide."""
    calls, rows = Counter(), Counter()
    for asked in asked_of_models(runs):
        parts = [(runs[0].dataset, asked.pool, asked.facts)]
        if reference is not None and asked.reference:
            parts.append((reference, asked.reference, ()))
        for data, signals, facts in parts:
            for one in planned_passes(asked.context, data, signals, facts):
                for reading in one.readings:
                    key = reading.needs, own(one.signals) is not None
                    some = list(batches(reading.lengths, BUDGET))
                    calls[key] += len(some)
                    if reading.family is None:
                        rows[key] += len(reading.rows)
                    else:
                        family = reading.family.encoded.values()
                        rows[key] += sum(e.reason is None for view in family for e in view)
    return calls, rows


def stand_ins(recipes, asked):
    """In the place of `prepare`: every role that a recipe fills, with as many models."""
    models = asked.models
    for recipe in recipes:
        if recipe.role:
            count = recipe.makes(9, 3)
            models = models.bind(recipe.role, models.roles[recipe.base][-1:] * count)
    return Made(models=models)


METHODS = [row["name"] for row in catalog.describe() if row["name"] not in ("blend", "column")]


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_planned_passes_are_those_that_a_run_makes(kind, store, tiny, tmp_path, monkeypatch):
    """Of each method by itself, and of all of them together."""
    monkeypatch.setattr(scoring, "prepare", stand_ins)
    counted = Counted(monkeypatch)
    methods = [m for m in METHODS if kind in build(m).accepts]
    asked = {r for m in methods for r in asked_roles(build(m))}
    shared = context(store, tiny, sorted({"target", *asked}))
    pool = dataset(store, tmp_path, "pool", ROWS[kind](9))
    target = dataset(store, tmp_path, "target", ROWS[kind](30)[27:])
    seen = 0
    for names in [*([m] for m in methods), methods]:
        runs = []
        for scorer in map(build, names):
            reference = None if scorer.reference == "none" else target
            run = ScoreRun(scorer=scorer, dataset=pool, context=shared, reference=reference)
            runs.append(ready(run))
        expected = planned(runs, target)
        counted.calls.clear()
        counted.rows.clear()
        observe_together(runs)
        assert (counted.calls, counted.rows) == expected, names
        seen += sum(counted.calls.values())
    assert seen or kind == "document"


def test_what_the_store_has_is_found_and_only_the_rest_is_planned(store, tiny, tmp_path):
    run = context(store, tiny)
    pool = dataset(store, tmp_path, "pool", chat_rows(12), shard_rows=4)
    first, second = MeanLoss(), HiddenState(pool="mean")

    def told(*signals, rows=None):
        return [
            (p.signals, p.rows, p.line("pool").found)
            for p in planned_passes(run, pool, signals, rows=rows)
        ]

    assert told(first) == [((first,), 12, False)]
    assert told(first, rows=5) == [((first,), 5, False)]
    observe(run, pool, [first])
    assert told(first) == [((), 12, True)]
    assert told(first, second) == [((second,), 12, False)]
    found = Plan(lines=[p.line("pool") for p in planned_passes(run, pool, [first])])
    assert found.total.tokens.value == found.total.flops.value == 0


def test_hours_are_shared_by_workers_and_not_told_of_other_machines(store, tiny, tmp_path):
    class Second:
        """A probe to which each token takes a second."""

        @staticmethod
        def time(work, signals, encoded, rows):
            return Timing(fixed=Amount(value=10.0), token=Amount(value=1.0))

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Elsewhere(Local):
        here: ClassVar[bool] = False

    pool = dataset(store, tmp_path, "pool", chat_rows(12), shard_rows=4)
    lines = []
    for engine in (Local(), Processes(workers=2), Processes(workers=99), Elsewhere()):
        run = context(store, tiny, engine=engine)
        (planned_pass,) = planned_passes(run, pool, [MeanLoss()])
        lines.append(planned_pass.line("pool", Second()))
    tokens = lines[0].tokens.value
    assert lines.pop().seconds is None
    found = [line.seconds.value for line in lines]
    assert found == pytest.approx([10 + tokens / workers for workers in (1, 2, 3)]), "three shards"


def test_a_line_says_tokens_operations_memory_and_disk_and_the_sum_all_of_them(
    store, tiny, tmp_path
):
    run = context(store, tiny)
    pool = dataset(store, tmp_path, "pool", chat_rows(12))
    (losses,) = [p.line("pool") for p in planned_passes(run, pool, [MeanLoss()])]
    (both,) = [p.line("pool") for p in planned_passes(run, pool, [GradientNorm()])]
    assert losses.runs == "forward"
    assert both.runs == "forward and backward"
    assert both.tokens == losses.tokens, "a row is read once, whatever follows"
    assert both.flops.value == 2 * losses.flops.value, "a backward of activations costs a forward"
    assert losses.tokens.half == 0, "all rows were looked at"
    size = size_of(resolve(str(tiny), store))
    assert losses.flops.value > 2 * size.body * losses.tokens.value
    whole = Plan(lines=[losses, both]).total
    assert whole.tokens.value == 2 * losses.tokens.value
    assert whole.memory == max(losses.memory, both.memory)
    assert whole.seconds is None, "nothing was probed"
    row = Plan(lines=[losses]).table()[-1]
    assert row["data"] == "in all"
    assert "time" not in row


def test_parameters_are_counted_without_embeddings_and_with_the_experts_that_a_token_meets(
    store, tiny, tmp_path
):
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny)
    size = size_of(resolve(str(tiny), store))
    embedding = plain.get_input_embeddings().weight
    unique = {id(p): p for p in plain.parameters()}
    tables = {id(m.weight) for m in (plain.get_input_embeddings(), plain.get_output_embeddings())}
    assert size.body == sum(p.numel() for i, p in unique.items() if i not in tables)
    assert size.head == embedding.numel()

    config = MixtralConfig(
        vocab_size=plain.config.vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=1,
    )
    model = MixtralForCausalLM(config)
    model.save_pretrained(tmp_path / "experts")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "experts" / name).write_bytes((tiny / name).read_bytes())
    mixture = size_of(resolve(str(tmp_path / "experts"), store))
    experts = sum(p.numel() for n, p in model.named_parameters() if "experts." in n)
    rest = sum(
        p.numel()
        for n, p in model.named_parameters()
        if "experts." not in n and "embed" not in n and "lm_head" not in n
    )
    assert mixture.body == rest + experts // 4
    k = 8
    whole = ProjectedGradient(size=None, k=k)
    matrices = 2 * (4 + 2 * 4)  # attention, and two matrices an expert; two blocks
    assert len(mixture.shape.matrices) == matrices
    numbers = 4 * matrices * k * k
    assert whole.row_bytes(mixture.shape, 10.0) == 32 + numbers
    assert ProjectedGradient(size=64).row_bytes(ModelShape(), 10.0) == 32 + 4 * 64


class Ticking:
    """A clock that a second passes of whenever it is looked at."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_a_probe_reads_at_least_eight_batches_and_leaves_no_trace(store, tiny, tmp_path):
    run = context(store, tiny, ("target", "embedder"))
    pool = dataset(store, tmp_path, "pool", chat_rows(24))
    assert all(run.models.files(role) for role in run.models.roles)  # their hashes are kept
    before = sorted(p for p in store.root.rglob("*") if p.is_file())
    for signal in (MeanLoss(), GradientNorm(), SentenceEmbedding()):
        (planned_pass,) = planned_passes(run, pool, [signal])
        with probing(clock=Ticking()) as probe:
            timing = probe.time(
                planned_pass.work, planned_pass.signals, planned_pass.encoded, planned_pass.rows
            )
            line = planned_pass.line("pool", probe)
        # a batch is a tick: a token takes batches / tokens, and the spread is that of their sizes
        tokens = sum(len(e.ids) for view in planned_pass.encoded.values() for e in view)
        assert timing.token.value * tokens >= 8
        assert timing.token.half > 0
        assert line.seconds.value == pytest.approx(
            timing.fixed.value + timing.token.value * tokens, rel=0.2
        )
    assert not probe.store.root.exists()
    assert sorted(p for p in store.root.rglob("*") if p.is_file()) == before


def test_training_is_planned_from_a_few_steps_of_it(store, tiny, tmp_path):
    from toy_training import chats

    from gristmill.pipeline.finetune.settings import Training
    from gristmill.pipeline.finetune.sft import Sft

    files = resolve(str(tiny), store)
    stage = Sft(training=Training(epochs=3, batch_size=2, micro_batch=2, max_length=64))
    rows = chats(24)
    bare = plan_training(rows, files, stage, cells=1)
    many = plan_training(rows, files, stage, cells=10)
    assert (bare.runs, bare.seconds) == ("36 steps of 2 rows", None)
    assert many.tokens.value == 10 * bare.tokens.value
    assert many.flops.value == pytest.approx(10 * bare.flops.value)
    assert many.data == "cells still to train: 10"
    with probing(clock=Ticking()) as probe:
        timed = plan_training(rows, files, stage, cells=10, device="cpu", probe=probe)
    assert timed.seconds.value > 10 * 36, "a step is a tick at least"
    assert not (store.root / "sft").exists()


def test_equal_models_of_two_methods_are_made_once_and_unlike_ones_are_apart(store, tiny, tmp_path):
    run = context(store, tiny)
    pool = dataset(store, tmp_path, "pool", chat_rows(12))
    target = dataset(store, tmp_path, "target", chat_rows(3, start=50))
    scorers = {m: catalog.make(m) for m in ("less", "tracin", "gradient_cosine")}
    stage = SimpleNamespace(name="select", scorers=scorers, budget=None)
    lines = plan_run([stage], pool, target, run)
    prepared = [line for line in lines if line.data == "to prepare"]
    assert len(prepared) == len({tuple(scorers[m].recipes) for m in ("less", "tracin")})
    read = [line for line in lines if line.data == "pool"]
    assert len(read) >= 2, "the warm-up's checkpoints, and the base itself"


def test_what_tokenizers_and_texts_alone_give_stands_in_no_line(store, tiny, tmp_path):
    """Token priors, n-grams and rows by them: no weights are loaded, before or after they are."""
    run = context(store, tiny)
    pool = dataset(store, tmp_path, "pool", chat_rows(12))
    target = dataset(store, tmp_path, "target", chat_rows(3, start=50))
    scorers = {m: catalog.make(m) for m in ("prior_filter", "dsir")}
    stage = SimpleNamespace(name="select", scorers=scorers, budget=None)
    assert plan_run([stage], pool, target, run) == []
    for scorer in scorers.values():
        reference = target if scorer.reference == "required" else None
        score(ScoreRun(scorer=scorer, dataset=pool, reference=reference, context=run))
    assert plan_run([stage], pool, target, run) == []
    both = SimpleNamespace(name="select", budget=None, scorers={
        **scorers, "perplexity": catalog.make("perplexity"),
    })  # fmt: skip
    (line,) = plan_run([both], pool, target, run)
    assert line.role == "target"
    assert all(name.startswith("loss") for name in line.signals)


def test_pairs_have_both_sides_in_one_pass(store, tiny, tmp_path):
    run = context(store, tiny, ("target", "reference"))
    pool = dataset(store, tmp_path, "pairs", pair_rows(8))
    scorers = {"implicit_gap": catalog.make("implicit_gap", {"warm_up": None})}
    stage = SimpleNamespace(name="select", scorers=scorers, budget=None)
    lines = [line for line in plan_run([stage], pool, None, run) if line.data == "pool"]
    sides = {(line.role, line.view.count("+")) for line in lines}
    assert sides == {("target", 1), ("reference", 1)}
    assert len(lines) == 2
    assert "shared" in lines[0].runs
