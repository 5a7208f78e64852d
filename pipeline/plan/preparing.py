"""Preparing: what the models and artifacts take that methods need before they can look.

What the store has is bound as it is. With a probe, the rest is really made, of a few rows and in
the scratch store, so that the passes over it can be probed too; without one, a model of the base's
size stands in its place.
"""

from dataclasses import dataclass, field, replace

import polars as pl

from gristmill.pipeline.contracts import Context, Recipe, settings_of, takes_the_place
from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.plan.amounts import Amount, mean
from gristmill.pipeline.plan.lines import PlanLine
from gristmill.pipeline.plan.probe import Probe
from gristmill.pipeline.plan.sizes import size_of
from gristmill.pipeline.plan.stepping import Stepping
from gristmill.pipeline.prepare.costs import preparing
from gristmill.pipeline.prepare.prepare import Made, needless, prepare
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.records.schema import digest, uniform
from gristmill.pipeline.records.store import NotMadeError
from gristmill.pipeline.score.score import ScoreRun, canonical_records
from gristmill.pipeline.signals.forward_signals import DIALOGUE

ROWS = 32  # of a pool or reference set of which something is made as a probe, at least
SHARE = 0.01
MICRO_BATCH = 8  # rows of a training step in memory, by default


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """What a run of several methods makes first.

    Attributes:
        context: of the run.
        pool: the rows.
        reference: the target rows, if there are any.
        rows: how many of the pool are expected to be left by then.
        probe: makes things of a few rows; None: nothing is made.
        lines: what was planned so far.
    """

    context: RunContext
    pool: Dataset
    reference: Dataset | None
    rows: int
    probe: Probe | None = None
    lines: list[PlanLine] = field(default_factory=list)
    _made: dict[str, Made] = field(default_factory=dict)

    @property
    def made_of(self) -> frozenset[str] | None:
        """Ids of the few rows that things were made of, if any were: others lack them."""
        tried = any(made.prepared for made in self._made.values())
        return frozenset(unique_ids(drawn(self.pool, self.rows))) if tried else None

    @property
    def targets(self) -> int:
        """Rows of the reference set."""
        return 0 if self.reference is None else len(unique_ids(self.reference))

    def ready(self, run: ScoreRun) -> ScoreRun:
        """The run with all bound that its method needs: found, made of a few rows, or of a size."""
        scorer = run.scorer
        models, artifacts = run.models, dict(scorer.given.artifacts)
        given = scorer.given
        if scorer.reads_reference and run.reference is not None:
            given = replace(given, reference=canonical_records(run.reference))
        cost = preparing(scorer, self.rows, self.targets, lambda r: needless(r, run.models))
        pending: set[str] = set()
        for recipe in dict.fromkeys(scorer.recipes):
            if takes_the_place(run.models.roles, recipe):
                continue
            made = None if recipe.base in pending else self._found(recipe, models)
            told = cost.sentence if cost is not None else ""
            if not recipe.reads_weights:
                made = made or Made(models=models)
            elif made is not None:
                self._add(recipe, models, told, found=True)
            else:
                pending.add(recipe.role)
                made = self._planned(recipe, models, told)
            models = made.models
            artifacts |= made.artifacts
        given = replace(given, artifacts=artifacts)
        context = run.context.bound(models)
        return replace(run, scorer=scorer.with_given(given), context=context, notes=())

    def _found(self, recipe: Recipe, models: Models) -> Made | None:
        """What the store has of a recipe; None: it is to be made."""
        store = replace(models.store, makes=False)
        asked = self._context(replace(models, store=store), self.pool, self.reference)
        try:
            made = prepare([recipe], asked)
        except NotMadeError:
            return None
        return replace(made, models=replace(made.models, store=models.store))

    def _planned(self, recipe: Recipe, models: Models, told: str) -> Made:
        """A line for what is to be made, once; and what stands in its place."""
        base = models.files(recipe.base)[-1]
        name = digest([settings_of(recipe), base.fingerprint, self.pool.content])
        if name not in self._made:
            tried = None
            if self.probe is not None:
                tried = self._tried(recipe, models, self.probe)
            self._add(recipe, models, told, tried=tried)
            self._made[name] = tried.made if tried else Made(models=models)
        made, filled = self._made[name], models
        count = recipe.makes(self.rows, self.targets)
        if recipe.role:
            found = tuple(r for p in made.prepared.values() for r in p.references)
            if not found:
                filled = models.planned(recipe.role, name, count, base)
            elif len(found) == count:
                filled = models.bind(recipe.role, found)
            else:
                filled = models.bind(recipe.role, found[-1:] * count)
        return replace(made, models=filled)

    def _tried(self, recipe: Recipe, models: Models, probe: Probe) -> "_Tried | None":
        """Make it of a few rows; None: of so few it cannot be made."""
        pool, rows = drawn(self.pool, self.rows), sampled(self.rows)
        reference = None if self.reference is None else drawn(self.reference, self.targets)
        paths = {r: tuple(str(f.path) for f in models.files(r)) for r in models.roles}
        bound = replace(models, store=probe.store, roles=paths)
        steps = Stepping(watch=probe.stopwatch())
        context = replace(
            self._context(bound, pool, reference), progress=steps.told, caps=steps.watch.caps
        )
        steps.begin()
        try:
            made = prepare([recipe], context)
        except ValueError:
            return None
        steps.end()
        some = recipe.cost(rows, sampled(self.targets))
        times = recipe.cost(self.rows, self.targets) / some if some else 1.0
        return _Tried(made=made, seconds=steps.seconds(times), tokens=steps.tokens(times))

    def _add(
        self,
        recipe: Recipe,
        models: Models,
        told: str,
        *,
        tried: "_Tried | None" = None,
        found: bool = False,
    ) -> None:
        """A line of what a recipe makes."""
        forwards = recipe.cost(self.rows, self.targets)
        files = models.files(recipe.base)[-1]
        size = size_of(files)
        length = _length(self.context.bound(models), recipe.base, self.pool, self.rows)
        line = PlanLine(
            data="to prepare",
            role=recipe.role or recipe.artifact,
            model=files.reference,
            view=type(recipe).__name__,
            runs=f"{forwards:,.0f} forward passes of a row" if forwards else "",
            signals=(told,) if forwards and told else (),
            found=found,
        )
        if not found:
            line = replace(
                line,
                tokens=(tried.tokens if tried else None) or length.times(forwards),
                flops=length.times(forwards * size.flops(1, length.value, head=True)),
                seconds=tried.seconds if tried else None,
                memory=size.training_memory(MICRO_BATCH * length.value, trained=recipe.trains)
                if recipe.trains
                else size.memory(self.context.passes),
            )
        if found and not forwards:
            return  # next to nothing, and there
        self.lines.append(line)

    def _context(self, models: Models, pool: Dataset, reference: Dataset | None) -> Context:
        return Context(
            models=models,
            pool=pool,
            reference=reference,
            passes=self.context.passes,
            caps=RunCaps(),
        )


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """What a probe made of a few rows, and what it would take of all."""

    made: Made
    seconds: Amount
    tokens: Amount | None


def sampled(rows: int) -> int:
    """How many rows something is made of as a probe."""
    return min(rows, max(ROWS, round(SHARE * rows)))


def drawn(dataset: Dataset, rows: int) -> Dataset:
    """A dataset without all but the rows that are drawn first by hash(id)."""
    ids = sorted(unique_ids(dataset), key=lambda i: (uniform(0, "plan", i), i))
    gone = pl.DataFrame({"id": ids[sampled(rows) :]}, schema={"id": pl.String})
    parts = [b.join(gone, on="id", how="semi") for b in dataset.blocks(["id", "source", "row"])]
    return dataset.without(parts)


def _length(context: RunContext, role: str, dataset: Dataset, rows: int) -> Amount:
    """Tokens of a row as the model of a role reads it whole."""
    chat = context.passes.chat(context.models.files(role)[-1])
    frame = drawn(dataset, rows).frame().unique("id", keep="first").sort("id")
    encoded = [DIALOGUE.view.encode(row, chat) for row in frame.iter_rows(named=True)]
    return mean([len(e.ids) for e in encoded] or [0.0], of=rows)
