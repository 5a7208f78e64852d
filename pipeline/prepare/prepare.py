"""Prepare: make the models that a method needs before it can look.

A scorer declares **recipes**; `prepare` makes each (or finds it: a recipe's models are entries of
the store, keyed by data, settings and base, so scorers and runs share them) and binds the role that
it fills. Paper defaults assume 10^4 to 10^6 rows; the small-pool overrides are here, and each
that acts is said and recorded.

| recipe | makes |
|---|---|
| `WarmUp` | SFT on a random share of the pool: checkpoints with optimizer state (LESS, TracIn) |
| `PreferenceWarmUp` | DPO on all pairs, until margins carry something (IRM, LossDiff, TIF) |
| `ValidationTuned` | the base tuned on the reference set (LossDiff) |
"""

# N = rows of the pool

import dataclasses
import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from gristmill.pipeline.contracts import Artifact, Context, Prepared, Recipe, takes_the_place
from gristmill.pipeline.finetune.checkpoints import Trained
from gristmill.pipeline.finetune.dpo import Dpo, train_dpo
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.finetune.settings import Lora, Training
from gristmill.pipeline.finetune.sft import Sft, train_sft
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.prepare import costs
from gristmill.pipeline.records.dataset import Dataset, unique_ids
from gristmill.pipeline.records.schema import CONTENT, uniform
from gristmill.pipeline.records.store import Entry
from gristmill.pipeline.signals.views import Dialogue

SMALL = 2_000  # rows below which a pool is small: one checkpoint, a higher rate for adapters
SHARE = 0.05  # of the pool, for a warm-up
LEAST = 256  # rows of a warm-up, if the pool has them
LORA_RATE = 1e-4  # of an adapter on a small pool
LEAST_MARGIN = 0.1  # mean |implicit reward margin| after a preference warm-up
MOST_EPOCHS = 16


@dataclass(frozen=True, kw_only=True)
class Made:
    """What all recipes of a scorer made.

    Attributes:
        models: the models of the run, with the roles that were filled.
        prepared: what each recipe made, by the role that it filled, or else by its artifact.
    """

    models: Models
    prepared: Mapping[str, Prepared] = field(default_factory=dict)

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The artifacts, by name."""
        found = (p.artifact for p in self.prepared.values())
        return {a.name: a for a in found if a is not None}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the making had to say."""
        return tuple(sentence for p in self.prepared.values() for sentence in p.notes)


def prepare(recipes: Sequence[Recipe], context: Context) -> Made:
    """Make or find what the recipes declare, in their order; equal ones once.

    A role that the user bound keeps its model, unless a recipe makes its own successor from it.
    Checkpoints that are such successors already are used as they are.
    """
    models = context.models
    prepared: dict[str, Prepared] = {}
    for recipe in dict.fromkeys(recipes):
        if recipe.role and recipe.role in prepared:
            raise ValueError(f"two recipes fill the role {recipe.role!r}: give one another role.")
        if takes_the_place(context.models.roles, recipe):
            continue
        asked = dataclasses.replace(context, models=models)
        result = _as_bound(recipe, asked) if needless(recipe, models) else recipe.make(asked)
        context.caps.check()
        prepared[recipe.role or recipe.artifact] = result
        if recipe.role:
            models = models.bind(recipe.role, result.references, result.weights)
    return Made(models=models, prepared=prepared)


def needless(recipe: Recipe, models: Models) -> bool:
    """Whether the user's own models stand in the place of what a recipe would make."""
    role = recipe.role
    if role != recipe.base or role not in models.roles:
        return takes_the_place(models.roles, recipe)
    return recipe.made_already(models.files(role))


def _as_bound(recipe: Recipe, context: Context) -> Prepared:
    """The user's own checkpoints, which are what the recipe would make."""
    models, role = context.models, recipe.role
    references = models.roles[role]
    many = "checkpoint is" if len(references) == 1 else f"{len(references)} checkpoints are"
    notes = (f"the {many} used as bound to {role!r}; none is trained in their place.",)
    context.log_all(notes)
    return Prepared(references=references, weights=models.weights(role), notes=notes)


def run_of(context: Context) -> Run:
    """How a training run of a recipe is carried out."""
    return Run(
        device=context.passes.device,
        progress=context.progress,
        log=context.log,
        caps=context.caps,
    )


def limited(context: Context, training: Training) -> Training:
    """The settings of a training run, with the length limit of the run's passes."""
    passes = context.passes
    return dataclasses.replace(training, max_length=passes.max_length, overlong=passes.overlong)


def artifact_of(entry: Entry, name: str) -> Artifact:
    """The part of that name of an entry of the store, as an artifact."""
    return Artifact(name=name, content=entry.content, path=entry.path / name)


