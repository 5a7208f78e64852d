"""Checks of a run's settings before anything is run: all that is wrong, the cheap things first.

Names and numbers are looked at first, then files, then models; only where all of these are right
are rows read, and only for what rows alone can tell.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gristmill.flows import (
    asked,
    cleaning,
    constructions,
    engines,
    evaluate_steps,
    finetune_steps,
    followed,
    prefer_steps,
    refining,
    steps,
    synthesis_steps,
)
from gristmill.flows.compare_config import CompareConfig
from gristmill.flows.config import CleanConfig, CurateConfig, PoolConfig
from gristmill.flows.evaluate_config import EvaluateConfig
from gristmill.flows.finetune_config import FinetuneConfig, FinetuneRunConfig
from gristmill.flows.gate_config import ComparisonConfig
from gristmill.flows.prefer_config import PreferConfig
from gristmill.flows.problems import Problems
from gristmill.flows.refine_config import RefineConfig
from gristmill.flows.settings import Settings
from gristmill.flows.synthesis_config import AnswererConfig, SynthesizeConfig
from gristmill.pipeline.clean.filters import filter_named
from gristmill.pipeline.contracts import Rule, Scorer, asked_roles
from gristmill.pipeline.export.versions import rows_of
from gristmill.pipeline.finetune.reward import has_reward_head
from gristmill.pipeline.ingest.ingest import Source
from gristmill.pipeline.ingest.patterns import is_pattern, matches
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.review.folder import said
from gristmill.pipeline.road.model_folder import check_free
from gristmill.pipeline.road.model_manifest import Base
from gristmill.pipeline.road.published import version_of
from gristmill.pipeline.score.score import method_id
from gristmill.pipeline.selection import possible
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.selection import Budget
from gristmill.selectors import catalog

T = TypeVar("T")
HUB = "hf://"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a check found.

    Attributes:
        rows: what there is, a line a thing.
        problems: what is wrong, a sentence each.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def attempt(self, where: str, make: Callable[[], T]) -> T | None:
        """What `make` gives; where it cannot, the sentence is kept."""
        try:
            return make()
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
        return None

    def tell(self, what: str, name: str, detail: str) -> None:
        """A line of what there is."""
        self.rows.append({"what": what, "name": name, "is": detail})

    def demand(self, where: str) -> None:
        """Stop here if anything is wrong."""
        if self.problems:
            raise Problems(where, list(dict.fromkeys(self.problems)))


def check(config: Settings, where: str) -> list[dict[str, Any]]:
    """Check the settings of any flow; a line per thing that they name.

    Args:
        config: of a run of any flow, or the cleaners of `gristmill clean`.
        where: how the sentences begin: the file.

    Raises:
        Problems: all that is wrong, as far as it could be seen.
    """
    found = Found()
    match config:
        case SynthesizeConfig():
            _synthesis(config, found, where)
        case PreferConfig():
            _preference(config, found, where)
        case RefineConfig():
            _refinement(config, found, where)
        case EvaluateConfig():
            _evaluation(config, found, where)
        case FinetuneRunConfig():
            _finetune(config, found, where)
        case PoolConfig():
            _run(config, found, where)
        case CleanConfig():
            _cleaners(config, found)
            found.demand(where)
    return found.rows


def _run(config: PoolConfig, found: Found, where: str) -> None:
    made = _scorers(config, found)
    rules = _stages(config, made, found)
    _judged(config, found)
    _cleaners(config.clean, found)
    found.attempt("keep, drop, takedown", partial(cleaning.lists_of, config))
    _sources(config, found)
    _bound(config, list(made.values()), found)
    _engine(config, found)
    found.demand(where)
    run = steps.Curation(config=config)
    found.attempt("select", lambda: run.stages)
    if config.clean.decontaminate:
        found.attempt("clean.decontaminate", lambda: run.cleaning)
    found.demand(where)
    _files(run.context.models, list(run.context.models.roles), found)
    if isinstance(config, CurateConfig) and config.finetune is not None:
        base = found.attempt(
            "finetune",
            partial(
                finetune_steps.started_from,
                config.finetune,
                config.models,
                network=config.allow_network,
            ),
        )
        _trained(config.finetune, base, run.context.store, found)
    found.demand(where)
    _groups(run, rules, found)
    found.demand(where)


def _engine(config: PoolConfig, found: Found) -> None:
    found.attempt("engine", partial(engines.made, config.engine))
    if config.engine.kind != "local":
        told = "as many as there is room for"
        if config.engine.workers is not None:
            told = f"{config.engine.workers} at most"
        found.tell("engine", config.engine.kind, f"workers: {told}")


def _scorers(config: PoolConfig, found: Found) -> dict[str, Scorer]:
    made: dict[str, Scorer] = {}
    named = config.scorers if isinstance(config, (CurateConfig, CompareConfig)) else ()
    for number, scorer in enumerate(named):
        place = f"scorers.{number}"
        one = found.attempt(place, partial(catalog.make, scorer.method, scorer.settings))
        if one is not None:
            made[scorer.called] = one
            found.tell("method", scorer.called, one.paper or "-")
            if one.reference == "required" and not config.reference:
                found.problems.append(f"{place}: {scorer.method} needs `reference:` rows.")
    return made


def _stages(config: PoolConfig, made: dict[str, Scorer], found: Found) -> dict[str, Rule]:
    """The rules, by where they stand."""
    rules: dict[str, Rule] = {}
    names = [s.called for s in config.scorers] if isinstance(config, CurateConfig) else []
    left = "the rows that cleaning leaves"
    for place, stage in asked.stages_asked(config).items():
        by = found.attempt(place, partial(asked.by, stage, names))
        decides = made.get(by or "")
        if stage.rule is not None:
            rule = found.attempt(place, partial(rule_named, stage.rule, stage.settings))
        else:
            rule = found.attempt(place, partial(asked.rule, stage, decides)) if decides else None
        if by is None or decides is None or rule is None:
            continue
        rules[place] = rule
        counted = "target" in config.models
        sentences = possible.unreadable(
            rule,
            list(made),
            counted=counted,
            targets=decides.reference != "none",
            pairs="pair" in decides.accepts,
        )
        budget = Budget.parse(stage.budget) if stage.budget else None
        sentences += possible.uncounted(budget, counted=counted)
        found.problems.extend([f"{place}: {s}" for s in sentences])
        amount = "all that the rule keeps" if budget is None else budget.words(left)
        found.tell(place, f"{possible.called(rule)} by {by}", amount)
        left = f"the rows that {place} keeps"
    return rules


def _judged(config: PoolConfig, found: Found) -> None:
    """What people said of the rows; whether it is of these rows is seen when they are read."""
    if config.review is not None:
        table = found.attempt("review", partial(said, Path(config.review)))
        if table is not None:
            found.tell("review", config.review, f"{table.height:,} judgements")


def _cleaners(config: CleanConfig, found: Found) -> None:
    for number, one in enumerate(config.filters):
        place = f"clean.filters.{number}"
        made = found.attempt(place, partial(filter_named, one.filter, one.settings))
        if made is not None:
            found.tell("filter", one.filter, ", ".join(f"{k}={v}" for k, v in one.settings.items()))
    for path in config.published:
        _exists(f"clean.published {path}", path, found)
        found.attempt("clean.published", partial(rows_of, path))
    against = config.decontaminate
    if against is not None:
        found.attempt("clean", partial(cleaning.folder_of, against))
        if against.config is not None:
            _exists("clean.decontaminate.config", against.config, found)


def _sources(config: PoolConfig, found: Found) -> None:
    _each_source("sources", config.sources, config.allow_network, found)
    _each_source("reference", config.reference, config.allow_network, found)
    if isinstance(config, CompareConfig):
        _comparison("comparison", config.comparison, config.allow_network, found)
        for number, text in enumerate(config.budgets):
            counted = "target" in config.models
            sentences = possible.uncounted(Budget.parse(text), counted=counted)
            found.problems.extend(f"budgets.{number}: {s}" for s in sentences)
    elif isinstance(config, CurateConfig) and config.gate is not None:
        _comparison("gate", config.gate, config.allow_network, found)


def _comparison(part: str, asked: ComparisonConfig, network: bool, found: Found) -> None:
    """The held-out rows of a comparison."""
    for kind in ("tests", "elsewhere"):
        for name, sources in vars(asked)[kind].items():
            _each_source(f"{part}.{kind}.{name}", sources, network, found)
    _each_source(f"{part}.validation", asked.validation, network, found)
    if asked.tasks is not None:
        files = found.attempt(f"{part}.tasks", partial(evaluate_steps.task_files, asked.tasks))
        for name, file in (files or {}).items():
            found.tell("task", name, file)


def _each_source(part: str, sources: Sequence[Source], network: bool, found: Found) -> None:
    for number, source in enumerate(sources):
        place = f"{part}.{number}"
        if not source.path.startswith(HUB):
            _there(place, source.path, found)
        elif not network:
            found.problems.append(
                f"{place}: {source.path} lies on the network: set allow_network: true, or give a "
                "folder that holds the data."
            )
        called = f"{source.name} ({source.path})" if source.name else source.path
        found.tell({"sources": "source"}.get(part, part), called, source.license or "no licence")


def _there(place: str, path: str, found: Found) -> None:
    """Files of a source: of a pattern, at least one."""
    if Path(path).expanduser().exists() or not is_pattern(path):
        _exists(place, path, found)
    elif not matches(path):
        found.problems.append(f"{place}: {path}: no file matches.")


def _exists(place: str, path: str, found: Found) -> None:
    if not Path(path).expanduser().exists():
        found.problems.append(f"{place}: {path}: there is no such file or folder.")


def _bound(config: PoolConfig, scorers: Sequence[Scorer], found: Found) -> None:
    """Roles that are read and that nothing binds."""
    bound = asked.models(config, scorers)
    for role, name in _asked(scorers):
        if role not in bound:
            found.problems.append(
                f"models: {name} reads a model in the role {role!r}, and none is bound: add "
                f"`{role}: REFERENCE` under `models:`."
            )
    for scorer in scorers:
        for role in asked_roles(scorer):
            given = bound.get(role, "")
            if isinstance(given, list) and len(given) > 1 and not scorer.multi_model:
                found.problems.append(
                    f"models.{role}: {len(given)} models are bound, and "
                    f"{method_id(scorer)} reads one."
                )


def _asked(scorers: Sequence[Scorer]) -> Iterator[tuple[str, str]]:
    for scorer in scorers:
        for role in asked_roles(scorer):
            yield role, method_id(scorer)


def _files(models: Models, roles: Sequence[str], found: Found) -> None:
    """The weights of every role, found and hashed."""
    for role in roles:
        several = found.attempt(f"models.{role}", partial(models.files, role))
        for files in several or ():
            found.tell(f"model {role}", files.reference, files.model_sha[:12])


def _groups(run: steps.Curation, rules: dict[str, Rule], found: Found) -> None:
    """Names of sources, licences ... that rules speak of; rows are read where only they tell."""
    naming = {p: r for p, r in rules.items() if r.named or possible.LENGTH_STRATUM in r.needs}
    if not naming:
        return
    static = possible.named_of({s.path: s.name for s in run.config.sources})
    if static is not None and all(set(r.named) == {"source"} for r in naming.values()):
        for place, rule in naming.items():
            found.problems.extend([f"{place}: {s}" for s in possible.nameless(rule, static)])
        return
    folder = run.ingest("pool")
    assert folder is not None, "a run has sources"
    pool = Dataset.open(folder)
    for place, rule in naming.items():
        lacking = found.attempt(place, partial(possible.lacking, pool, rule))
        found.problems.extend([f"{place}: {s}" for s in lacking or ()])


def _synthesis(config: SynthesizeConfig, found: Found, where: str) -> None:
    for part in ("sources", "reference", "known"):
        _each_source(part, vars(config)[part], config.allow_network, found)
    for number, path in enumerate(config.files):
        _exists(f"files.{number}", path, found)
    if config.benchmarks is not None:
        _exists("benchmarks", config.benchmarks, found)
    generator = found.attempt("generator", partial(synthesis_steps.generator_of, config))
    if generator is not None:
        found.tell("generator", config.generator, generator.paper or "-")
    for role in ("extractor", "checker", "reader"):
        who = vars(config)[role]
        if who is not None:
            _answerer(role, who, found)
    _curation(followed.curation(config, "records"), found)
    found.demand(where)
    models = synthesis_steps.models_of(config, steps.open_store(config.store))
    _files(models, list(models.roles), found)
    found.demand(where)


def _curation(then: CurateConfig | None, found: Found) -> None:
    """The curate run over what a run makes."""
    if then is None:
        return
    made = _scorers(then, found)
    _stages(then, made, found)
    _cleaners(then.clean, found)
    _each_source("curate.reference", then.reference, then.allow_network, found)
    _bound(then, list(made.values()), found)


def _preference(config: PreferConfig, found: Found, where: str) -> None:
    _each_source("sources", config.sources, config.allow_network, found)
    for role, writer in config.candidates.items():
        place = f"candidates.{role}"
        _each_source(f"{place}.sources", writer.sources, config.allow_network, found)
        if not writer.sources:
            _answerer(place, writer, found)
        if writer.avoids is not None:
            found.attempt(f"{place}.avoids", partial(constructions.phrases, writer.avoids))
    if config.judge is not None:
        if config.judge.by == "labels":
            found.tell("judge", "labels", "what the rows of the writers say")
        else:
            _answerer("judge", config.judge, found)
    for name in ("benchmarks", "judgements"):
        if (path := vars(config)[name]) is not None:
            _exists(name, path, found)
    if config.personas is not None and config.personas.writer is not None:
        _answerer("personas.writer", config.personas.writer, found)
    rule = None
    if config.personas is None:
        rule = found.attempt("rule", partial(prefer_steps.rule_of, config))
    if rule is not None:
        settings = ", ".join(f"{k}={v}" for k, v in config.settings.items())
        found.tell("rule", config.rule, settings or "-")
    _curation(followed.curation(config, "records"), found)
    found.demand(where)
    models = prefer_steps.models_of(config, steps.open_store(config.store))
    _files(models, list(models.roles), found)
    found.demand(where)


def _refinement(config: RefineConfig, found: Found, where: str) -> None:
    _engine(config, found)
    _cleaners(config.clean, found)
    _sources(config, found)
    for number, who in enumerate(config.judges):
        _answerer(f"judges.{number}", who, found)
    if config.describer is not None:
        _answerer("describer", config.describer, found)
    said = config.people.judgements or "gristmill review"
    found.tell("people", said, f"{config.people.start} pairs first")
    found.attempt("reward_model", partial(config.reward_model.made, config.passes))
    found.demand(where)
    if config.clean.keep == "best":
        found.problems.append("clean: keep: best needs scores, and refine-pairs has none.")
    if config.clean.decontaminate:
        found.attempt("clean.decontaminate", lambda: steps.Curation(config=config).cleaning)
    found.demand(where)
    models = refining.models_of(config, steps.open_store(config.store))
    _files(models, list(models.roles), found)
    found.demand(where)
    for files in models.files("reward") if config.arms else ():
        if not has_reward_head(files):
            found.problems.append(
                f"models.reward: {files.reference} has no reward head: bind models that "
                "`stage: reward` of a fine-tuning made."
            )
    found.demand(where)


def _finetune(config: FinetuneRunConfig, found: Found, where: str) -> None:
    version = found.attempt("dataset", partial(version_of, Path(config.dataset)))
    found.demand(where)
    assert version is not None, "nothing was wrong with it"
    found.tell("dataset", version.name, f"{version.rows('train'):,} {version.kind}s to train on")
    found.attempt("stage", partial(config.made, version.kind))
    base = found.attempt("models", partial(finetune_steps.base_of, config, version))
    _trained(config, base, steps.open_store(config.store), found)
    found.demand(where)


def _trained(config: FinetuneConfig, base: Base | None, store: Store, found: Found) -> None:
    """The models that a fine-tuning starts from, and where it writes to."""
    if config.out is not None:
        found.attempt("out", partial(check_free, Path(config.out)))
    for setting, find in (("model", Base.files), ("reference_model", Base.rival)):
        files = found.attempt(setting, partial(find, base, store)) if base else None
        if files is not None:
            found.tell(setting, files.reference, files.model_sha[:12])


def _answerer(role: str, who: AnswererConfig, found: Found) -> None:
    if who.recorded is not None:
        _exists(f"{role}.recorded", who.recorded, found)
    if who.key_variable is not None and not os.environ.get(who.key_variable):
        found.problems.append(
            f"{role}.key_variable: the environment has no {who.key_variable}: set it."
        )
    found.tell(role, who.model or who.recorded or "", who.url or "on this machine")


def _evaluation(config: EvaluateConfig, found: Found, where: str) -> None:
    for part in ("held_out", "trained_on"):
        _each_source(part, vars(config)[part], config.allow_network, found)
    if config.tasks is not None:
        asked_for = found.attempt("tasks", partial(evaluate_steps.task_files, config.tasks))
        for name, file in (asked_for or {}).items():
            found.tell("task", name, file)
    if config.win_rate is not None:
        _answerer("win_rate.judge", config.win_rate.judge, found)
    found.demand(where)
    models = evaluate_steps.models_of(config, steps.open_store(config.store))
    _files(models, list(models.roles), found)
    found.demand(where)
