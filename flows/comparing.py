"""Comparing: a run's comparison with random rows, as the pipeline's nouns.

A gate compares one selection before it is published; a compare run, every method that it names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gristmill.flows.compare_config import CompareConfig
from gristmill.flows.config import CurateConfig
from gristmill.flows.finetune_config import FinetuneConfig
from gristmill.flows.gate_config import ComparisonConfig
from gristmill.flows.steps import Curation, Rows
from gristmill.pipeline.compare.arms import Arm, Control
from gristmill.pipeline.compare.cells import StageRecipe
from gristmill.pipeline.compare.compared import compared
from gristmill.pipeline.compare.comparison import Design, Frame, missing
from gristmill.pipeline.compare.gate import Gate
from gristmill.pipeline.compare.measures import Evaluation, LogLikelihood, Measure, PairAccuracy
from gristmill.pipeline.contracts import Rule, Scorer
from gristmill.pipeline.finetune.dpo import Dpo
from gristmill.pipeline.finetune.reward import Reward
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.plan.sizes import size_of
from gristmill.pipeline.prepare.costs import MEAN_TOKENS, selecting, training
from gristmill.pipeline.prepare.prepare import needless
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.records.store import Entry, open_entry
from gristmill.pipeline.road import contest
from gristmill.pipeline.road.contest import Controls
from gristmill.pipeline.road.stages import rows_left
from gristmill.pipeline.selection.rules import rule_named

QUERY = "query rows"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a run compares, ready to be trained.

    Attributes:
        run: the run.
        pool: the rows that cleaning left.
        arms: by budget.
        design: what all cells share.
        gate: what the one method must show, if there is a gate.
    """

    run: Curation
    pool: Dataset
    arms: Mapping[str, Sequence[Arm]]
    design: Design
    gate: Gate | None = None

    def made(self) -> Entry:
        """Train what is missing; the entry of the comparison."""
        return compared(
            self.run.context,
            self.pool,
            self.arms,
            self.design,
            title=self.run.config.name,
            gate=self.gate,
        )

    def missing(self) -> list[Frame]:
        """The rows of every model that is still to be trained."""
        return missing(self.run.context, self.pool, self.arms, self.design)


def of_gate(run: Curation, rows: Rows) -> Comparison:
    """The comparison of a curate run's selection with what its gate names.

    Args:
        run: with `finetune` and `gate`.
        rows: as the last stage left them.
    """
    config = run.config
    assert isinstance(config, CurateConfig), "clean runs have no gate"
    asked, finetune = config.gate, config.finetune
    assert asked is not None, "this run has a gate"
    assert finetune is not None, "as its settings demand"
    assert rows.ledger is not None, "a stage has decided"
    ledger = open_entry(rows.ledger)
    pool = _pool(rows)
    name = run.stages[-1].by
    controls = [*dict.fromkeys([asked.against, "random", *asked.controls])]
    left = contest.rows_by_stage(ledger, [stage.name for stage in run.stages], pool)
    costs = [
        cost
        for stage, count in zip(run.stages, left, strict=True)
        for cost in _costs(run, stage.scorers, count, rows, finetune).values()
    ]
    arms = contest.of_selection(
        name,
        config.select.budget or "all",
        ledger,
        _drawn(run, pool, finetune),
        _controls(asked, finetune, controls, pool, {name: sum(costs)}),
    )
    design = design_of(run, asked, finetune, pool, rows)
    gate = Gate(against=asked.against, level=asked.level)
    return Comparison(run=run, pool=pool, arms=arms, design=design, gate=gate)


def of_methods(run: Curation, rows: Rows) -> Comparison:
    """The comparison of a compare run's methods."""
    config = run.config
    assert isinstance(config, CompareConfig), "of a compare run"
    pool = _pool(rows)
    costs = _costs(run, run.scorers, len(unique_ids(pool)), rows, config.finetune)
    arms = contest.of_methods(
        run.context,
        run.scorers,
        rules(config, run.scorers),
        pool,
        _reference(rows),
        config.budgets,
        _drawn(run, pool, config.finetune),
        _controls(config.comparison, config.finetune, config.controls, pool, costs),
    )
    design = design_of(run, config.comparison, config.finetune, pool, rows)
    return Comparison(run=run, pool=pool, arms=arms, design=design)


