"""Completions: every text that a model writes for Gristmill comes through `complete`.

A method is two pure functions, `prompt(row) -> Request` and `parse(row, answer) -> value`; the
client stands between them:

    results = complete(rows, backend, prompt=prompt, parse=parse, cache=path, budget=Budget(...))

One `Result` per row, in input order: ok, rejected (an answer that the schema or `parse` refuses) or
failed (no whole answer), with the reason; nothing is dropped. Every answer that was paid for is in
the cache before it is read, under the hash of all that changes it, so a rerun repeats nothing that
was finished, and a better `parse` is free. Errors are never cached. What a cut or refused answer is
worth is decided again on each run; the answer itself was paid and is kept.

Back ends: `completion_local.Local` (a transformers model in memory), `completion_http.Endpoint`
(whatever speaks the OpenAI protocol), `completion_batch.BatchEndpoint` (its batch files) and
`completion_recorded.Recorded`.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from gristmill.pipeline.models.completion.budget import Budget, Estimate, Price, Report
from gristmill.pipeline.models.completion.cache import open_cache
from gristmill.pipeline.models.completion.requests import (
    Answer,
    CompletionBackend,
    Failure,
    Reply,
    Request,
    Result,
    Sampling,
    draw_seed,
    request_key,
)
from gristmill.pipeline.models.completion.scheduler import Settled, Submit, Work, open_desk
from gristmill.pipeline.models.completion.schema import check

__all__ = [
    "Answer",
    "Budget",
    "CompletionBackend",
    "Estimate",
    "Failure",
    "Price",
    "Reply",
    "Report",
    "Request",
    "Result",
    "Sampling",
    "complete",
    "draw_seed",
    "estimate",
    "request_key",
]


def the_request(row: Any) -> Request:  # noqa: ANN401  (rows are the caller's)
    """The row itself: for callers who make requests by hand."""
    if not isinstance(row, Request):
        raise TypeError(f"row is a {type(row).__name__}, not a Request: pass prompt=...")
    return row


def the_answer(row: Any, answer: Answer) -> Any:  # noqa: ANN401  (rows are the caller's)
    """The typed value if the request had a schema, the text if not."""
    return answer.text if answer.parsed is None else answer.parsed


def complete(
    rows: Iterable[Any],
    backend: CompletionBackend,
    *,
    prompt: Callable[[Any], Request] = the_request,
    parse: Callable[[Any, Answer], Any] = the_answer,
    cache: Path | None = None,
    budget: Budget | None = None,
    keep_cut: bool = False,
    progress: Callable[[Report], None] | None = None,
    every: float = 1.0,
) -> Iterator[Result]:
    """Ask the back end for every row; lazily, in constant memory.

    Args:
        rows: anything; read a window ahead of what is yielded.
        backend: who answers.
        prompt: pure; row to request. `ValueError` fails the row, with its reason.
        parse: pure; row and answer to a value. `ValueError` refuses the answer, with its reason.
        cache: SQLite file; None asks again each time.
        budget: caps and prices; None counts tokens and stops nothing.
        keep_cut: take answers without a schema that reached `max_tokens`.
        progress: called with a `Report` about every `every` seconds and at the end.
        every: seconds between reports.

    Raises:
        ValueError: the back end's or the cache's settings are wrong.
    """
    budget = budget or Budget()
    total = len(rows) if isinstance(rows, Sized) else None
    tally = _Tally(total=total, budget=budget, progress=progress, every=every)
    capacity = max(2 * backend.group, 16) * backend.workers
    identity = backend.identity
    window: deque[_Waiting] = deque()
    source = iter(rows)
    with ExitStack() as stack:
        reader = None if cache is None else stack.enter_context(closing(open_cache(cache)))
        desk: list[Submit] = []

        def look(request: Request) -> tuple[str, Settled | None]:
            key = request_key(request, identity)
            reply = None if reader is None else reader.get(key)
            if reply is None:
                return key, None
            checked = check(request, reply, keep_cut=keep_cut)
            if checked.repair:  # its second turn is a request of its own
                return key, None
            return key, Settled(request=request, key=key, outcome=reply, checked=checked)

        def send(misses: list[Work]) -> None:
            if not misses:
                return
            if not desk:  # a run that the cache can serve opens no session
                opened = open_desk(backend, cache=cache, budget=budget, keep_cut=keep_cut)
                desk.append(stack.enter_context(opened))
            desk[0](tuple(misses))
            misses.clear()

        def fill() -> None:
            misses: list[Work] = []
            for row in islice(source, capacity - len(window)):
                future: Future[Settled] = Future()
                try:
                    request = prompt(row)
                except ValueError as error:
                    window.append(_Waiting(row=row, request=f"prompt: {error}", future=future))
                    continue
                key, settled = look(request)
                if settled is not None:
                    future.set_result(settled)
                else:
                    misses.append((request, key, future))
                window.append(_Waiting(row=row, request=request, future=future))
                if len(misses) >= backend.group:
                    send(misses)
            send(misses)

        fill()
        while window:
            result = _result(window.popleft(), backend, parse, tally)
            tally.count(result)
            yield result
            if 2 * len(window) <= capacity:  # by halves, so that a back end gets whole groups
                fill()
        tally.report()


def estimate(
    requests: Iterable[Request],
    backend: CompletionBackend,
    *,
    cache: Path | None = None,
    price: Price | None = None,
) -> Estimate:
    """Dry run: what `complete` would take. Nothing is sent.

    Answer lengths, and prompts where only the endpoint can count them, are scaled from the answers
    of the same requests that the cache already holds; so run a few dozen first. Without any, the
    estimate is the worst case.
    """
    price = price or Price()
    count = hits = bound = most = known_bound = known_in = known_out = known_most = 0
    with ExitStack() as stack:
        reader = None if cache is None else stack.enter_context(closing(open_cache(cache)))
        for request in requests:
            key = request_key(request, backend.identity)
            reply = None if reader is None else reader.get(key)
            prompt_bound, longest = backend.prompt_tokens(request), request.sampling.max_tokens
            count += 1
            if reply is None:
                bound += prompt_bound
                most += longest
            else:
                hits += 1
                known_bound += prompt_bound
                known_in += reply.tokens_in
                known_out += reply.tokens_out
                known_most += longest
    tokens_in = round(bound * known_in / known_bound) if known_bound else bound
    tokens_out = round(most * known_out / known_most) if known_most else most
    return Estimate(
        requests=count,
        cached=hits,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        tokens_out_most=most,
        cost=price.of(tokens_in, tokens_out),
        cost_most=price.of(tokens_in, most),
    )


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A row whose result is to come; `request` is a text if `prompt` refused the row."""

    row: Any
    request: Request | str
    future: "Future[Settled]"


