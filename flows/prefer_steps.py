"""What the tasks of a run that builds preference pairs do: settings and paths in, paths out."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gristmill.flows import constructions, limits, reports
from gristmill.flows.answerers import answerer
from gristmill.flows.prefer_config import JudgeConfig, PreferConfig, WriterConfig
from gristmill.flows.steps import bind, open_store
from gristmill.flows.synthesis_config import AnswererConfig
from gristmill.pipeline.clean.benchmarks import load_benchmarks
from gristmill.pipeline.clean.cleaning import Evaluations
from gristmill.pipeline.evaluate.judging import SAID, PairJudge
from gristmill.pipeline.export.user_tables import read_table
from gristmill.pipeline.ingest.ingest import ingest
from gristmill.pipeline.models.completion.budget import Price
from gristmill.pipeline.models.completion.first_token import FirstToken
from gristmill.pipeline.models.completion.requests import CompletionBackend, Sampling
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.place import folder_of
from gristmill.pipeline.records.store import Store
from gristmill.synthesis.preference import kept, people
from gristmill.synthesis.preference.answering import Answered, Client, File, Model, Writer
from gristmill.synthesis.preference.building import Building
from gristmill.synthesis.preference.constructed import tables as tables_of
from gristmill.synthesis.preference.judges import (
    Asked,
    Judge,
    Labels,
    Pairwise,
    Pointwise,
    Reward,
    judged,
)
from gristmill.synthesis.preference.length import LengthControl
from gristmill.synthesis.preference.outcome import Controls, built
from gristmill.synthesis.preference.personal import Truncated, personal
from gristmill.synthesis.preference.prompts import Known, prompts_in, read
from gristmill.synthesis.preference.prompts import gather as gathered
from gristmill.synthesis.preference.publishing import Edition
from gristmill.synthesis.preference.publishing import publish as published
from gristmill.synthesis.preference.rating import ASPECTS, RatingJudge
from gristmill.synthesis.preference.reward import REWARD
from gristmill.synthesis.preference.rules import PairRule, rule_named
from gristmill.synthesis.preference.truncation import truncation


def gather(config: PreferConfig) -> Path:
    """Rows to prompts; returns the folder of their entry."""
    store = open_store(config.store)
    against = _evaluations(config)
    entry = gathered(
        store,
        _prompts(config, store),
        known=Known(grade=config.verify, column=config.answer_column),
        items=None if against is None else against.items,
    )
    return entry.path


def answer(config: PreferConfig, prompts: Path, progress: Progress | None = None) -> Path:
    """Prompts to candidates; returns the folder of their entry."""
    store = open_store(config.store)
    models, client = models_of(config, store), _client(config, progress)
    asked, found = prompts_in(prompts), Answered()
    for role, who in config.candidates.items():  # one after the other: one model in memory
        found = found + _writer(config, role, who, models).answer(asked, found.candidates, client)
    return kept.keep_answers(store, found)


def judge(
    config: PreferConfig, prompts: Path, answers: Path, progress: Progress | None = None
) -> Path:
    """Candidates to verdicts and scores; returns the folder of their entry."""
    store = open_store(config.store)
    answered = kept.answers_in(answers)
    asked = Asked(
        prompts={p.id: p for p in prompts_in(prompts)},
        labels=answered.labels,
        client=_client(config, progress),
    )
    models = models_of(config, store)
    who = judge_of(config, models, progress)
    if config.personas is not None:
        said = constructions.labelled(config, asked.prompts, answered, who, models, asked.client)
        return kept.keep_labelled(store, said)
    if who is not None:
        who = constructions.selective(config, who, models, _passes(config), progress)
    return kept.keep_judgement(store, judged(answered.candidates, asked, who))


def publish(config: PreferConfig, prompts: Path, answers: Path, verdicts: Path) -> Path:
    """Verdicts to pairs; returns the folder of the published version."""
    store = open_store(config.store)
    asked, answered = prompts_in(prompts), kept.answers_in(answers)
    against = _evaluations(config)
    controls = Controls(
        length=LengthControl(**config.length.model_dump()),
        items=None if against is None else against.items,
    )
    by_id, edition = {p.id: p for p in asked}, _edition(config, store, against)
    if config.personas is not None:
        said = kept.labelled_in(verdicts, answered.candidates)
        outcome = personal(
            asked,
            read(prompts, "aside"),
            answered.candidates,
            said,
            constructions.few_shot(config),
            controls,
            constructions.counter(config, models_of(config, store)),
            _truncated(config, store),
        )
        tables = {f"{name}.parquet": read(verdicts, name) for name in ("users", "labels")}
        return published(outcome, answered, edition, store, tables)
    rule = rule_of(config)
    truncated = _truncated(config, store)
    more: dict[str, Any] = {} if truncated is None else {"shown": truncated(by_id)}
    spoken = {}
    if config.judgements is not None:
        spoken = people.verdicts(read_table(Path(config.judgements), "judgements"))
    outcome = built(
        asked,
        read(prompts, "aside"),
        answered.unanswered,
        kept.judgement_in(verdicts),
        Building(rule=rule, min_gap=config.min_gap, floor=config.floor, seed=config.seed, **more),
        replace(controls, people=spoken),
    )
    tables = tables_of(answered, outcome.kept, by_id, controls)
    return published(outcome, answered, edition, store, tables)


def _truncated(config: PreferConfig, store: Store) -> Truncated | None:
    """Prompts to what the target sees of their answers, if there is a target."""
    if config.target is None:
        return None
    (files,) = models_of(config, store).files("target")
    return partial(truncation, files, _passes(config))


def rule_of(config: PreferConfig) -> PairRule:
    """The pair rule of the settings.

    Raises:
        ValueError: there is no such rule or setting, it names no writer, or nothing gives the
            scores that it compares.
    """
    rule = rule_named(config.rule, config.settings)
    for name, role in config.settings.items():
        if name in ("strong", "weak") and role not in constructions.roles(config):
            raise ValueError(f"settings.{name}: there is no writer {role!r} among `candidates`.")
    if rule.by_score and config.verify is None and config.judge is None:
        raise ValueError(
            f"the rule {config.rule} compares scores, and nothing gives any: set `verify` or "
            "`judge`."
        )
    return rule


def judge_of(
    config: PreferConfig, models: Models, progress: Progress | None = None
) -> Judge | None:
    """The judge of the settings, if there is one."""
    who = config.judge
    if who is None:
        return None
    if who.by == "labels":
        ratings = (w.rating for w in config.candidates.values() if w.rating is not None)
        return Labels(ratings=frozenset(ratings))
    passes = _passes(config)
    if who.by == "reward":
        context = RunContext(
            models=models.bind(REWARD, models.roles["judge"]),
            passes=passes,
            progress=progress,
            caps=limits.current(config.limits),
        )
        return Reward(context=context)
    backend = answerer("judge", who, models, passes)
    price = Price(tokens_in=who.price_in, tokens_out=who.price_out)
    sampling = Sampling(max_tokens=who.max_tokens, temperature=who.temperature)
    if who.by == "pairwise":
        compares = PairJudge(
            backend=_read(who, backend, tuple(SAID)),
            sampling=sampling,
            votes=who.votes,
            least_mass=who.least_mass,
            band=who.band,
            seed=config.seed,
        )
        return Pairwise(of=compares, price=price, canaries=who.canaries)
    grades = tuple(str(g) for g in range(1, who.grades + 1))
    rates = RatingJudge(
        backend=_read(who, backend, grades),
        aspects=dict(ASPECTS if who.aspects is None else who.aspects),
        grades=who.grades,
        sampling=sampling,
        least_mass=who.least_mass,
    )
    return Pointwise(of=rates, price=price, canaries=who.canaries)


def models_of(config: PreferConfig, store: Store) -> Models:
    """The run's models by what they do here; they need not be named like model roles."""
    return bind(store, config.models, allow_network=config.allow_network)


