"""Refining: the settings of `refine-pairs` as the nouns of the pipeline and of the curation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gristmill.flows import limits
from gristmill.flows.answerers import answerer
from gristmill.flows.asked import EMBEDDER
from gristmill.flows.refine_config import RefineConfig
from gristmill.flows.steps import bind, open_store
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.models.completion.client import Budget, Price, Sampling
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.judgements import JUDGEMENTS
from gristmill.pipeline.records.store import Store
from gristmill.synthesis.curation.attributes import Annotation
from gristmill.synthesis.curation.labelling import Judges
from gristmill.synthesis.curation.linear_reward import Embedded, LinearReward
from gristmill.synthesis.curation.people import Reviewed
from gristmill.synthesis.curation.pool import Pool
from gristmill.synthesis.curation.reward_models import RewardModels, TrainedReward, scorer
from gristmill.synthesis.curation.rounds import Labeller, Stage1
from gristmill.synthesis.curation.routed import RoutedRewards
from gristmill.synthesis.embedding import Loader, stored
from gristmill.synthesis.reward import Embed
from gristmill.synthesis.routing.encoder import Training
from gristmill.synthesis.routing.router import Router

_CURRENT: ContextVar["Refining | None"] = ContextVar("refining", default=None)
_BATCH = 32  # texts that the embedder is shown at a time


def judge_role(number: int) -> str:
    """What the model of a judge is bound as."""
    return f"judge-{number}"


def models_of(config: RefineConfig, store: Store) -> Models:
    """The run's models: roles, and those that judge or describe in memory."""
    roles: dict[str, str | list[str]] = {"embedder": EMBEDDER, **config.models}
    asked = {judge_role(n): who for n, who in enumerate(config.judges)}
    if config.describer is not None:
        asked["describer"] = config.describer
    for role, who in asked.items():
        if who.model is not None and who.url is None:
            roles[role] = who.model
    return bind(store, roles, allow_network=config.allow_network)


@dataclass(frozen=True, kw_only=True)
class Refining:
    """One run of `refine-pairs`: its settings, and what all its steps share.

    Attributes:
        config: the settings.
        progress: told of stages of work.
    """

    config: RefineConfig
    progress: Progress | None = None

    @cached_property
    def store(self) -> Store:
        """Where all work is kept."""
        return open_store(self.config.store)

    @cached_property
    def context(self) -> RunContext:
        """Store, models, passes, progress and caps of the run."""
        return RunContext(
            models=models_of(self.config, self.store),
            passes=Passes(**self.config.passes.model_dump()),
            progress=self.progress,
            caps=limits.current(self.config.limits),
        )

    @cached_property
    def annotation(self) -> Annotation | None:
        """How pairs are described; None: they are not."""
        who = self.config.describer
        if who is None:
            return None
        return Annotation(
            backend=answerer("describer", who, self.context.models, self.context.passes),
            cache=self._cache,
            budget=self._budget,
            seed=self.config.seed,
            tell=self.context.tell,
        )

    def stage1(self, pairs: Dataset, described: Any) -> Stage1:  # noqa: ANN401  (a table)
        """What every round is given; made once, as models are loaded for it.

        Args:
            pairs: the pairs that cleaning left.
            described: the table of their attributes; None: they have none.
        """
        if not self._made:
            pool = Pool.of(pairs.frame(), self._embed, self.store, described)
            models = self._reward_models(pool)
            self._made.append(
                Stage1(
                    pool=pool,
                    models=models,
                    labeller=self._labeller(pool, models),
                    people=self._people(),
                    store=self.store,
                    settings=self.config.stage1(),
                )
            )
        return self._made[0]

    @cached_property
    def _made(self) -> list[Stage1]:
        return []

    @cached_property
    def _embed(self) -> Embed:
        (files,) = self.context.models.files("embedder")
        load = Loader(device=self.config.passes.device)
        return stored(files, load, self.store, batch=_BATCH)

    @cached_property
    def _features(self) -> str:
        (files,) = self.context.models.files("embedder")
        return files.fingerprint

    @cached_property
    def _budget(self) -> Budget:
        price = Price(tokens_in=self.config.price_in, tokens_out=self.config.price_out)
        return Budget(price=price, caps=self.context.caps)

    @cached_property
    def _cache(self) -> Path:
        return Path(self.config.store) / "completions.sqlite"

    @cached_property
    def _run(self) -> Run:
        def told(done: int, total: int, metrics: Mapping[str, float]) -> None:
            self.context.tell("reward model, steps", done, total)

        return Run(device=self.config.passes.device, progress=told, caps=self.context.caps)

    def _people(self) -> Reviewed:
        if self.config.people.judgements is not None:
            said = Path(self.config.people.judgements)
            items = said.with_suffix(".items.parquet")
            how = f"put what they say into {said} (columns {', '.join(JUDGEMENTS)})"
            return Reviewed(said=said, items=items, how=how)
        store = Path(self.config.store)
        items = store / "waiting" / f"{self.config.name}.parquet"
        how = f"judge them with `gristmill review {items} --store {store}`"
        return Reviewed(said=store / "reviews", items=items, how=how)

    def _reward_models(self, pool: Pool) -> RewardModels:
        config, context = self.config, self.context
        if config.reward_model.kind == "linear":
            sides = Embedded.of(pool.pairs, self._embed)
            return LinearReward(store=self.store, sides=sides, name=self._features)
        (files,) = context.models.files("target")
        return TrainedReward(
            base=files.reference,
            settings=config.reward_model.made(config.passes),
            store=self.store,
            passes=context.passes,
            run=self._run,
            allow_network=config.allow_network,
        )

    def _labeller(self, pool: Pool, models: RewardModels) -> Labeller | None:
        if self.config.judges:
            return self._judges()
        return self._routed(pool, models) if self.config.arms else None

    def _judges(self) -> Judges:
        config, context, asked = self.config, self.context, self.config.judging
        return Judges(
            backends=tuple(
                answerer(judge_role(n), who, context.models, context.passes)
                for n, who in enumerate(config.judges)
            ),
            cache=self._cache,
            guideline=asked.guideline,
            samples=asked.samples,
            characters=asked.characters,
            sampling=Sampling(max_tokens=asked.max_tokens, temperature=asked.temperature),
            budget=self._budget,
            seed=config.seed,
            tell=context.tell,
        )

    def _routed(self, pool: Pool, models: RewardModels) -> RoutedRewards:
        asked, seed = self.config.router, self.config.seed
        files = self.context.models.files("reward")
        return RoutedRewards(
            fingerprints=tuple(f.fingerprint for f in files),
            scorers=tuple(scorer(f, self.context.passes, self._run) for f in files),
            pool=pool,
            sides=Embedded.of(pool.pairs, self._embed),
            features=self._features,
            models=models,
            training=Training(width=asked.width, seed=seed),
            router=Router(
                strength=asked.strength,
                noise=asked.noise,
                tie=asked.tie,
                batch=asked.batch,
                seed=seed,
            ),
        )


@contextmanager
def running(config: RefineConfig, progress: Progress | None = None) -> Iterator[Refining]:
    """The run that all steps in this block share."""
    made = Refining(config=config, progress=progress)
    token = _CURRENT.set(made)
    try:
        yield made
    finally:
        _CURRENT.reset(token)


def current(config: RefineConfig) -> Refining:
    """The run that is going on here, or, in a process of its own, one of these settings."""
    found = _CURRENT.get()
    return found if found is not None and found.config == config else Refining(config=config)
