"""What the tasks of `refine-pairs` do: settings as nouns, paths in, paths out. No Prefect here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gristmill.flows import limits
from gristmill.flows.answerers import answerer
from gristmill.flows.asked import EMBEDDER
from gristmill.flows.refine_config import RefineConfig
from gristmill.flows.steps import Curation, Rows, bind, open_store
from gristmill.pipeline.export.publication import Publication
from gristmill.pipeline.export.publish import export
from gristmill.pipeline.finetune.job import Run
from gristmill.pipeline.models.completion.client import Budget, Price, Sampling
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.store import Store, open_entry
from gristmill.pipeline.road.curated import completed
from gristmill.synthesis.curation import publish
from gristmill.synthesis.curation.attributes import Annotation
from gristmill.synthesis.curation.labelling import Judges
from gristmill.synthesis.curation.linear_reward import Embedded, LinearReward
from gristmill.synthesis.curation.people import Reviewed
from gristmill.synthesis.curation.pool import Pool
from gristmill.synthesis.curation.reward_models import RewardModels, TrainedReward, scorer
from gristmill.synthesis.curation.rounds import Labeller, Stage1, Standing
from gristmill.synthesis.curation.routed import RoutedRewards
from gristmill.synthesis.curation.sweep import Stage2
from gristmill.synthesis.embedding import Loader, stored
from gristmill.synthesis.reward import Embed
from gristmill.synthesis.routing.encoder import Training
from gristmill.synthesis.routing.router import Router

PAPER = "arXiv:2507.01352"
_CURRENT: ContextVar["Refinement | None"] = ContextVar("refinement", default=None)
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
class Refinement:
    """One run: its settings, and what all its steps share.

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
    def _embed(self) -> Embed:
        (files,) = self.context.models.files("embedder")
        load = Loader(device=self.config.passes.device)
        return stored(files, load, self.store, batch=_BATCH)

    @cached_property
    def _budget(self) -> Budget:
        price = Price(tokens_in=self.config.price_in, tokens_out=self.config.price_out)
        return Budget(price=price, caps=self.context.caps)

    @cached_property
    def _cache(self) -> Path:
        return Path(self.config.store) / "completions.sqlite"

    def left(self, rows: Rows) -> Dataset:
        """The pairs that cleaning left.

        Raises:
            ValueError: the rows are no pairs.
        """
        pool = Dataset.open(rows.pool)
        if pool.kind != "pair":
            raise ValueError(
                f"refine-pairs checks the labels of preference pairs; the data holds {pool.kind} "
                "records."
            )
        return pool.without([open_entry(d).frame() for d in rows.drops])

    def describe(self, rows: Rows) -> Path | None:
        """Attributes of all pairs; the folder of their table. None: nobody describes them."""
        who = self.config.describer
        if who is None:
            return None
        annotation = Annotation(
            backend=answerer("describer", who, self.context.models, self.context.passes),
            cache=self._cache,
            budget=self._budget,
            seed=self.config.seed,
            tell=self.context.tell,
        )
        pairs = self.left(rows).frame().unique("id", keep="first").sort("id")
        return annotation.run(pairs, self.store).path

    def round(
        self, rows: Rows, described: Path | None, before: Sequence[Path]
    ) -> tuple[Path | None, dict[str, Any]]:
        """A round of stage 1; the folder of its entry, and what is to be told of it.

        None: no pair is left that is asked for.
        """
        stage1 = self.stage1(self.pool(rows, described))
        what, number = "stage 1, rounds", len(before)
        self.context.advance(what, number, self.config.rounds.number + 1)
        if not before:
            entry = stage1.start()
        else:
            found = stage1.next(Standing.of([open_entry(p) for p in before]))
            if found is None:
                return None, {}
            entry = found
        told = {k: v for k, v in entry.note.items() if k not in ("model", "judges")}
        return entry.path, {"round": number, **told}

    def sweep(self, rows: Rows, described: Path | None, rounds: Sequence[Path]) -> Path:
        """Stage 2; the folder of its outcome."""
        stage1 = self.stage1(self.pool(rows, described))
        stage2 = Stage2(
            pool=stage1.pool,
            models=stage1.models,
            labeller=stage1.labeller,
            people=stage1.people,
            store=self.store,
            flip=self.config.flip,
            flip_sample=self.config.flip_sample,
            seed=self.config.seed,
        )
        self.context.advance("stage 2", 0, 1)
        entry = stage2.run(Standing.of([open_entry(p) for p in rounds]))
        self.context.tell("stage 2", 1, 1)
        return entry.path

    def publish(self, curation: Curation, rows: Rows, rounds: Sequence[Path], found: Path) -> Path:
        """The pairs with their checked labels as a dataset; the published folder."""
        outcome, config = open_entry(found), self.config
        pool = Dataset.open(rows.pool)
        dataset = publish.curated(pool, outcome, self.store)
        labels = publish.labels(outcome, publish.names(pool, dataset))
        before = open_entry(curation.keep_all(rows)).frame()
        told = publish.told([open_entry(p) for p in rounds], outcome)
        evaluations = curation.cleaning.evaluations
        asked = Publication(
            root=Path(config.export.root),
            name=config.name,
            selection={
                "scorers": [],
                "method": publish.STAGE,
                "settings": settings_of_run(config),
                "papers": [PAPER],
                "filters": curation.cleaning.filter_settings or None,
                **told,
            },
            validation_fraction=config.export.validation_fraction,
            trainer_rows=config.export.trainer_rows,
            contamination=evaluations.facts() if evaluations else None,
            files={
                "labels.parquet": labels,
                "curation.json": json_text.published(told, indent=1) + "\n",
            },
        )
        return export(
            publish.ledger(before, labels), dataset, completed(asked, dataset, self.context)
        )

    def pool(self, rows: Rows, described: Path | None) -> Pool:
        """The pairs with what they are found by."""
        if not self._pools:
            attributes = None if described is None else open_entry(described).frame()
            frame = self.left(rows).frame()
            self._pools.append(Pool.of(frame, self._embed, self.store, attributes))
        return self._pools[0]

    @cached_property
    def _pools(self) -> list[Pool]:
        return []

    def stage1(self, pool: Pool) -> Stage1:
        """What every round is given."""
        config = self.config
        table = Path(config.people.judgements)
        models = self._reward_models(pool)
        return Stage1(
            pool=pool,
            models=models,
            labeller=self._labeller(pool, models),
            people=Reviewed(table=table, items=table.with_suffix(".items.parquet")),
            store=self.store,
            settings=config.stage1(),
        )

    def _reward_models(self, pool: Pool) -> RewardModels:
        config, context = self.config, self.context
        if config.reward_model.kind == "linear":
            return LinearReward(store=self.store, sides=self._sides(pool), name=self._features)
        (files,) = context.models.files("target")
        return TrainedReward(
            base=files.reference,
            settings=config.reward_model.made(config.passes),
            store=self.store,
            passes=context.passes,
            run=self._run,
            allow_network=config.allow_network,
        )

    @cached_property
    def _run(self) -> Run:
        def told(done: int, total: int, metrics: Mapping[str, float]) -> None:
            self.context.tell("reward model, steps", done, total)

        return Run(device=self.config.passes.device, progress=told, caps=self.context.caps)

    @cached_property
    def _features(self) -> str:
        (files,) = self.context.models.files("embedder")
        return files.fingerprint

    def _sides(self, pool: Pool) -> Embedded:
        if not self._embedded:
            self._embedded.append(Embedded.of(pool.pairs, self._embed))
        return self._embedded[0]

    @cached_property
    def _embedded(self) -> list[Embedded]:
        return []

    def _labeller(self, pool: Pool, models: RewardModels) -> Labeller | None:
        config, context = self.config, self.context
        if config.judges:
            asked = config.judging
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
        if not config.arms:
            return None
        files = context.models.files("reward")
        router = config.router
        return RoutedRewards(
            names=tuple(f.reference for f in files),
            fingerprints=tuple(f.fingerprint for f in files),
            scorers=tuple(scorer(f, context.passes, self._run) for f in files),
            pool=pool,
            sides=self._sides(pool),
            features=self._features,
            models=models,
            training=Training(width=router.width, seed=config.seed),
            router=Router(
                strength=router.strength,
                noise=router.noise,
                tie=router.tie,
                batch=router.batch,
                seed=config.seed,
            ),
        )