@dataclass(frozen=True, kw_only=True)
class _Tally:
    """Counts behind the report."""

    total: int | None
    budget: Budget
    progress: Callable[[Report], None] | None
    every: float
    began: float = field(default_factory=time.monotonic)
    before: dict[str, float] = field(default_factory=dict)
    last: list[float] = field(default_factory=lambda: [time.monotonic()])
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.before.update(self.budget.spent)

    def count(self, result: Result) -> None:
        self.counts[result.status] += 1
        if result.answer is not None and result.answer.cached:
            self.counts["cached"] += 1
        if result.reason is not None:
            self.reasons[result.reason.split(":")[0]] += 1
        self.tick()

    def tick(self) -> None:
        if time.monotonic() - self.last[0] >= self.every:
            self.report()

    def report(self) -> None:
        self.last[0] = time.monotonic()
        if self.progress is None:
            return
        new = {name: self.budget.spent[name] - self.before[name] for name in self.before}
        ok, rejected, failed = (self.counts[s] for s in ("ok", "rejected", "failed"))
        self.progress(
            Report(
                rows=ok + rejected + failed,
                total=self.total,
                ok=ok,
                rejected=rejected,
                failed=failed,
                cached=self.counts["cached"],
                sent=int(new["requests"]),
                tokens_in=int(new["tokens_in"]),
                tokens_out=int(new["tokens_out"]),
                cost=new["money"],
                seconds=time.monotonic() - self.began,
                reasons=dict(self.reasons),
            )
        )


def _result(
    waiting: _Waiting,
    backend: CompletionBackend,
    parse: Callable[[Any, Answer], Any],
    tally: _Tally,
) -> Result:
    """Wait for a row's outcome and read it."""
    row, request = waiting.row, waiting.request
    if isinstance(request, str):
        return Result(row=row, request=None, status="failed", reason=request)
    while not waiting.future.done():
        wait([waiting.future], timeout=tally.every)
        tally.tick()
    settled = waiting.future.result()
    if isinstance(settled.outcome, Failure):
        return Result(row=row, request=request, status="failed", reason=settled.checked.reason)
    answer = _answer(request, settled, settled.outcome, backend)
    if settled.checked.status != "ok":
        return Result(
            row=row,
            request=request,
            status=settled.checked.status,
            answer=answer,
            reason=settled.checked.reason,
        )
    try:
        value = parse(row, answer)
    except ValueError as error:
        return Result(
            row=row, request=request, status="rejected", answer=answer, reason=f"parse: {error}"
        )
    return Result(row=row, request=request, status="ok", value=value, answer=answer)


def _answer(request: Request, settled: Settled, reply: Reply, backend: CompletionBackend) -> Answer:
    return Answer(
        text=reply.text,
        parsed=settled.checked.parsed,
        tool_calls=reply.tool_calls,
        reasoning=reply.reasoning,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
        repaired=settled.repaired,
        cost=settled.cost,
        finish=reply.finish,
        cached=settled.cached,
        lineage={
            "request": request.id,
            "key": settled.key,
            "sample": request.sample,
            "seed": request.seed,
            "model": backend.model,
            "served": reply.served,
            "from": dict(backend.identity),
            "repairs": list(settled.repairs),
        },
    )
