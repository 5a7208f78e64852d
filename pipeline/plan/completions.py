"""Completions: what asking models for answers takes: calls, tokens, money, and time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.completion.client import Budget, Request, Sampling, complete
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.plan.amounts import NOTHING, Amount, ratio
from gristmill.pipeline.plan.lines import PlanLine
from gristmill.pipeline.plan.probe import BATCHES, Probe
from gristmill.pipeline.plan.sizes import size_of


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Calls of one kind.

    Attributes:
        role: who answers.
        model: its reference, or its name at an endpoint.
        local: whether it is a model in memory.
        remote: whether it is waited for at an endpoint: then how long is not known.
        number: of calls, at most.
        read: tokens of a prompt.
        written: tokens of an answer, at most.
        price_in: money per million tokens of prompts.
        price_out: the same of answers.
        prompts: a few prompts as they are, for a probe.
    """

    role: str
    model: str
    local: bool
    remote: bool
    number: int
    read: Amount
    written: int
    price_in: float = 0.0
    price_out: float = 0.0
    prompts: tuple[str, ...] = ()


def call_line(calls: Calls, models: Models, passes: Passes, probe: Probe | None = None) -> PlanLine:
    """What these calls take.

    Args:
        calls: which.
        models: has the model, if it is a local one.
        passes: how models are run.
        probe: asks for a few answers of a local model; None: nothing is asked.
    """
    read = calls.read.times(calls.number)
    written = Amount(value=float(calls.number * calls.written))
    line = PlanLine(
        data=f"at most {calls.number:,} calls",
        role=calls.role,
        model=calls.model,
        rows=calls.number,
        tokens=read,
        written=written,
        runs="prompt and answer",
        money=Amount(
            value=(read.value * calls.price_in + written.value * calls.price_out) / 1e6,
            half=read.half * calls.price_in / 1e6,
        ),
        seconds=None if calls.remote else NOTHING,
        most=True,
    )
    if not calls.local:
        return line
    (files, *_) = models.files(calls.role)
    size = size_of(files)
    tokens = read.value + written.value
    length = calls.read.value + calls.written
    line = replace(
        line,
        flops=Amount(value=size.flops(tokens, length, head=True)),
        memory=size.memory(passes),
        seconds=None,
    )
    if probe is None:
        return line
    return replace(line, seconds=_probed(calls, models, passes, probe))


def _probed(calls: Calls, models: Models, passes: Passes, probe: Probe) -> Amount:
    """Seconds of all calls, from a few answers of different prompts."""
    from gristmill.pipeline.models.completion.local import Local

    (files, *_) = models.files(calls.role)
    begun = probe.clock()
    loaded = replace(models, store=probe.store).load(files, passes)
    fixed = probe.clock() - begun
    seconds, answers = [], []
    sampling = Sampling(max_tokens=calls.written)
    for prompt in calls.prompts[:BATCHES]:
        request = Request(
            id=prompt[:32], messages=({"role": "user", "content": prompt},), sampling=sampling
        )
        begun = probe.clock()
        list(complete([request], Local(loaded=loaded), budget=Budget(caps=RunCaps())))
        seconds.append(probe.clock() - begun)
        answers.append(1.0)
    each = ratio(seconds, answers) if seconds else NOTHING
    return Amount(value=fixed + each.value * calls.number, half=each.half * calls.number)


def embedding_line(
    texts: Sequence[str],
    length: Amount,
    models: Models,
    passes: Passes,
    probe: Probe | None = None,
) -> PlanLine:
    """What embedding these texts takes.

    Args:
        texts: all of them.
        length: tokens of one.
        models: has the embedder.
        passes: how models are run.
        probe: embeds a few; None: nothing is run.
    """
    (files,) = models.files("embedder")
    size, tokens = size_of(files), length.times(len(texts))
    seconds = None
    if probe is not None:
        begun = probe.clock()
        model = replace(models, store=probe.store).load(files, passes, embedder=True).model
        fixed = probe.clock() - begun
        some = texts[: 8 * BATCHES]
        spans, counts = [], []
        for at in range(0, len(some), 8):
            batch = list(some[at : at + 8])
            begun = probe.clock()
            model.encode(batch, show_progress_bar=False)
            spans.append(probe.clock() - begun)
            counts.append(float(len(batch)))
        each = ratio(spans, counts)
        seconds = Amount(value=fixed + each.value * len(texts), half=each.half * len(texts))
    return PlanLine(
        data="chunks",
        role="embedder",
        model=files.reference,
        rows=len(texts),
        tokens=tokens,
        runs="forward",
        flops=tokens.times(size.flops(1, length.value, head=False)),
        seconds=seconds,
        memory=size.memory(passes),
    )