def announcement(name: str, folder: Path) -> str:
    """What came out, in a few lines of Markdown."""
    told = json.loads((folder / "summary.json").read_text("utf-8"))
    lines = "".join(f"- {what}: {value}\n" for what, value in told.items() if value is not None)
    opened = reports.link(folder)
    report = f"[open the report]({opened})" if opened else f"`{folder / reports.PAGE}`"
    return f"**{name}**\n\n{lines}- folder: `{folder}`\n- report: {report}\n"


def _writer(config: PreferConfig, role: str, who: WriterConfig, models: Models) -> Writer:
    if who.sources:
        rows = ingest(models.store, who.sources, allow_network=config.allow_network)
        return File(role=role, rows=rows, rating=who.rating, on_policy=who.on_policy)
    further = constructions.writer(config, role, who, models, _passes(config))
    if further is not None:
        return further
    return Model(
        role=role,
        backend=answerer(role, who, models, _passes(config)),
        sampling=Sampling(max_tokens=who.max_tokens, temperature=who.temperature, top_p=who.top_p),
        samples=who.samples,
        system=who.system,
        on_policy=who.on_policy,
        price=Price(tokens_in=who.price_in, tokens_out=who.price_out),
        seed=config.seed,
    )


def _read(
    who: JudgeConfig, backend: CompletionBackend, answers: tuple[str, ...]
) -> CompletionBackend:
    """The judge itself, or the same read for the probabilities of what it may answer."""
    if not who.distribution:
        return backend
    from gristmill.pipeline.models.completion.local import Local

    assert isinstance(backend, Local), "the settings ask for a model in memory"
    return FirstToken(of=backend, answers=answers)


