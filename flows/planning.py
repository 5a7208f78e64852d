"""Planning: what a run of any flow will take, before it is run."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gristmill.flows import (
    checks,
    comparing,
    finetune_steps,
    prefer_plan,
    refine_planning,
    starting,
    steps,
    synthesis_steps,
)
from gristmill.flows.compare_config import CompareConfig
from gristmill.flows.config import CurateConfig, PoolConfig, RunConfig
from gristmill.flows.evaluate_config import EvaluateConfig
from gristmill.flows.finetune_config import FinetuneRunConfig
from gristmill.flows.prefer_config import PreferConfig
from gristmill.flows.refine_config import RefineConfig
from gristmill.flows.settings import Settings
from gristmill.flows.synthesis_config import SynthesizeConfig
from gristmill.pipeline.compare.comparison import Frame
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.plan.amounts import NOTHING, Amount, mean
from gristmill.pipeline.plan.completions import Calls, call_line, embedding_line
from gristmill.pipeline.plan.lines import Plan, PlanLine
from gristmill.pipeline.plan.plan import plan as plan_passes
from gristmill.pipeline.plan.probe import BATCHES, Probe, probing
from gristmill.pipeline.plan.run import Embeddings, kept, plan_run
from gristmill.pipeline.plan.training import plan_training, rows_like
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.records.store import NotMadeError
from gristmill.pipeline.road.model_manifest import trained_on
from gristmill.pipeline.road.published import read_back, version_of
from gristmill.pipeline.selection.selection import Budget
from gristmill.pipeline.signals.forward_signals import MeanLoss
from gristmill.pipeline.signals.pair_signals import CHOSEN, REJECTED
from gristmill.pipeline.signals.views import Dialogue
from gristmill.synthesis import gathering

_PROMPT = 400  # tokens of the instructions around a chunk, about
_ANSWER = 128  # tokens of a check or of an answer, at most
_CHARACTERS = 4  # of a token, about


def plan(
    config: Settings, where: str, progress: Progress | None = None, *, probed: bool = False
) -> list[dict[str, Any]]:
    """Check the settings, read the rows, and say what a run will take, for a table.

    Args:
        config: of a flow.
        where: the file, for sentences about it.
        progress: told of the reading.
        probed: run and time a little of it, for hours.

    Raises:
        ValueError: what is wrong with the settings, or with the rows under them.
    """
    return [dict(row) for row in planned(config, where, progress, probed=probed).table()]


def planned(
    config: Settings, where: str, progress: Progress | None = None, *, probed: bool = False
) -> Plan:
    """The same as numbers.

    Args:
        config: of a flow.
        where: the file, for sentences about it.
        progress: told of the reading.
        probed: run and time a little of it, for hours.
    """
    checks.check(config, where)
    if isinstance(config, EvaluateConfig):
        raise ValueError(f"{where} is an evaluation, which has no plan: try it with --limit.")
    with _probe(probed) as probe:
        match config:
            case SynthesizeConfig():
                lines = _synthesis(config, probe)
            case PreferConfig():
                lines = prefer_plan.lines(config, probe)
            case RefineConfig():
                lines = refine_planning.lines(config, progress, probe)
            case FinetuneRunConfig():
                lines = [_finetuning(config, probe)]
            case PoolConfig():
                lines = _run(config, progress, probe)
            case _:
                raise ValueError(
                    f"{where} holds cleaners and names no rows: put them under `clean:` of a run "
                    "to plan it."
                )
    return Plan(lines=lines, hour_price=config.limits.hour_price)


@contextmanager
def _probe(wanted: bool) -> Iterator[Probe | None]:
    if not wanted:
        yield None
        return
    with probing() as probe:
        yield probe


def _run(config: PoolConfig, progress: Progress | None, probe: Probe | None) -> list[PlanLine]:
    run = steps.Curation(config=config, progress=progress)
    folder, target = run.ingest("pool"), run.ingest("reference")
    assert folder is not None, "a config has sources"
    rows = steps.Rows(pool=folder, reference=target)
    run.refuse(rows)
    cleaning = run.cleaning
    against = cleaning.evaluations
    pool = Dataset.open(folder)
    left, last = _left(config, rows)
    lines = [] if probe is None else [starting.line(pool, _folders(run), probe)]
    lines += plan_run(
        comparing.together(run) if isinstance(config, CompareConfig) else run.stages,
        pool,
        Dataset.open(target) if target else None,
        run.context,
        Embeddings(
            semantic=cleaning.semantic is not None,
            published=(*cleaning.published, *cleaning.versions),
            items=against.items.height if against and against.rewordings else None,
        ),
        left=left,
        ships_tokens=isinstance(config, RunConfig) and config.export.trainer_rows,
        probe=probe,
    )
    if isinstance(config, CompareConfig) or (isinstance(config, CurateConfig) and config.gate):
        return [*lines, *_cells(config, run, pool, left, last, probe)]
    if isinstance(config, CurateConfig) and config.finetune is not None:
        among, count = kept(run.stages, pool, left)
        base = finetune_steps.started_from(
            config.finetune, config.models, network=config.allow_network
        )
        lines.append(
            plan_training(
                rows_like(among, count),
                resolve(base.model, run.context.store, allow_network=config.allow_network),
                config.finetune.of_records(pool.kind),
                device=config.passes.device,
                probe=probe,
            )
        )
    return lines


def _finetuning(config: FinetuneRunConfig, probe: Probe | None) -> PlanLine:
    """The training of a published dataset."""
    store = steps.open_store(config.store)
    version = version_of(Path(config.dataset))
    base = finetune_steps.base_of(config, version)
    stage = config.made(version.kind)
    line = plan_training(
        trained_on(read_back(version, store), stage),
        resolve(base.model, store, allow_network=config.allow_network),
        stage,
        device=config.passes.device,
        probe=probe,
    )
    return replace(line, data=f"training on {version.name}")


def _cells(
    config: CompareConfig | CurateConfig,
    run: steps.Curation,
    pool: Dataset,
    left: list[Dataset],
    rows: steps.Rows,
    probe: Probe | None,
) -> list[PlanLine]:
    """The models of a comparison that are still to be trained, and what all are asked.

    A gated run's own model is one of these.
    """
    finetune = config.finetune
    assert finetune is not None, "as its settings demand"
    base = comparing.files_of(run, finetune.model)
    stage, among = finetune.of_records(pool.kind), left[0] if left else pool
    unique = len(unique_ids(among))
    at_budget, whole = comparing.planned(config)
    if isinstance(config, CompareConfig):
        counts = [(_rows(b, unique), at_budget) for b in config.budgets]
    else:
        counts = [(kept(run.stages, pool, left)[1], at_budget)]
    groups = [(rows_like(among, n), cells) for n, cells in [*counts, (unique, whole)] if cells]
    models = sum(cells for _, cells in groups) + 1  # and the base
    missing = _missing(config, rows)
    if missing is not None:
        groups = [(frames[0], len(frames)) for frames in missing]
    lines = [
        plan_training(frame, base, stage, cells=cells, device=config.passes.device, probe=probe)
        for frame, cells in groups
    ]
    if missing is not None and not missing:
        lines.append(PlanLine(data="cells still to train: 0", seconds=NOTHING, found=True))
        return lines
    context = run.context.bound(run.context.models.bind("target", (base.reference,)))
    for name, held in comparing.held_out(run, config).items():
        views = (CHOSEN, REJECTED) if held.kind == "pair" else (Dialogue(),)
        signals = [MeanLoss(view=view) for view in views]
        asked = plan_passes(context, held, signals, part=f"asked: {name}", probe=probe)
        lines += [line.times(models) for line in asked]
    return lines


def _rows(budget: str, rows: int) -> int:
    """Rows of a budget; one in tokens is planned as all rows, which it is at most."""
    asked = Budget.parse(budget)
    return rows if asked.tokens is not None else min(rows, asked.amount(rows))


def _missing(config: PoolConfig, rows: steps.Rows) -> list[list[Frame]] | None:
    """The rows of every model that is to be trained, those of equal number together.

    None: what methods choose is not known before they are asked.
    """
    finder = steps.Curation(config=config, makes=False)
    try:
        if isinstance(config, CompareConfig):
            found = comparing.of_methods(finder, rows).missing()
        elif rows.ledger is not None:
            found = comparing.of_gate(finder, rows).missing()
        else:
            return None
    except NotMadeError:
        return None
    sizes = sorted({frame.height for frame in found})
    return [[frame for frame in found if frame.height == size] for size in sizes]


def _folders(run: steps.Curation) -> dict[str, str]:
    """The folder of each role's first model."""
    models = run.context.models
    return {role: str(models.files(role)[0].path) for role in models.roles}


