"""Recipes of the preference methods, beside `PreferenceWarmUp` and `ValidationTuned` of `prepare`.

| recipe | makes |
|---|---|
| `Kept` | a role for the model that a later recipe trains on: the reference model of DPO |
| `PairTuned` | a model tuned on pairs by any objective: of the pool, a part of it, or the targets |
| `RewardTuned` | a Bradley-Terry reward model (weak annotator, external margin) |
| `Halves` | for each seed two models, each trained on one half of the pool (Selective DPO) |
"""

# N = rows of the pool

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import polars as pl

from gristmill.pipeline.contracts import Context, Prepared, Recipe
from gristmill.pipeline.finetune.dpo import Dpo, train_dpo
from gristmill.pipeline.finetune.reward import Reward, train_reward
from gristmill.pipeline.finetune.settings import Lora, Training, targets_of
from gristmill.pipeline.prepare import costs
from gristmill.pipeline.prepare.prepare import (
    PreferenceWarmUp,
    draw,
    for_small_pools,
    limited,
    prepared,
    run_of,
)
from gristmill.pipeline.records.dataset import unique_ids
from gristmill.pipeline.records.schema import uniform
from gristmill.pipeline.signals.pair_signals import Objective, ObjectiveName

LOSSES: dict[ObjectiveName, Literal["sigmoid", "hinge", "simpo"]] = {
    "dpo": "sigmoid",
    "slic": "hinge",
    "simpo": "simpo",
}


def settings_for(
    objective: Objective,
    *,
    epochs: int = 1,
    learning_rate: float = 5e-7,
    lora: Lora | None = None,
) -> Dpo:
    """A run of an objective on an adapter."""
    return Dpo(
        training=Training(epochs=epochs, learning_rate=learning_rate, checkpoints="last"),
        lora=lora or Lora(),
        loss=LOSSES[objective.name],
        beta=objective.beta,
        gamma=objective.gamma,
    )


@dataclass(frozen=True, kw_only=True)
class Kept(Recipe):
    """The model of one role, kept under another name before a recipe makes its successor.

    Attributes:
        role: the role that is filled.
        base: whose model it is.
    """

    role: str = "reference"
    base: str = "target"

    def make(self, context: Context) -> Prepared:
        return Prepared(references=(context.model(self.base),), weights=(1.0,))


@dataclass(frozen=True, kw_only=True)
class PairTuned(Recipe):
    """A model tuned on pairs.

    Attributes:
        role: the role that the result fills.
        base: the role whose (last) model is trained.
        on: the pool, or the reference set.
        most: pairs that are drawn from the pool, by id; all of them by default.
        settings: objective, adapter, schedule. An adapter in the base role goes on training.
        fixed: settings that a user gave: no small pool overrides them.
        seed: of the draw.
    """

    role: str = "validation"
    base: str = "target"
    on: Literal["pool", "reference"] = "reference"
    most: int | None = None
    settings: Dpo = field(default_factory=lambda: settings_for(Objective()))
    fixed: tuple[str, ...] = ()
    seed: int = 0

    def cost(self, rows: int, targets: int) -> float:
        return _cost(self.settings, self._pairs(rows, targets))

    @property
    def trains(self) -> float:
        return costs.trained(adapter=self.settings.lora is not None)

    def makes(self, rows: int, targets: int) -> int:
        pairs, settings = self._pairs(rows, targets), self.settings
        training, _ = for_small_pools(settings.training, settings.lora, pairs, self.fixed)
        return len(training.published(pairs))

    def _pairs(self, rows: int, targets: int) -> int:
        return targets if self.on == "reference" else min(rows, self.most or rows)

    def make(self, context: Context) -> Prepared:
        if self.on == "reference":
            frame = context.target_rows("the validation-tuned model")
        else:
            rows = len(unique_ids(context.pool))
            frame = draw(context.pool, min(rows, self.most or rows), self.seed, "pairs")
        return _tuned(self.settings, self.base, frame, context, self.fixed)


def _cost(settings: Dpo, pairs: int) -> float:
    """Of both sides, under the policy and, where one is read, under its reference."""
    epochs, adapter = settings.training.epochs, settings.lora is not None
    reference = 0 if settings.loss == "simpo" else 2 * pairs * epochs
    return costs.training(pairs, epochs, adapter=adapter, sequences=2) + reference


def _tuned(
    settings: Dpo,
    base: str,
    frame: pl.DataFrame,
    context: Context,
    fixed: tuple[str, ...] = (),
) -> Prepared:
    asked = limited(context, settings.training)
    training, notes = for_small_pools(asked, settings.lora, frame.height, fixed)
    context.log_all(notes)
    models = context.models
    bound = "reference" in models.roles and settings.loss != "simpo"
    trained = train_dpo(
        frame,
        context.model(base),
        Dpo(**{**vars(settings), "training": training}),
        models.store,
        reference=context.model("reference") if bound else None,
        run=run_of(context),
        allow_network=models.allow_network,
    )
    return prepared(trained, notes)