def settings_of_run(config: RefineConfig) -> dict[str, Any]:
    """What decides the labels, for the manifest: no path and no price."""
    names = ("judging", "reward_model", "router", "rounds", "flip", "flip_sample", "seed")
    told = {name: config.model_dump()[name] for name in names}
    people = {"start": config.people.start, "each_round": config.people.each_round}
    judges = [who.model or Path(who.recorded or "").stem for who in config.judges]
    return {**told, "people": people, "judges": judges}


@contextmanager
def running(config: RefineConfig, progress: Progress | None = None) -> Iterator[Refinement]:
    """The refinement that all steps in this block share."""
    made = Refinement(config=config, progress=progress)
    token = _CURRENT.set(made)
    try:
        yield made
    finally:
        _CURRENT.reset(token)


def current(config: RefineConfig) -> Refinement:
    """The refinement that is running here, or, in a process of its own, one of these settings."""
    found = _CURRENT.get()
    return found if found is not None and found.config == config else Refinement(config=config)


def walk(run: Refinement) -> Path:
    """All steps in order, without Prefect; the published folder."""
    curation = Curation(config=run.config, progress=run.progress)
    pool = curation.ingest("pool")
    assert pool is not None, "a run has sources"
    rows = Rows(pool=pool, reference=curation.ingest("reference"))
    rows = replace(rows, drops=tuple(curation.clean(rows)))
    described = run.describe(rows)
    rounds: list[Path] = []
    for _ in range(run.config.rounds.number + 1):
        found, _ = run.round(rows, described, rounds)
        if found is None:
            break
        rounds.append(found)
    return run.publish(curation, rows, rounds, run.sweep(rows, described, rounds))