def _left(config: PoolConfig, rows: steps.Rows) -> tuple[list[Dataset], steps.Rows]:
    """The rows that each stage is given, and those that the last keeps, as far as the store has.

    And the last of them as paths.
    """
    finder = steps.Curation(config=config, makes=False)
    found: list[Dataset] = []
    with contextlib.suppress(NotMadeError):
        rows = replace(rows, drops=tuple(finder.clean(rows)))
        found.append(finder.left(rows))
        for number, stage in enumerate(finder.stages):
            scores = {name: finder.score(number, name, rows) for name in stage.scorers}
            again = finder.second_look(rows, scores[stage.by])
            rows = replace(rows, drops=(*rows.drops, *again))
            rows = replace(rows, ledger=finder.select(number, rows, scores))
            found.append(finder.left(rows))
    return found, rows


def _synthesis(config: SynthesizeConfig, probe: Probe | None) -> list[PlanLine]:
    """A line a kind of call: how many at most, of how many tokens, for how much money."""
    store = steps.open_store(config.store)
    models = synthesis_steps.models_of(config, store)
    chunks = gathering.chunks_in(synthesis_steps.gather(config))
    sent = synthesis_steps.generator_of(config).sends(chunks.height)
    lengths = [len(text) / _CHARACTERS for text in chunks["text"]]
    mean_length = mean(lengths, of=len(lengths)) if lengths else NOTHING
    asked = config.extraction
    numbers = {
        "extractor": sent * (2 if asked.refine else 1),
        "checker": sent * asked.pairs if config.checker else 0,
        "reader": sent * asked.pairs * 2 * asked.votes if config.reader else 0,
    }
    passes = Passes(**config.passes.model_dump())
    found = PlanLine(
        data="documents", runs=f"{chunks.height:,} chunks, {sent:,} of them sent", seconds=NOTHING
    )
    lines = [found, embedding_line(chunks["text"].to_list(), mean_length, models, passes, probe)]
    for role, number in numbers.items():
        if number:
            who = vars(config)[role]
            calls = Calls(
                role=role,
                model=who.model or who.recorded,
                local=who.model is not None and who.url is None,
                remote=who.url is not None,
                number=number,
                read=Amount(value=mean_length.value + _PROMPT, half=mean_length.half),
                written={"extractor": asked.max_tokens}.get(role, _ANSWER),
                price_in=config.price_in,
                price_out=config.price_out,
                prompts=tuple(chunks["text"].head(BATCHES)),
            )
            lines.append(call_line(calls, models, passes, probe))
    caps = {"tokens": config.bandit.tokens, "money": config.bandit.money}
    stop = ", ".join(f"{value:,} {name}" for name, value in caps.items() if value is not None)
    stops = PlanLine(data="stops at", runs=stop or f"{sent:,} chunks sent", seconds=NOTHING)
    return [*lines, stops]