@dataclass(frozen=True, kw_only=True)
class PairWarmUp:
    """The warm-up of the preference methods, as their settings: all pairs of the pool, an adapter.

    Attributes:
        epochs: passes over the pairs; none: 1, doubled until margins carry something.
        learning_rate: the peak; none: 5e-7, and 1e-4 on fewer than 2,000 pairs.
        targets: layers of the adapter: attention, all-linear, or ends of names, comma-separated.
    """

    epochs: int | None = None
    learning_rate: float | None = None
    targets: str = "attention"

    def __post_init__(self) -> None:
        epochs, rate = self.epochs, self.learning_rate
        if (epochs is not None and epochs < 1) or (rate is not None and not rate > 0):
            raise ValueError(
                "warm_up.epochs is at least 1 and warm_up.learning_rate above 0; found "
                f"{self.epochs} and {self.learning_rate}."
            )


def warmed_up(
    objective: Objective, warm_up: PairWarmUp | None
) -> tuple[Kept | PreferenceWarmUp | PairTuned, ...]:
    """The reference kept, the target warmed up on all pairs: what every implicit margin needs.

    SimPO's margins need no reference and are not 0 before a warm-up, so its epochs never double.
    Without a warm-up there is nothing to make.
    """
    if warm_up is None:
        return ()
    asked = {"epochs": warm_up.epochs, "learning_rate": warm_up.learning_rate}
    given: dict[str, Any] = {n: v for n, v in asked.items() if v is not None}
    lora, fixed = Lora(targets=targets_of(warm_up.targets)), tuple(given)
    settings = settings_for(objective, **given, lora=lora)
    if not objective.reads_reference:
        return (PairTuned(role="target", on="pool", settings=settings, fixed=fixed),)
    return (Kept(), PreferenceWarmUp(settings=settings, fixed=fixed))


@dataclass(frozen=True, kw_only=True)
class RewardTuned(Recipe):
    """A reward model by Bradley and Terry's loss, all weights trained.

    Its pairs are the reference set, or else a random share of the pool.

    Attributes:
        role: the role that the result fills.
        base: the role that is trained.
        share: of the pool, drawn by id.
        settings: of the training.
        seed: of the draw.
    """

    role: str = "reward"
    base: str = "target"
    share: float = 0.3
    settings: Reward = field(
        default_factory=lambda: Reward(
            training=Training(epochs=1, learning_rate=1e-5, checkpoints="last")
        )
    )
    seed: int = 0

    def cost(self, rows: int, targets: int) -> float:
        pairs, epochs = self._pairs(rows, targets), self.settings.training.epochs
        adapter = self.settings.lora is not None
        return costs.training(pairs, epochs, adapter=adapter, sequences=2)

    @property
    def trains(self) -> float:
        return costs.trained(adapter=self.settings.lora is not None)

    def makes(self, rows: int, targets: int) -> int:
        return len(self.settings.training.published(self._pairs(rows, targets)))

    def _pairs(self, rows: int, targets: int) -> int:
        return targets or max(1, round(self.share * rows))

    def make(self, context: Context) -> Prepared:
        if context.reference is not None:
            frame = context.target_rows("the reward model")
            notes = [f"reward model of {frame.height:,} pairs of the reference set."]
        else:
            rows = len(unique_ids(context.pool))
            frame = draw(context.pool, max(1, round(self.share * rows)), self.seed, "reward")
            notes = [f"reward model of {frame.height:,} of the {rows:,} pairs: no reference set."]
        context.log_all(notes)
        trained = train_reward(
            frame,
            context.model(self.base),
            replace(self.settings, training=limited(context, self.settings.training)),
            context.models.store,
            run=run_of(context),
            allow_network=context.models.allow_network,
        )
        return prepared(trained, notes)


@dataclass(frozen=True, kw_only=True)
class Halves(Recipe):
    """For each seed the pool is cut in two, and a model is trained on each part.

    Models are in the order (seed 0, half 0), (seed 0, half 1), (seed 1, half 0) ... Which half a
    row is in depends on (seed, id) alone (`half_of`), so that the scorer knows it without asking.

    Attributes:
        role: the role that the models fill.
        base: the role that is trained.
        seeds: of the cuts.
        settings: of each training.
    """

    role: str = "proxy"
    base: str = "target"
    seeds: tuple[int, ...] = (41, 42, 43)
    settings: Dpo = field(default_factory=lambda: settings_for(Objective(beta=0.01)))

    def cost(self, rows: int, targets: int) -> float:
        return len(self.seeds) * _cost(self.settings, rows)

    @property
    def trains(self) -> float:
        return costs.trained(adapter=self.settings.lora is not None)

    def makes(self, rows: int, targets: int) -> int:
        return 2 * len(self.seeds)

    def make(self, context: Context) -> Prepared:
        ids = unique_ids(context.pool)
        frame = draw(context.pool, len(ids), 0, "all")
        parts = [halved(ids, seed, half) for seed in self.seeds for half in (0, 1)]
        if any(not part for part in parts):
            raise ValueError(
                f"{len(ids)} pairs cannot be cut in two halves by their ids: give more pairs."
            )
        made = []
        for part in parts:
            rows = frame.filter(pl.col("id").is_in(part))
            made.append(_tuned(self.settings, self.base, rows, context))
        references = tuple(m.references[-1] for m in made)
        notes = tuple(dict.fromkeys(s for m in made for s in m.notes))
        return Prepared(references=references, weights=(1 / len(made),) * len(made), notes=notes)


def half_of(ident: str, seed: int) -> int:
    """0 or 1: the half of the pool that a row is trained on."""
    return int(uniform(seed, "half", ident) >= 0.5)


def halved(ids: Iterable[str], seed: int, half: int) -> list[str]:
    """The ids of one half."""
    return [i for i in ids if half_of(i, seed) == half]
