"""The desk behind `complete`: an event loop in a thread that keeps a back end busy.

    ticket = a request that waits for an answer       group = tickets handed to the back end at once

For each request: join an equal one in flight, or look in the cache, or queue a ticket. A group
leaves when the back end has a worker free and the budget holds its worst case. A reply is committed
to the cache first, several at a time where they come together, and only then looked at; one that
misses its schema gets one repair turn, which is a request like any other.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, aclosing, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gristmill.pipeline.models.completion.budget import Budget
from gristmill.pipeline.models.completion.cache import Cache, open_cache
from gristmill.pipeline.models.completion.requests import (
    Answering,
    CompletionBackend,
    Failure,
    Reply,
    Request,
    request_key,
)
from gristmill.pipeline.models.completion.schema import Checked, check, repair

_GRACE = 10.0  # seconds that requests in flight get to finish when the caller walks away


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What became of a request: the last outcome, its verdict, and what all turns cost."""

    request: Request
    key: str
    outcome: Reply | Failure
    checked: Checked
    cost: float = 0.0
    cached: bool = True
    repairs: tuple[str, ...] = ()
    repaired: tuple[int, int] = (0, 0)  # prompt and answer tokens of these


@dataclass(frozen=True, kw_only=True)
class _Ticket:
    request: Request
    key: str
    reserved: tuple[int, int]
    future: asyncio.Future[tuple[Reply | Failure, float]]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """All state of a run; touched by the loop's thread alone."""

    backend: CompletionBackend
    answering: Answering
    budget: Budget
    keep_cut: bool
    reader: Cache | None
    writer: Cache | None
    queue: deque[_Ticket] = field(default_factory=deque)
    asked: dict[str, asyncio.Future[tuple[Reply | Failure, float]]] = field(default_factory=dict)
    groups: set[asyncio.Task[None]] = field(default_factory=set)
    jobs: set[asyncio.Task[None]] = field(default_factory=set)
    unwritten: list[tuple[_Ticket, Reply, asyncio.Future[Reply]]] = field(default_factory=list)
    writing: set[asyncio.Task[None]] = field(default_factory=set)
    stopped: list[str] = field(default_factory=list)  # empty, or the reason

    def accept(self, work: "Sequence[Work]") -> None:
        for request, key, future in work:
            self._spawn(self.jobs, self._job(request, key, future))

    async def _job(self, request: Request, key: str, future: "Future[Settled]") -> None:
        try:
            future.set_result(await self._settle(request, key))
        except asyncio.CancelledError:
            future.cancel()
            raise
        except Exception as error:
            future.set_exception(error)  # the caller raises it

    async def _settle(self, request: Request, key: str) -> Settled:
        outcome, cost, cached = await self._ask(request, key)
        if isinstance(outcome, Failure):
            return failed(request, key, outcome, cost)
        checked = check(request, outcome, keep_cut=self.keep_cut)
        if not checked.repair:
            return Settled(
                request=request,
                key=key,
                outcome=outcome,
                checked=checked,
                cost=cost,
                cached=cached,
            )
        repairs: tuple[str, ...] = ()
        repaired = (0, 0)
        again = repair(request, outcome, str(checked.reason))
        new_key = request_key(again, self.backend.identity)
        mended, more, from_cache = await self._ask(again, new_key)
        if isinstance(mended, Reply):
            checked = check(request, mended, keep_cut=False)
            repaired = (outcome.tokens_in, outcome.tokens_out)
            outcome, repairs, key = mended, (key,), new_key
        else:  # the first answer stands, refused, with both reasons
            reason = f"{checked.reason}; repair: {mended.reason}"
            checked = Checked(status="rejected", reason=reason)
        return Settled(
            request=request,
            key=key,
            outcome=outcome,
            checked=checked,
            cost=cost + more,
            cached=cached and from_cache,
            repairs=repairs,
            repaired=repaired,
        )

    async def _ask(self, request: Request, key: str) -> tuple[Reply | Failure, float, bool]:
        if key in self.asked:
            outcome, _ = await asyncio.shield(self.asked[key])
            return outcome, 0.0, True
        stored = None if self.reader is None else self.reader.get(key)
        if stored is not None:
            return stored, 0.0, True
        bound = (self.backend.prompt_tokens(request), request.sampling.max_tokens)
        future = asyncio.get_running_loop().create_future()
        self.asked[key] = future
        self.queue.append(_Ticket(request=request, key=key, reserved=bound, future=future))
        asyncio.get_running_loop().call_soon(self.pump)  # after all jobs that came together
        try:
            outcome, cost = await future
        finally:
            del self.asked[key]
        return outcome, cost, False

    def pump(self) -> None:
        """Send groups while workers, budget and work last."""
        while self.queue and len(self.groups) < self.backend.workers:
            group: list[_Ticket] = []
            while (
                not self.stopped
                and self.queue
                and len(group) < self.backend.group
                and self.budget.reserve(*self.queue[0].reserved)
            ):
                group.append(self.queue.popleft())
            if group:
                sent = self._spawn(self.groups, self._send(group))
                sent.add_done_callback(lambda _: self.pump())  # after it has left `groups`
            elif self.groups and not self.stopped:
                return  # what is in flight may leave something of its reservation
            elif (capped := self.budget.capped(*self.queue[0].reserved)) is not None:
                self.halt(capped)  # the whole run ends here, not these requests alone
            else:
                self.stop(self.budget.stop_reason)

    def stop(self, reason: str) -> None:
        """Send nothing more: what waits fails with the reason, what is in flight may finish."""
        if not self.stopped:
            self.stopped.append(reason)
        while self.queue:
            self.queue.popleft().future.set_result((Failure(reason=self.stopped[0]), 0.0))

    def halt(self, error: Exception) -> None:
        """Send nothing more: what waits fails with the error, which the caller raises."""
        if not self.stopped:
            self.stopped.append(f"stopped: {error}")
        while self.queue:
            self.queue.popleft().future.set_exception(error)

    async def _send(self, group: Sequence[_Ticket]) -> None:
        unanswered = dict(enumerate(group))
        try:
            async with aclosing(self.answering([t.request for t in group])) as outcomes:
                async for index, outcome in outcomes:
                    await self._take(unanswered.pop(index), outcome)
            assert not unanswered, f"{self.backend.model} left {len(unanswered)} unanswered"
        except Exception as error:
            for ticket in unanswered.values():
                ticket.future.set_exception(error)

    async def _take(self, ticket: _Ticket, outcome: Reply | Failure) -> None:
        """Settle one ticket; whatever goes wrong here is its outcome, so that nobody waits on."""
        try:
            ticket.future.set_result(await self._kept(ticket, outcome))
        except Exception as error:  # disk full: no more answers are paid that cannot be kept
            ticket.future.set_exception(error)
            self.halt(error)

    async def _kept(
        self, ticket: _Ticket, outcome: Reply | Failure
    ) -> tuple[Reply | Failure, float]:
        """What is in the cache once the outcome is there, and what it cost."""
        seconds = outcome.seconds if isinstance(outcome, Reply) else 0.0
        cost = self.budget.settle(ticket.reserved, outcome.tokens_in, outcome.tokens_out, seconds)
        if isinstance(outcome, Failure):
            if outcome.terminal:
                self.stop(outcome.reason)
        elif self.writer is not None:
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self.unwritten.append((ticket, outcome, future))
            self.flush()
            outcome = await future
        return outcome, cost

    def flush(self) -> None:
        """Commit what has come; what comes meanwhile makes the next transaction."""
        if self.unwritten and not self.writing:
            batch = list(self.unwritten)
            self.unwritten.clear()
            written = self._spawn(self.writing, self._write(batch))
            written.add_done_callback(lambda _: self.flush())

    async def _write(self, batch: "Sequence[tuple[_Ticket, Reply, asyncio.Future[Reply]]]") -> None:
        assert self.writer is not None
        rows = [(ticket.key, ticket.request.id, reply) for ticket, reply, _ in batch]
        try:
            standing = await asyncio.to_thread(self.writer.put, rows)
            for (*_, future), reply in zip(batch, standing, strict=True):
                future.set_result(reply)
        except Exception as error:  # no row may pass as paid and kept
            for *_, future in batch:
                if not future.done():
                    future.set_exception(error)

    def _spawn(
        self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def leave(self) -> None:
        """Let what is in flight finish and be written, for a while; then cancel it."""
        self.stop("closed: the caller stopped reading")
        if self.groups:
            _, late = await asyncio.wait(self.groups, timeout=_GRACE)
            for task in late:
                task.cancel()
        for task in self.jobs:
            task.cancel()
        tasks = [*self.groups, *self.jobs, *self.writing]
        await asyncio.gather(*tasks, return_exceptions=True)


def failed(request: Request, key: str, failure: Failure, cost: float) -> Settled:
    """A request without an answer."""
    checked = Checked(status="failed", reason=failure.reason)
    return Settled(
        request=request, key=key, outcome=failure, checked=checked, cost=cost, cached=False
    )


Work = tuple[Request, str, "Future[Settled]"]  # a request, its key, and where the result goes
Submit = Callable[[Sequence[Work]], None]


@contextmanager
def open_desk(
    backend: CompletionBackend, *, cache: Path | None, budget: Budget, keep_cut: bool
) -> Iterator[Submit]:
    """Run a desk in its own thread; yields the function that hands it requests."""
    ready: Future[tuple[Desk, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        with ExitStack() as stack:
            reader, writer = (
                None if cache is None else stack.enter_context(closing(open_cache(cache)))
                for _ in range(2)
            )
            async with backend.session() as answering:
                desk = Desk(
                    backend=backend,
                    answering=answering,
                    budget=budget,
                    keep_cut=keep_cut,
                    reader=reader,
                    writer=writer,
                )
                leaving = asyncio.Event()
                ready.set_result((desk, asyncio.get_running_loop(), leaving))
                await leaving.wait()
                await desk.leave()

    def main() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=main, name="completions", daemon=True)
    thread.start()
    desk, loop, leaving = ready.result()

    def submit(work: Sequence[Work]) -> None:
        loop.call_soon_threadsafe(desk.accept, work)

    try:
        yield submit
    finally:
        loop.call_soon_threadsafe(leaving.set)
        thread.join()