@dataclass(frozen=True, kw_only=True)
class WarmUp(Recipe):
    """LESS's warm-up: an adapter on a random share of the pool, one checkpoint an epoch.

    Which rows are drawn depends on (seed, id) alone, so a larger pool keeps most of the draw.

    Attributes:
        role: the role that the checkpoints fill.
        base: the role that is trained.
        share: of the pool; None: 5 %, and at least 256 rows, if there are as many.
        training: LESS's settings.
        lora: LESS's adapter; None trains all weights.
        fixed: settings that a user gave: no small pool overrides them; see `for_small_pools`.
        seed: of the draw.
    """

    role: str = "target"
    base: str = "target"
    share: float | None = None
    training: Training = field(
        default_factory=lambda: Training(epochs=4, batch_size=128, learning_rate=2e-5, warmup=0.03)
    )
    lora: Lora | None = field(default_factory=lambda: Lora(rank=128, alpha=512.0, dropout=0.1))
    fixed: tuple[str, ...] = ()
    seed: int = 0

    def taken(self, rows: int) -> int:
        """How many of the pool's rows are drawn."""
        if self.share is not None:
            return math.ceil(self.share * rows)
        return max(math.ceil(SHARE * rows), min(rows, LEAST))

    def cost(self, rows: int, targets: int) -> float:
        adapter = self.lora is not None
        return costs.training(self.taken(rows), self.training.epochs, adapter=adapter)

    @property
    def trains(self) -> float:
        return costs.trained(adapter=self.lora is not None)

    def makes(self, rows: int, targets: int) -> int:
        training, _ = for_small_pools(self.training, self.lora, rows, self.fixed)
        return len(training.published(self.taken(rows)))

    def made_already(self, bound: Sequence[ModelFiles]) -> bool:
        return self.lora is not None and all(files.layout == "adapter" for files in bound)

    def make(self, context: Context) -> Prepared:
        rows = len(unique_ids(context.pool))
        asked = limited(context, self.training)
        training, notes = for_small_pools(asked, self.lora, rows, self.fixed)
        taken, wanted = self.taken(rows), math.ceil(SHARE * rows)
        if self.share is None and taken > wanted:
            share = f"{SHARE:.0%} would be {wanted:,}"
            notes.insert(0, f"warm-up on {taken:,} of {rows:,} rows: {share}.")
        context.log_all(notes)
        trained = train_sft(
            draw(context.pool, taken, self.seed, "warm-up"),
            context.model(self.base),
            Sft(training=training, lora=self.lora),
            context.models.store,
            run=run_of(context),
            allow_network=context.models.allow_network,
        )
        return prepared(trained, notes)


@dataclass(frozen=True, kw_only=True)
class PreferenceWarmUp(Recipe):
    """DPO on all pairs of the pool. At the start every margin is 0, and nothing can be scored.

    Epochs double, from those of `settings`, until the mean |implicit reward margin| over 256 pairs
    (drawn by id) exceeds 0.1. The reference model is the role `reference`'s, or else the base.

    Attributes:
        role: the role that the result fills.
        base: the role that is trained.
        settings: of DPO.
        fixed: settings that a user gave: neither a small pool nor small margins override them.
        seed: of the pairs that are looked at.
    """

    role: str = "target"
    base: str = "target"
    settings: Dpo = field(
        default_factory=lambda: Dpo(
            training=Training(epochs=1, learning_rate=5e-7, checkpoints="last"), lora=Lora()
        )
    )
    fixed: tuple[str, ...] = ()
    seed: int = 0

    def cost(self, rows: int, targets: int) -> float:
        adapter, epochs = self.settings.lora is not None, self.settings.training.epochs
        # both sides, under the policy and under its reference
        return costs.training(rows, epochs, adapter=adapter, sequences=2) + 2 * rows * epochs

    @property
    def trains(self) -> float:
        return costs.trained(adapter=self.settings.lora is not None)

    def makes(self, rows: int, targets: int) -> int:
        training, _ = for_small_pools(self.settings.training, self.settings.lora, rows, self.fixed)
        return len(training.published(rows))

    def make(self, context: Context) -> Prepared:
        from gristmill.pipeline.evaluate.preference import preference_accuracy

        models = context.models
        bound = "reference" in models.roles
        reference_model = context.model("reference" if bound else self.base)
        rows = len(unique_ids(context.pool))
        asked = limited(context, self.settings.training)
        training, notes = for_small_pools(asked, self.settings.lora, rows, self.fixed)
        frame = draw(context.pool, rows, self.seed, "all")
        looked_at = draw(context.pool, min(rows, LEAST), self.seed, "margins")
        context.log_all(notes)
        while True:
            settings = dataclasses.replace(self.settings, training=training)
            trained = train_dpo(
                frame,
                context.model(self.base),
                settings,
                models.store,
                reference=reference_model if bound else None,
                run=run_of(context),
                allow_network=models.allow_network,
            )
            size = preference_accuracy(
                looked_at,
                trained.reference,
                models.store,
                reference=reference_model,
                beta=settings.beta,
                passes=context.passes,
                allow_network=models.allow_network,
            ).size.value
            if size > LEAST_MARGIN:
                return prepared(trained, notes)
            low = (
                f"mean |margin| is {size:.3g} after {training.epochs} epochs, below {LEAST_MARGIN}"
            )
            if 2 * training.epochs > MOST_EPOCHS or "epochs" in self.fixed:
                more = "epochs or learning rate" if "epochs" in self.fixed else "the learning rate"
                notes.append(f"{low}: raise {more}, or margins will not tell pairs apart.")
                context.log_all(notes[-1:])
                return prepared(trained, notes)
            training = dataclasses.replace(training, epochs=2 * training.epochs)
            notes.append(f"{low}: trained again for {training.epochs}.")
            context.log_all(notes[-1:])


