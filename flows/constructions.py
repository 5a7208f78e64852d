"""Further ways to build pairs, from settings: writers that fuse or avoid, users, a choice."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gristmill.flows import limits
from gristmill.flows.answerers import answerer
from gristmill.flows.constructions_config import AvoidConfig
from gristmill.flows.prefer_config import PERSONAS, PreferConfig, WriterConfig
from gristmill.pipeline.clean.phrases import listed
from gristmill.pipeline.export.user_tables import read_table
from gristmill.pipeline.models.completion.budget import Price
from gristmill.pipeline.models.completion.requests import Sampling
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes, Progress
from gristmill.pipeline.models.roles import Models
from gristmill.synthesis.chunks import whitespace_words
from gristmill.synthesis.preference import personas
from gristmill.synthesis.preference.answering import Answered, Client, Writer
from gristmill.synthesis.preference.avoiding import PLAIN, Avoiding
from gristmill.synthesis.preference.few_shot import FewShot
from gristmill.synthesis.preference.fusion import Fusion
from gristmill.synthesis.preference.judges import Judge, Pairwise
from gristmill.synthesis.preference.persona_writer import PersonaWriter
from gristmill.synthesis.preference.personal import versus
from gristmill.synthesis.preference.personas import Labelled, User, asker
from gristmill.synthesis.preference.prompts import Prompt
from gristmill.synthesis.preference.refinement import Refinement
from gristmill.synthesis.preference.refinement import labelled as refined
from gristmill.synthesis.preference.reward import REWARD
from gristmill.synthesis.preference.selective import Selective


def writer(
    config: PreferConfig, role: str, who: WriterConfig, models: Models, passes: Passes
) -> Writer | None:
    """The writer of the settings, if it fuses or avoids; None: it is a plain one.

    Args:
        config: of the run.
        role: what the run calls it.
        who: its settings.
        models: of the run.
        passes: how a model in memory is run.
    """
    if who.fuses is None and who.avoids is None:
        return None
    sampling = Sampling(max_tokens=who.max_tokens, temperature=who.temperature, top_p=who.top_p)
    given: dict[str, Any] = {
        "role": role,
        "sampling": sampling,
        "on_policy": who.on_policy,
        "price": Price(tokens_in=who.price_in, tokens_out=who.price_out),
        "seed": config.seed,
    }
    backend = answerer(role, who, models, passes)
    if who.fuses is not None:
        return Fusion(backend=backend, most_tokens=who.fuses.most_tokens, **given)
    assert who.avoids is not None, "the other of the two"
    from gristmill.pipeline.models.completion.backtracking import Backtracking
    from gristmill.pipeline.models.completion.local import Local

    assert isinstance(backend, Local), "the settings ask for a model in memory"
    names = ("alternatives", "min_p", "attempts", "patience")
    back = Backtracking(
        of=backend,
        phrases=phrases(who.avoids),
        **{name: vars(who.avoids)[name] for name in names},
    )
    return Avoiding(backend=back, samples=who.samples, **given)


def phrases(asked: AvoidConfig) -> tuple[str, ...]:
    """The phrases that a writer avoids: those that are named, then those of a table."""
    table = None
    if asked.table is not None:
        table = read_table(Path(asked.table), "over-used phrases")
    return listed(asked.phrases, table, asked.most)


def roles(config: PreferConfig) -> set[str]:
    """What candidates may be called: the writers, and the plain answers of those that avoid."""
    avoiding = {r for r, who in config.candidates.items() if who.avoids is not None}
    return {*config.candidates, *(f"{role}{PLAIN}" for role in avoiding)}


def selective(
    config: PreferConfig, judge: Judge, models: Models, passes: Passes, progress: Progress | None
) -> Judge:
    """The judge, asked of no more prompts than there are labels to be had."""
    asked = config.label
    if asked is None:
        return judge
    context = RunContext(
        models=models, passes=passes, progress=progress, caps=limits.current(config.limits)
    )
    return Selective(
        of=judge,
        by=asked.choose,
        budget=asked.budget,
        models=[context.bound(models.bind(REWARD, (m,))) for m in asked.models],
        target=context if config.target is not None else None,
        seed=config.seed,
    )


def labelled(
    config: PreferConfig,
    prompts: Mapping[str, Prompt],
    answered: Answered,
    judge: Judge | None,
    models: Models,
    client: Client,
) -> Labelled:
    """What every user of the settings prefers.

    Args:
        config: with `personas`.
        prompts: by id.
        answered: their candidates.
        judge: of pairs, in both orders.
        models: of the run.
        client: how models are asked.
    """
    asked = config.personas
    assert asked is not None, "the run has users"
    assert isinstance(judge, Pairwise), "the settings ask for a judge of pairs"
    ask = asker(
        personas.judge(judge.of), {p.id: p.text for p in prompts.values()}, client, judge.price
    )
    author: PersonaWriter | None = None
    if asked.writer is not None:
        backend = answerer(PERSONAS, asked.writer, models, Passes(**config.passes.model_dump()))
        author = PersonaWriter(
            backend=backend, client=client, prompts=tuple(prompts.values()), seed=config.seed
        )
    if isinstance(asked.users, int):
        assert author is not None, "the settings ask for one"
        users = author.invent(asked.users)
    else:
        users = [User(id=name, description=text) for name, text in asked.users.items()]
    return refined(
        users,
        versus(answered.candidates),
        ask,
        Refinement(rounds=asked.rounds, outliers=asked.outliers, seed=config.seed),
        imply=None if author is None else author.imply,
        renew=None if author is None else author.renew,
    )


def few_shot(config: PreferConfig) -> FewShot:
    """How few-shot prompts are made."""
    asked = config.personas
    assert asked is not None, "the run has users"
    return FewShot(
        shots=asked.shots,
        both=asked.both,
        describe=asked.describe,
        most_tokens=asked.most_tokens,
        seed=config.seed,
    )


def counter(config: PreferConfig, models: Models) -> Callable[[str], int]:
    """How many tokens a text has: of the target's tokenizer, or about so many."""
    if config.target is None:
        return lambda text: whitespace_words([text])[0]
    (files,) = models.files("target")
    chat = Passes(**config.passes.model_dump()).chat(files)
    return lambda text: len(chat.tokenise(text)[0])