def _client(config: PreferConfig, progress: Progress | None) -> Client:
    return Client(
        cache=folder_of(config.store) / "completions.sqlite",
        caps=limits.current(config.limits),
        progress=progress,
    )


def _passes(config: PreferConfig) -> Passes:
    return Passes(**config.passes.model_dump())


def _prompts(config: PreferConfig, store: Store) -> Dataset:
    return ingest(store, config.sources, allow_network=config.allow_network)


def _evaluations(config: PreferConfig) -> Evaluations | None:
    if config.benchmarks is None:
        return None
    return Evaluations(items=load_benchmarks(Path(config.benchmarks)), rewordings=False)


def _edition(config: PreferConfig, store: Store, against: Evaluations | None) -> Edition:
    models = models_of(config, store)
    found = {m["role"]: m for m in models.describe(sorted(models.roles))}
    asked: dict[str, Any] = {**config.candidates, "judge": config.judge}
    named = [
        found.get(role, {"role": role, "id": _called(who)})
        for role, who in asked.items()
        if who is not None
    ]
    who = config.judge
    return Edition(
        root=Path(config.export.root),
        name=config.name,
        rule=config.rule,
        settings=_told(config),
        judge="" if who is None else f"{who.by}: {_called(who)}",
        models=named,
        sources=_prompts(config, store).sources,
        contamination=None if against is None else against.facts(),
        validation_fraction=config.export.validation_fraction,
        pair_views=tuple(config.export.pair_views),
        seeds={"prefer": config.seed},
        synthetic=any(not w.sources for w in config.candidates.values()),
    )


def _called(who: AnswererConfig) -> str:
    """What the folder calls who was asked: a model, or the table of recorded answers."""
    return who.model or (Path(who.recorded).stem if who.recorded else "rows")


def _told(config: PreferConfig) -> dict[str, Any]:
    """The settings that decide what a pair is, as the published folder states them."""
    names = ["verify", "answer_column", "rule", "settings", "min_gap", "floor", "length", "seed"]
    names += ["label", "personas"]
    told = config.model_dump(mode="json")
    return {name: told[name] for name in names}
