"""The plan of a run that builds preference pairs: a line a writer, and one for the judge."""

from itertools import combinations
from pathlib import Path

from gristmill.flows import prefer_steps
from gristmill.flows.prefer_config import PreferConfig
from gristmill.flows.steps import open_store
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.plan.amounts import NOTHING, Amount, mean
from gristmill.pipeline.plan.completions import Calls, call_line
from gristmill.pipeline.plan.lines import PlanLine
from gristmill.pipeline.plan.probe import BATCHES, Probe
from gristmill.synthesis.preference.prompts import Prompt, prompts_in
from gristmill.synthesis.preference.rating import ASPECTS

_CHARACTERS = 4  # of a token, about
_AROUND = 150  # tokens of what a judge is told around the texts, about
_READ = 1  # token that a judge writes whose probabilities are read


def lines(config: PreferConfig, probe: Probe | None) -> list[PlanLine]:
    """How many calls each model takes at most, of how many tokens, for how much money.

    Args:
        config: of the run.
        probe: asks for a few answers of local models; None: nothing is asked.
    """
    store = open_store(config.store)
    models = prefer_steps.models_of(config, store)
    passes = Passes(**config.passes.model_dump())
    prompts = prompts_in(prefer_steps.gather(config))
    told = f"{len(prompts):,} to be asked, {sum(p.answer is not None for p in prompts):,} checked"
    found = [PlanLine(data="prompts", rows=len(prompts), runs=told, seconds=NOTHING)]
    calls = _writers(config, prompts)
    if (judge := _judge(config, prompts)) is not None:
        calls.append(judge)
    return [*found, *(call_line(c, models, passes, probe) for c in calls)]


def _writers(config: PreferConfig, prompts: list[Prompt]) -> list[Calls]:
    texts = tuple(p.text for p in prompts[:BATCHES])
    return [
        Calls(
            role=role,
            model=who.model or Path(who.recorded or "").name,
            local=who.model is not None and who.url is None,
            remote=who.url is not None,
            number=len(prompts) * who.samples * (1 if who.avoids is None else 2),
            read=_reads(config, role, prompts),
            written=who.max_tokens,
            price_in=who.price_in,
            price_out=who.price_out,
            prompts=texts,
        )
        for role, who in config.candidates.items()
        if not who.sources
    ]


def _reads(config: PreferConfig, role: str, prompts: list[Prompt]) -> Amount:
    """Tokens of what a writer reads: the prompt, and what it fuses."""
    prompt, who = _tokens(prompts), config.candidates[role]
    if who.fuses is None:
        return prompt
    before = list(config.candidates.values())[: list(config.candidates).index(role)]
    others = sum(w.samples * w.max_tokens for w in before) + _AROUND
    return Amount(value=min(prompt.value + others, who.fuses.most_tokens), half=prompt.half)


def _judge(config: PreferConfig, prompts: list[Prompt]) -> Calls | None:
    """The judge's calls, if a model is asked: every candidate differs, and none is known wrong."""
    who = config.judge
    if who is None or who.by == "labels":
        return None
    each = sum(w.samples for w in config.candidates.values())
    longest = max(w.max_tokens for w in config.candidates.values())
    prompt = _tokens(prompts)
    if who.by == "pairwise":
        number = len(list(combinations(range(each), 2))) * 2 * who.votes
        answers, written = 2, who.max_tokens
        canaries = 4 * who.canaries
    else:
        aspects = len(ASPECTS if who.aspects is None else who.aspects)
        number = each * (aspects if who.distribution else 1)
        answers, written = 1, who.max_tokens
        canaries = 2 * who.canaries * (aspects if who.distribution else 1)
    if who.by == "reward":
        number, canaries = each, 0
    judged = len(prompts)
    if config.label is not None:
        judged = min(judged, config.label.budget)
    if config.personas is not None:  # two answers, both orders, again after every fact
        users = config.personas.users
        number = 2 * who.votes * (users if isinstance(users, int) else len(users))
        number *= 1 + (config.personas.rounds if config.personas.writer is not None else 0)
        canaries = 0
    silent = who.distribution or who.by == "reward"
    around = 0 if who.by == "reward" else _AROUND
    return Calls(
        role="judge",
        model=who.model or Path(who.recorded or "").name,
        local=who.model is not None and who.url is None and who.by != "reward",
        remote=who.url is not None,
        number=judged * number + (canaries if prompts else 0),
        read=Amount(value=prompt.value + answers * longest + around, half=prompt.half),
        written=_READ if silent else written,
        price_in=who.price_in,
        price_out=who.price_out,
        prompts=tuple(p.text for p in prompts[:BATCHES]),
    )


def _tokens(prompts: list[Prompt]) -> Amount:
    lengths = [len(p.text) / _CHARACTERS for p in prompts]
    return mean(lengths, of=len(lengths)) if lengths else NOTHING