@dataclass(frozen=True, kw_only=True)
class ValidationTuned(Recipe):
    """The base, tuned on the reference set: SFT on examples, DPO on pairs.

    Attributes:
        role: the role that the result fills.
        base: the role whose (last) model is trained.
        training: one epoch, as in LossDiff.
        lora: the adapter; None trains all weights. An adapter in the base role goes on training
            and needs its own rank and alpha here.
        beta: of DPO, on pairs alone.
    """

    role: str = "validation"
    base: str = "target"
    training: Training = field(default_factory=lambda: Training(epochs=1, checkpoints="last"))
    lora: Lora | None = field(default_factory=Lora)
    beta: float = 0.1

    def cost(self, rows: int, targets: int) -> float:
        return costs.training(targets, self.training.epochs, adapter=self.lora is not None)

    @property
    def trains(self) -> float:
        return costs.trained(adapter=self.lora is not None)

    def makes(self, rows: int, targets: int) -> int:
        training, _ = for_small_pools(self.training, self.lora, targets)
        return len(training.published(targets))

    def make(self, context: Context) -> Prepared:
        frame = context.target_rows("the validation-tuned model")
        models = context.models
        training, notes = for_small_pools(limited(context, self.training), self.lora, frame.height)
        base = context.model(self.base)
        context.log_all(notes)
        if "prompt" in frame.columns:
            trained = train_dpo(
                frame,
                base,
                Dpo(training=training, lora=self.lora, beta=self.beta),
                models.store,
                reference=context.model("reference") if "reference" in models.roles else None,
                run=run_of(context),
                allow_network=models.allow_network,
            )
        else:
            trained = train_sft(
                frame,
                base,
                Sft(training=training, lora=self.lora),
                models.store,
                run=run_of(context),
                allow_network=models.allow_network,
            )
        return prepared(trained, notes)


def prepared(trained: Trained, notes: Sequence[str]) -> Prepared:
    """The checkpoints of a run, weighted by their mean learning rates."""
    rates = [c.learning_rate for c in trained.checkpoints]
    return Prepared(
        references=tuple(c.reference for c in trained.checkpoints),
        weights=tuple(r / math.fsum(rates) for r in rates),
        notes=(*notes, *trained.notes),
    )


def for_small_pools(
    training: Training, lora: Lora | None, rows: int, fixed: Collection[str] = ()
) -> tuple[Training, list[str]]:
    """The settings with the overrides that a pool of this size needs, and what they were.

    Args:
        training: as the method has it by default, or the user.
        lora: the adapter, if one is trained.
        rows: of the pool.
        fixed: settings that the user gave: they stay, and what would have been is said.
    """
    notes = []
    if rows < SMALL and training.checkpoints == "epoch" and training.epochs > 1:
        training = dataclasses.replace(training, checkpoints="last")
        notes.append(f"one checkpoint, not {training.epochs}: the pool has {rows:,} rows.")
    if rows < SMALL and lora is not None and training.learning_rate < LORA_RATE:
        small = f"the pool has {rows:,} rows."
        if "learning_rate" in fixed:
            notes.append(
                f"learning rate {training.learning_rate:g}, as given; by default it would be "
                f"{LORA_RATE:g}: {small}"
            )
        else:
            notes.append(f"learning rate {LORA_RATE:g}, not {training.learning_rate:g}: {small}")
            training = dataclasses.replace(training, learning_rate=LORA_RATE)
    return training, notes


def count_read(context: Context, files: ModelFiles, frame: pl.DataFrame, times: int) -> None:
    """Tell the run's caps of rows that a recipe has shown a model, so many times.

    Training steps and answers are counted where they are made.
    """
    chat = context.passes.chat(files)
    sides: tuple[Literal["chosen", "rejected"], ...] = ("chosen", "rejected")
    views = [Dialogue(side=s) for s in sides] if "chosen" in frame.columns else [Dialogue()]
    rows = frame.iter_rows(named=True)
    context.caps.spend(times * sum(len(v.encode(row, chat).ids) for row in rows for v in views))


def draw(dataset: Dataset, rows: int, seed: int, purpose: str) -> pl.DataFrame:
    """`rows` records drawn by hash(seed, purpose, id): `id` and content, sorted by id."""
    keyed = ((uniform(seed, purpose, i), i) for i in unique_ids(dataset))
    taken = pl.DataFrame({"id": [i for _, i in heapq.nsmallest(rows, keyed)]})
    columns = ["id", *CONTENT[dataset.kind]]
    parts = [b.join(taken, on="id", how="semi") for b in dataset.blocks(columns)]
    return pl.concat(parts).unique("id", keep="first", maintain_order=True).sort("id")