def rules(config: CompareConfig, made: Mapping[str, Scorer]) -> dict[str, Rule]:
    """Each method's own rule."""
    return {
        s.called: rule_named(made[s.called].rule, made[s.called].rule_settings)
        for s in config.scorers
    }


def design_of(
    run: Curation, asked: ComparisonConfig, finetune: FinetuneConfig, pool: Dataset, rows: Rows
) -> Design:
    """What all cells of a comparison share; its rows are read."""
    stage = finetune.made(pool.kind)
    base = _reference_of(run, finetune.model)
    rival = _reference_of(run, finetune.reference_model) if finetune.reference_model else None

    def measure(dataset: Dataset) -> Measure:
        frame = dataset.frame()
        if dataset.kind != "pair" and isinstance(stage, Reward):
            raise ValueError(
                "a reward model ranks pairs, and these evaluation rows are examples: give pairs."
            )
        if dataset.kind != "pair":
            return LogLikelihood(rows=frame)
        against = (rival or base) if isinstance(stage, Dpo) else None
        return PairAccuracy(rows=frame, reference=against, reward=isinstance(stage, Reward))

    evaluations = {
        name: Evaluation(measure=measure(_held_out(run, name, sources)), part=part)
        for part, sets in (("target", asked.tests), ("elsewhere", asked.elsewhere))
        for name, sources in sets.items()
    }
    target = _reference(rows)
    if target is not None and QUERY not in evaluations:
        evaluations[QUERY] = Evaluation(measure=measure(target), part="query")
    validation = (
        measure(_held_out(run, "validation", asked.validation)) if asked.validation else None
    )
    return Design(
        recipe=StageRecipe(base=base, stage=stage, reference=rival),
        evaluations=evaluations,
        validation=validation,
        rates=tuple(asked.rates),
        seeds=tuple(asked.seeds),
        level=asked.level,
    )


def _pool(rows: Rows) -> Dataset:
    """The rows that cleaning left."""
    return rows_left(Dataset.open(rows.pool), [open_entry(d).frame() for d in rows.drops])


def _drawn(run: Curation, pool: Dataset, finetune: FinetuneConfig) -> Frame:
    """The rows of the pool with their tokens under the model that is trained."""
    training = finetune.made(pool.kind).training
    return contest.rows_of(pool, _files(run, finetune.model), training)


def _controls(
    asked: ComparisonConfig,
    finetune: FinetuneConfig,
    names: Sequence[Control],
    pool: Dataset,
    costs: Mapping[str, float],
) -> Controls:
    stage = finetune.made(pool.kind)
    row = training(1, stage.training.epochs, adapter=stage.lora is not None)
    sides = 2 if pool.kind == "pair" else 1
    return Controls(names=names, draws=asked.draws, trained_row=sides * row, costs=costs)


def _costs(
    run: Curation, scorers: Mapping[str, Scorer], count: int, rows: Rows, finetune: FinetuneConfig
) -> dict[str, float]:
    """What choosing by each method costs, in forward passes of a row by the trained model."""
    target, models = _reference(rows), run.context.models
    targets = len(unique_ids(target)) if target is not None else 0
    own = _size(_files(run, finetune.model))
    sizes = {role: _size(models.files(role)[0]) / own for role in models.roles}
    return {
        name: selecting(scorer, count, targets, sizes, lambda r: needless(r, models))
        for name, scorer in scorers.items()
    }


def _size(files: ModelFiles) -> float:
    """FLOPs of a token in a row of usual length."""
    return size_of(files).flops(1, MEAN_TOKENS, head=files.layout != "sentence")


def _held_out(run: Curation, name: str, sources: Sequence[Source]) -> Dataset:
    config = run.config
    return ingest(
        run.context.store,
        sources,
        max_bad_share=config.max_bad_share,
        shard_rows=config.shard_rows,
        max_row_bytes=config.max_row_bytes,
        allow_network=config.allow_network,
    )


def _reference(rows: Rows) -> Dataset | None:
    return Dataset.open(rows.reference) if rows.reference else None


def _reference_of(run: Curation, model: str) -> str:
    """A role of the run as the reference of its model; any other text is one."""
    models = run.context.models
    return models.roles[model][0] if model in models.roles else model


def _files(run: Curation, model: str) -> ModelFiles:
    reference = _reference_of(run, model)
    return resolve(reference, run.context.store, allow_network=run.config.allow_network)
