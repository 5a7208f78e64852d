"""Run: what all steps of a run will take: cleaning's passes, then stage by stage what is left.

How many rows cleaning drops is not known before it is done, so that a stage is planned for the rows
that the stage before may keep at most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gristmill.pipeline.contracts import Recipe, Scorer, Signal
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe.observe import unique_ids
from gristmill.pipeline.plan.plan import COLUMNS, line, plan
from gristmill.pipeline.prepare.costs import preparing
from gristmill.pipeline.prepare.prepare import needless
from gristmill.pipeline.records.dataset import Dataset
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


@dataclass
class _Work:
    """The lines so far, and what will be there by then."""

    context: RunContext
    lines: list[dict[str, Any]] = field(default_factory=list)
    done: set[tuple[str, Signal]] = field(default_factory=set)

    def add(
        self, part: str, dataset: Dataset, signals: Sequence[Signal], models: Models, rows: int
    ) -> None:
        """The passes for signals that no line before has made of the same rows."""
        new = [s for s in dict.fromkeys(signals) if (dataset.content, s) not in self.done]
        self.done |= {(dataset.content, s) for s in new}
        made = plan(dataset, new, models, self.context.passes, rows)
        self.lines += [line(part, p) for p in made]


def plan_run(
    stages: Sequence[Stage],
    pool: Dataset,
    reference: Dataset | None,
    context: RunContext,
    cleaning: Embeddings | None = None,
) -> list[dict[str, Any]]:
    """What a run will take, for a table.

    Args:
        stages: of the run, in order.
        pool: the rows.
        reference: the target rows, if the run has any.
        context: models, and how they are run.
        cleaning: what cleaning embeds before.
    """
    work = _Work(context=context)
    rows, targets = (0 if d is None else sum(map(len, unique_ids(d))) for d in (pool, reference))
    _cleaning(work, pool, cleaning or Embeddings(), rows)
    models = context.models
    for stage in stages:
        scorers = list(stage.scorers.values())
        models = _prepared(work, scorers, models, rows, targets)
        part = "pool" if len(stages) == 1 else f"pool, {stage.name}"
        work.add(part, pool, [s for m in scorers for s in m.signals], models, rows)
        if reference is not None:
            signals = [s for m in scorers for s in m.reference_signals]
            work.add("reference", reference, signals, models, 1 << 60)
        if stage.budget is not None and stage.budget.tokens is None:
            rows = min(rows, stage.budget.amount(rows))
    return work.lines


def _cleaning(work: _Work, pool: Dataset, asked: Embeddings, rows: int) -> None:
    models = work.context.models
    if asked.items is not None:
        (made,) = plan(pool, [EMBEDDING], models, work.context.passes)
        told = line("clean: rewordings", made)  # prompts alone, so that this is the most
        work.lines.append({**told, "rows": f"{rows + asked.items:,}", "disk": "", "signals": ""})
    if asked.semantic:
        work.add("clean: semantic", pool, [EMBEDDING], models, rows)
        for earlier in asked.published:
            work.add("clean: published", earlier, [EMBEDDING], models, 1 << 60)


def _prepared(
    work: _Work, scorers: Sequence[Scorer], models: Models, rows: int, targets: int
) -> Models:
    """A line for each thing that methods must make first, and the models with what it fills."""
    seen: set[Recipe] = set()
    for scorer in scorers:
        cost = preparing(scorer, rows, targets, lambda r: needless(r, work.context.models))
        for recipe in scorer.recipes:
            if recipe in seen or needless(recipe, work.context.models):
                continue
            seen.add(recipe)
            forwards = recipe.cost(rows, targets)
            named = {
                "data": "to prepare",
                "role": recipe.role or recipe.artifact,
                "view": type(recipe).__name__,
                "pass": f"{forwards:,.0f} forward passes of a row" if forwards else "",
                "signals": cost.sentence if cost is not None and forwards else "",
            }
            work.lines.append({name: named.get(name, "") for name in COLUMNS})
            if recipe.role and recipe.role not in models.roles:
                # planned as large as what it is made from
                models = models.bind(recipe.role, models.roles[recipe.base])
    return models
