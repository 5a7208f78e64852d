"""Planning: what a run of any flow will take, before it is run, for a table."""

from typing import Any

from gristmill.flows import checks, steps, synthesis_steps
from gristmill.flows.config import RunConfig, Settings
from gristmill.flows.evaluate_config import EvaluateConfig
from gristmill.flows.synthesis_config import SynthesizeConfig
from gristmill.pipeline.models.passes import Progress
from gristmill.pipeline.plan.run import Embeddings, plan_run
from gristmill.pipeline.records.dataset import Dataset
from gristmill.synthesis import gathering

_PROMPT = 400  # tokens of the instructions around a chunk, about
_CHARACTERS = 4  # of a token, about


def plan(config: Settings, where: str, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Check the settings, read the rows, and say what a run will take.

    Args:
        config: of a flow.
        where: the file, for sentences about it.
        progress: told of the reading.

    Raises:
        ValueError: what is wrong with the settings, or with the rows under them.
    """
    checks.check(config, where)
    if isinstance(config, SynthesizeConfig):
        return _synthesis(config)
    if isinstance(config, RunConfig):
        return _run(config, progress)
    if isinstance(config, EvaluateConfig):
        raise ValueError(f"{where} is an evaluation, which has no plan: try it with --limit.")
    raise ValueError(
        f"{where} holds cleaners and names no rows: put them under `clean:` of a run to plan it."
    )


def _run(config: RunConfig, progress: Progress | None) -> list[dict[str, Any]]:
    run = steps.Curation(config=config, progress=progress)
    folder, target = run.ingest("pool"), run.ingest("reference")
    assert folder is not None, "a config has sources"
    rows = steps.Rows(pool=folder, reference=target)
    run.refuse(rows)
    cleaning = run.cleaning
    against = cleaning.evaluations
    return plan_run(
        run.stages,
        Dataset.open(folder),
        Dataset.open(target) if target else None,
        run.context,
        Embeddings(
            semantic=cleaning.semantic is not None,
            published=cleaning.published,
            items=against.items.height if against and against.rewordings else None,
        ),
    )


def _synthesis(config: SynthesizeConfig) -> list[dict[str, Any]]:
    """A line a kind of call: how many at most, of how many tokens, for how much money."""
    chunks = gathering.chunks_in(synthesis_steps.gather(config))
    sent = synthesis_steps.generator_of(config).sends(chunks.height)
    mean = sum(map(len, chunks["text"])) / max(1, chunks.height) / _CHARACTERS
    asked = config.extraction
    calls = {
        "extractor": sent * (2 if asked.refine else 1),
        "checker": sent * asked.pairs if config.checker else 0,
        "reader": sent * asked.pairs * 2 * asked.votes if config.reader else 0,
    }
    longest = {"extractor": asked.max_tokens}
    lines = [_line("documents", f"{chunks.height:,} chunks, {sent:,} of them sent")]
    lines += [_line("embedder", f"{chunks.height:,} chunks", tokens_in=mean * chunks.height)]
    for role, number in calls.items():
        if number:
            read, written = number * (mean + _PROMPT), number * longest.get(role, 128)
            money = (read * config.price_in + written * config.price_out) / 1e6
            told = f"at most {number:,} calls"
            lines.append(_line(role, told, tokens_in=read, tokens_out=written, money=money))
    caps = {"tokens": config.bandit.tokens, "money": config.bandit.money}
    stop = ", ".join(f"{value:,} {name}" for name, value in caps.items() if value is not None)
    return [*lines, _line("stops at", stop or f"{sent:,} chunks sent")]


def _line(
    what: str, much: str, *, tokens_in: float = 0, tokens_out: float = 0, money: float = 0
) -> dict[str, Any]:
    return {
        "what": what,
        "how much": much,
        "tokens in": f"{tokens_in:,.0f}" if tokens_in else "",
        "tokens out": f"{tokens_out:,.0f}" if tokens_out else "",
        "money": f"{money:,.2f}" if money else "",
    }
