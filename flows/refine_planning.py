"""What a run of `refine-pairs` will take: calls of judges, embeddings, trainings."""

from dataclasses import replace

from gristmill.flows import refine_steps, refining, steps
from gristmill.flows.refine_config import RefineConfig
from gristmill.flows.synthesis_config import AnswererConfig
from gristmill.pipeline.models.passes import Progress
from gristmill.pipeline.plan.amounts import NOTHING, Amount, mean
from gristmill.pipeline.plan.completions import Calls, call_line, embedding_line
from gristmill.pipeline.plan.lines import PlanLine
from gristmill.pipeline.plan.probe import BATCHES, Probe
from gristmill.pipeline.plan.training import plan_training, rows_like
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.records.text import texts
from gristmill.synthesis.curation.labelling import SOLVED

_INSTRUCTIONS = 300  # tokens around a pair, about
_DESCRIPTION = 400  # tokens of a pair's attributes, at most
_CHARACTERS = 4  # of a token, about


def lines(config: RefineConfig, progress: Progress | None, probe: Probe | None) -> list[PlanLine]:
    """A line a kind of work.

    Args:
        config: of the run.
        progress: told of the reading.
        probe: runs and times a little of it; None: nothing is run, and no hours are told.
    """
    folder = steps.Curation(config=config, progress=progress).ingest("pool")
    assert folder is not None, "a config has sources"
    run = refining.Refining(config=config, progress=progress)
    pool = refine_steps.left(steps.Rows(pool=folder))
    said = texts(pool.frame(), "dialogue").to_list()
    length = mean([len(t) / _CHARACTERS for t in said], of=len(said)) if said else NOTHING
    pairs = len(unique_ids(pool))
    labelled = min(pairs, config.rounds.start_labels + config.rounds.number * config.rounds.labels)
    verified = config.people.start + config.rounds.number * config.people.each_round
    people = PlanLine(
        data=f"pairs for people: at most {min(pairs, verified):,}",
        rows=min(pairs, verified),
        runs=f"{config.rounds.number:,} rounds, {labelled:,} of {pairs:,} pairs labelled",
        seconds=NOTHING,
    )
    found = [people, _embedded(run, said, length, probe)]
    solved = min(config.judging.characters / _CHARACTERS, SOLVED * length.value)
    asked = replace(length, value=length.value + _INSTRUCTIONS)
    compared = replace(length, value=length.value + _INSTRUCTIONS + solved)
    if config.describer is not None:
        found.append(
            _calls(run, "describer", config.describer, pairs, asked, _DESCRIPTION, said, probe)
        )
    for number, who in enumerate(config.judges):
        role, samples = refining.judge_role(number), config.judging.samples
        line = _calls(
            run, role, who, labelled * samples, compared, config.judging.max_tokens, said, probe
        )
        found += [line, _again(line, (pairs - labelled) / max(1, labelled))]
    if config.reward_model.kind == "trained":
        found += _trained(run, pool, labelled, probe)
    return found


def _embedded(
    run: refining.Refining, said: list[str], length: Amount, probe: Probe | None
) -> PlanLine:
    line = embedding_line(said, length, run.context.models, run.context.passes, probe)
    return replace(line, data="pairs")


def _calls(
    run: refining.Refining,
    role: str,
    who: AnswererConfig,
    number: int,
    read: Amount,
    written: int,
    said: list[str],
    probe: Probe | None,
) -> PlanLine:
    calls = Calls(
        role=role,
        model=who.model or who.recorded or "",
        local=who.model is not None and who.url is None,
        remote=who.url is not None,
        number=number,
        read=read,
        written=written,
        price_in=run.config.price_in,
        price_out=run.config.price_out,
        prompts=tuple(said[:BATCHES]),
    )
    return call_line(calls, run.context.models, run.context.passes, probe)


def _again(line: PlanLine, share: float) -> PlanLine:
    """Stage 2: none of the pairs that are left, or all, as the best reward model agrees."""

    def between(amount: Amount) -> Amount:
        half = amount.value * share / 2
        return Amount(value=half, half=half)

    return replace(
        line,
        data=f"stage 2: at most {round((line.rows or 0) * share):,} calls",
        rows=round((line.rows or 0) * share),
        tokens=between(line.tokens),
        written=between(line.written),
        flops=between(line.flops),
        money=between(line.money),
        seconds=None if line.seconds is None else between(line.seconds),
    )


def _trained(
    run: refining.Refining, pool: Dataset, labelled: int, probe: Probe | None
) -> list[PlanLine]:
    """A training a round on all labels so far (half of them in the mean), and the gold model."""
    config = run.config
    (files, *_) = run.context.models.files("target")
    rounds = config.rounds.number + 1
    mean_rows = max(1, round((config.rounds.start_labels + labelled) / 2))
    verified = config.people.start + config.rounds.number * config.people.each_round
    stage, device = config.reward_model.made(config.passes), config.passes.device
    return [
        replace(
            plan_training(
                rows_like(pool, rows), files, stage, cells=cells, device=device, probe=probe
            ),
            data=f"reward models {what}: {cells:,}",
        )
        for rows, cells, what in ((mean_rows, rounds, "of rounds"), (verified, 1, "of gold pairs"))
    ]
