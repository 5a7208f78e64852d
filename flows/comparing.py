"""Comparing: a run's comparison with random rows, as the pipeline's nouns.

A gate compares one selection before it is published; a compare run, every method that it names.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gristmill.flows import evaluate_steps
from gristmill.flows.compare_config import CompareConfig
from gristmill.flows.config import CurateConfig, PoolConfig
from gristmill.flows.finetune_config import FinetuneConfig
from gristmill.flows.gate_config import ComparisonConfig, Evaluated
from gristmill.flows.steps import Curation, Rows
from gristmill.pipeline.compare import comparison
from gristmill.pipeline.compare.arms import MATCHED, Arm, Control
from gristmill.pipeline.compare.cells import StageRecipe
from gristmill.pipeline.compare.compared import compared
from gristmill.pipeline.compare.comparison import Design, Frame, missing
from gristmill.pipeline.compare.gate import Gate
from gristmill.pipeline.compare.measures import (
    Evaluation,
    LogLikelihood,
    Measure,
    PairAccuracy,
    Part,
    TaskScore,
    demand_askable,
)
from gristmill.pipeline.contracts import Rule, Scorer
from gristmill.pipeline.evaluate.evaluation import naming
from gristmill.pipeline.evaluate.tasks import made_of, named
from gristmill.pipeline.finetune.dpo import Dpo
from gristmill.pipeline.finetune.reward import Reward, has_reward_head
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.plan.sizes import size_of
from gristmill.pipeline.prepare.costs import MEAN_TOKENS, selecting, training
from gristmill.pipeline.prepare.prepare import needless
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.records.store import Entry, open_entry
from gristmill.pipeline.road import contest
from gristmill.pipeline.road.contest import Controls
from gristmill.pipeline.road.stages import Stage, rows_left
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
        _controls(run, asked, finetune, asked.held_against, pool, {name: sum(costs)}),
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
        _controls(run, config.comparison, config.finetune, config.controls, pool, costs),
    )
    design = design_of(run, config.comparison, config.finetune, pool, rows)
    return Comparison(run=run, pool=pool, arms=arms, design=design)


def planned(config: CompareConfig | CurateConfig) -> tuple[int, int]:
    """How many models a comparison trains at each budget, and how many on all rows.

    What matched controls of two methods have in common, and what the store has, is not known yet.
    """
    if isinstance(config, CompareConfig):
        asked, names, methods = config.comparison, [*config.controls], len(config.scorers)
    else:
        assert config.gate is not None, "this run has a gate"
        asked, names, methods = config.gate, config.gate.held_against, 1
    drawn = asked.draws * sum(n in ("random", "balanced_random") for n in names)
    matched = methods * asked.draws * sum(n in MATCHED for n in names)
    single = methods + sum(n in ("length", "canary") for n in names)
    arms = single + sum(n in ("random", "balanced_random") for n in names)
    arms += methods * sum(n in MATCHED for n in names)
    tried = max(0, len(asked.rates) - 1)  # one of the rates is every arm's own
    seeds = len(asked.seeds)
    whole = seeds + tried if "full" in names else 0
    return (single + drawn + matched) * seeds + arms * tried, whole


def together(run: Curation) -> list[Stage]:
    """All methods of a compare run as one stage: what is observed and prepared for them."""
    first = next(iter(run.scorers))
    return [Stage(name="select", scorers=run.scorers, by=first, rule=rule_named("top"))]


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
    stage = finetune.of_records(pool.kind)
    base = _reference_of(run, finetune.model)
    rival = _reference_of(run, finetune.reference_model) if finetune.reference_model else None

    def measure(name: str, dataset: Dataset) -> Measure:
        frame = dataset.frame()
        if dataset.kind != "pair" and isinstance(stage, Reward):
            raise ValueError(
                f"{name}: a reward model ranks pairs, and these rows are {dataset.kind}s: give "
                "pairs."
            )
        if dataset.kind != "pair":
            return LogLikelihood(rows=frame)
        against = (rival or base) if isinstance(stage, Dpo) else None
        return PairAccuracy(rows=frame, reference=against, reward=isinstance(stage, Reward))

    parts: tuple[tuple[Part, Evaluated], ...] = (
        ("target", asked.tests),
        ("elsewhere", asked.elsewhere),
    )
    if asked.tasks is not None and isinstance(stage, Reward):
        raise ValueError("tasks: a reward model answers nothing: leave them out, and give pairs.")
    evaluations = {
        name: Evaluation(measure=measure(name, _held_out(run, name, sources)), part=part)
        for part, sets in parts
        for name, sources in sets.items()
    }
    for task in _tasks(run, asked) if asked.tasks else ():
        evaluations[task.task.name] = Evaluation(measure=task)
    target = _reference(rows)
    if target is not None and QUERY not in evaluations:
        with suppress(ValueError):  # rows that no model can be asked: they decide nothing
            files = files_of(run, finetune.model)
            demand_askable(QUERY, target.frame(), files, run.context.passes)
            evaluations[QUERY] = Evaluation(measure=measure(QUERY, target), part="query")
    validation = None
    if asked.validation:
        validation = measure("validation", _held_out(run, "validation", asked.validation))
    return Design(
        recipe=StageRecipe(base=base, stage=stage, reference=rival),
        evaluations=evaluations,
        validation=validation,
        rates=tuple(asked.rates),
        seeds=tuple(asked.seeds),
        level=asked.level,
    )


def refuse_held_out(run: Curation, rows: Rows) -> None:
    """Before a model is asked: refuse held-out rows that the cleaned pool repeats, or too few.

    Args:
        run: with a gate, or one that compares methods.
        rows: after cleaning.
    """
    config = run.config
    asked = _asked(config)
    if asked is None:
        return
    finetune: FinetuneConfig = vars(config)["finetune"]
    pool = _pool(rows)
    design = design_of(run, asked, finetune, pool, rows)
    comparison.refuse_overlap(design, pool)
    measures = {name: one.measure for name, one in design.evaluations.items()}
    if design.validation is not None:
        measures["validation"] = design.validation
    for name, measure in measures.items():
        if measure.rows is not None:
            demand_askable(name, measure.rows, files_of(run, finetune.model), run.context.passes)


def held_out(run: Curation, config: CompareConfig | CurateConfig) -> dict[str, Dataset]:
    """The rows that every model is asked, by name."""
    asked = _asked(config)
    assert asked is not None, "this run has a gate"
    sets = {**asked.tests, **asked.elsewhere}
    return {name: _held_out(run, name, sources) for name, sources in sets.items()}


def _asked(config: PoolConfig) -> ComparisonConfig | None:
    """What a run compares by; None: it compares nothing."""
    if isinstance(config, CompareConfig):
        return config.comparison
    return config.gate if isinstance(config, CurateConfig) else None


def _tasks(run: Curation, asked: ComparisonConfig) -> list[TaskScore]:
    assert asked.tasks is not None, "there are tasks"
    chosen = evaluate_steps.choice(asked.tasks)
    return [
        TaskScore(
            task=task,
            data=chosen.data,
            made_of=made_of(task, run.context.store, chosen.data),
            limit=chosen.limit,
            chat_template=chosen.chat_template,
            batch_size=chosen.batch_size,
        )
        for task in named(chosen.names)
    ]


def _pool(rows: Rows) -> Dataset:
    """The rows that cleaning left."""
    return rows_left(Dataset.open(rows.pool), [open_entry(d).frame() for d in rows.drops])


def _drawn(run: Curation, pool: Dataset, finetune: FinetuneConfig) -> Frame:
    """The rows of the pool with their tokens under the model that is trained."""
    training = finetune.of_records(pool.kind).training
    return contest.rows_of(pool, files_of(run, finetune.model), training)


def _controls(
    run: Curation,
    asked: ComparisonConfig,
    finetune: FinetuneConfig,
    names: Sequence[Control],
    pool: Dataset,
    costs: Mapping[str, float],
) -> Controls:
    stage = finetune.of_records(pool.kind)
    if isinstance(stage, Reward) and not has_reward_head(files_of(run, finetune.model)):
        names = [n for n in names if n != "zero_shot"]  # untrained, it ranks nothing
    row = training(1, stage.training.epochs, adapter=stage.lora is not None)
    sides = 2 if pool.kind == "pair" else 1
    return Controls(names=names, draws=asked.draws, trained_row=sides * row, costs=costs)


def _costs(
    run: Curation, scorers: Mapping[str, Scorer], count: int, rows: Rows, finetune: FinetuneConfig
) -> dict[str, float]:
    """What choosing by each method costs, in forward passes of a row by the trained model."""
    target, models = _reference(rows), run.context.models
    targets = len(unique_ids(target)) if target is not None else 0
    own = _size(files_of(run, finetune.model))
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
    with naming(name):
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


def files_of(run: Curation, model: str) -> ModelFiles:
    """The model that is trained, by its role or reference."""
    reference = _reference_of(run, model)
    return resolve(reference, run.context.store, allow_network=run.config.allow_network)
