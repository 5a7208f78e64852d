"""Run: what all steps of a run will take: cleaning's passes, then stage by stage what is left.

What the store has of a step already is looked up there. How many rows cleaning drops is not known
before it is done, so that until then a stage is planned for the rows that it may be given at most.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from gristmill.pipeline.contracts import EncodingFacts, Scorer, Signal
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.plan.lines import PlanLine
from gristmill.pipeline.plan.plan import planned_passes, unkept
from gristmill.pipeline.plan.preparing import Preparing
from gristmill.pipeline.plan.probe import Probe
from gristmill.pipeline.plan.publishing import trainer_rows
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.score.score import ScoreRun
from gristmill.pipeline.score.together import asked_of_models
from gristmill.pipeline.selection.selection import Budget
from gristmill.pipeline.signals.forward_signals import SentenceEmbedding

EMBEDDING = SentenceEmbedding()


class Stage(Protocol):
    """What a plan reads of a stage of a run."""

    @property
    def name(self) -> str: ...

    @property
    def scorers(self) -> Mapping[str, Scorer]: ...

    @property
    def budget(self) -> Budget | None: ...


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """What cleaning embeds.

    Attributes:
        semantic: the pool, for semantic duplicates.
        published: earlier datasets, whose rows must not come again.
        items: evaluation items, which the prompts of the pool are compared with; None: they are
            not compared by meaning.
    """

    semantic: bool = False
    published: Sequence[Dataset] = ()
    items: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Work:
    """The lines so far, and what will be there by then."""

    context: RunContext
    probe: Probe | None
    lines: list[PlanLine] = field(default_factory=list)
    done: set[tuple[str, str, str]] = field(default_factory=set)

    def add(
        self,
        part: str,
        context: RunContext,
        dataset: Dataset,
        signals: Sequence[Signal],
        facts: Sequence[EncodingFacts] = (),
        rows: int | None = None,
        among: Collection[str] | None = None,
    ) -> None:
        """The passes for signals that no line before has made of the same records."""
        for planned in planned_passes(context, dataset, signals, facts, rows, among):
            work = planned.work
            place = f"{work.files.fingerprint}{work.suffix}"
            keys = {s: (dataset.entry.content, place, s.column) for s in planned.signals}
            new = tuple(s for s in planned.signals if keys[s] not in self.done)
            if planned.signals and not new:
                continue
            self.done.update(keys.values())
            self.lines.append(replace(planned, signals=new).line(part, self.probe))


def plan_run(
    stages: Sequence[Stage],
    pool: Dataset,
    reference: Dataset | None,
    context: RunContext,
    cleaning: Embeddings | None = None,
    *,
    left: Sequence[Dataset] = (),
    ships_tokens: bool = False,
    probe: Probe | None = None,
) -> list[PlanLine]:
    """What a run will take, a line a part.

    Args:
        stages: of the run, in order.
        pool: the rows.
        reference: the target rows, if the run has any.
        context: models, and how they are run.
        cleaning: what cleaning embeds before.
        left: the rows that each stage is given, as far as the store tells.
        ships_tokens: whether the target's tokens are published too.
        probe: times it; None: nothing is run, and no hours are told.
    """
    work = _Work(context=context, probe=probe)
    rows = len(unique_ids(pool))
    if not left:
        _cleaning(work, pool, cleaning or Embeddings(), rows)
    for number, stage in enumerate(stages):
        if number < len(left):
            pool = left[number]
            rows = len(unique_ids(pool))
        _stage(work, stage, "" if len(stages) == 1 else stage.name, pool, reference, rows)
        rows = _within(stage, rows)
    if ships_tokens and "target" in context.models.roles:
        work.lines.append(trainer_rows(context, *kept(stages, pool, left), probe))
    return work.lines


def kept(
    stages: Sequence[Stage], pool: Dataset, left: Sequence[Dataset] = ()
) -> tuple[Dataset, int]:
    """The rows that a run selects from, as far as is known, and how many it keeps at most."""
    known = left[len(stages)] if len(left) > len(stages) else None
    if known is not None:  # all was decided already
        return known, len(unique_ids(known))
    pool = left[-1] if left else pool
    rows = len(unique_ids(pool))
    for stage in stages[max(0, len(left) - 1) :]:
        rows = _within(stage, rows)
    return pool, rows


def _within(stage: Stage, rows: int) -> int:
    """How many rows a stage keeps at most."""
    if stage.budget is None or stage.budget.tokens is not None or not rows:
        return rows
    return min(rows, stage.budget.amount(rows))


def _stage(
    work: _Work, stage: Stage, name: str, pool: Dataset, reference: Dataset | None, rows: int
) -> None:
    preparing = Preparing(
        context=work.context, pool=pool, reference=reference, rows=rows, probe=work.probe
    )
    runs = [
        preparing.ready(
            ScoreRun(
                scorer=scorer,
                dataset=pool,
                context=work.context,
                reference=reference if scorer.reference != "none" else None,
            )
        )
        for scorer in stage.scorers.values()
    ]
    work.lines.extend(preparing.lines)
    part = f"pool, {name}" if name else "pool"
    for asked in asked_of_models(runs):
        if asked.pool or asked.facts:
            among = preparing.made_of
            work.add(part, asked.context, pool, asked.pool, asked.facts, rows, among)
        if reference is not None and asked.reference:
            work.add("reference", asked.context, reference, asked.reference)


def _cleaning(work: _Work, pool: Dataset, asked: Embeddings, rows: int) -> None:
    if asked.items is not None:
        planned = unkept(work.context, pool, EMBEDDING, rows + asked.items)
        line = planned.line("clean: rewordings", work.probe)  # prompts alone: this is the most
        work.lines.append(replace(line, disk=line.disk.times(0), signals=()))
    if asked.semantic:
        work.add("clean: semantic", work.context, pool, [EMBEDDING])
        for earlier in asked.published:
            work.add("clean: published", work.context, earlier, [EMBEDDING])
