"""Planning: what a run of any flow will take, before it is run."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gristmill.flows import checks, finetune_steps, starting, steps, synthesis_steps
from gristmill.flows.config import PoolConfig
from gristmill.flows.finetune_config import FinetuneRunConfig
from gristmill.flows.settings import Settings
from gristmill.flows.synthesis_config import SynthesizeConfig
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.plan.amounts import NOTHING, Amount, mean
from gristmill.pipeline.plan.completions import Calls, call_line, embedding_line
from gristmill.pipeline.plan.lines import Plan, PlanLine
from gristmill.pipeline.plan.probe import BATCHES, Probe, probing
from gristmill.pipeline.plan.run import Embeddings, plan_run
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.store import NotMadeError
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
    if isinstance(config, FinetuneRunConfig):
        checks.check(config, where)
        return finetune_steps.lines(config)
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
    with _probe(probed) as probe:
        if isinstance(config, SynthesizeConfig):
            return Plan(lines=_synthesis(config, probe), hour_price=config.limits.hour_price)
        if isinstance(config, PoolConfig):
            return Plan(lines=_run(config, progress, probe), hour_price=config.limits.hour_price)
    raise ValueError(
        f"{where} holds cleaners and names no rows: put them under `clean:` of a run to plan it."
    )


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
    lines = [] if probe is None else [starting.line(pool, _folders(run), probe)]
    return lines + plan_run(
        run.stages,
        pool,
        Dataset.open(target) if target else None,
        run.context,
        Embeddings(
            semantic=cleaning.semantic is not None,
            published=cleaning.published,
            items=against.items.height if against and against.rewordings else None,
        ),
        left=_left(config, rows),
        ships_tokens=config.export.trainer_rows,
        probe=probe,
    )


def _folders(run: steps.Curation) -> dict[str, str]:
    """The folder of each role's first model."""
    models = run.context.models
    return {role: str(models.files(role)[0].path) for role in models.roles}


def _left(config: PoolConfig, rows: steps.Rows) -> list[Dataset]:
    """The rows that each stage is given, and those that the last keeps, as far as the store has."""
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
    return found


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
    lines = [found, embedding_line(chunks["text"], mean_length, models, passes, probe)]
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
