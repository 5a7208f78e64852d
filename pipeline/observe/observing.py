"""Observing: the passes of one `observe` as units of work, a shard under a pass each.

A worker of an engine holds the model of the pass that it is at; what it finds it keeps in the
store, piece by piece, and it returns where that lies. It has a context of its own: how passes are
run is resolved before, once for the run, so that all workers write what one key names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from gristmill.pipeline.engine.engine import Local, Needs, Report, Unit
from gristmill.pipeline.engine.one_disk import demand_seen
from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.records.store import NotMadeError

Tables = list[tuple[Path, ...]]  # of one shard, by column


class Work(Protocol):
    """A pass, as far as its units are concerned."""

    def shard(self, todo: Any) -> Tables:  # noqa: ANN401  (the pass's own)
        """Make what is missing of one shard."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one pass is to do.

    Attributes:
        work: makes the pass, in the context of whoever runs it.
        files: its model.
        heavy: whether it takes the model's weights, and not its tokenizer alone.
        what: for progress.
        total: rows and views, in all shards.
        there: of each shard, the tables that the store has already.
        shards: what is to be done of each, by number; a shard that lacks nothing is not there.
    """

    work: Callable[[RunContext], Work]
    files: ModelFiles
    heavy: bool
    what: str
    total: int
    there: Sequence[Tables]
    shards: Mapping[int, Any]


def made(context: RunContext, asked: Sequence[Asked]) -> list[list[Tables]]:
    """Make what is missing, on the engine of the run; per pass, the tables of each shard."""
    units = [
        Unit(step="observe", part=f"{one.what}, shard {shard}", settings=(number, shard, todo))
        for number, one in enumerate(asked)
        for shard, todo in one.shards.items()
    ]
    found = [list(one.there) for one in asked]
    if not units:
        return found
    if not context.store.makes:
        raise NotMadeError("observe")
    worker = Observing(
        models=context.models,
        passes=context.pinned,
        works=tuple(one.work for one in asked),
    )
    heard = _Heard(context=context, asked=asked)
    tables = context.engine.map(units, worker, _needs(context, asked), heard)
    for unit, one in zip(units, tables, strict=True):
        number, shard, _ = unit.settings
        found[number][shard] = one
        demand_seen(context.engine, (path for paths in one for path in paths))
    return found


def _needs(context: RunContext, asked: Sequence[Asked]) -> Needs:
    estimate = context.engine.memory
    largest = 0
    if estimate is not None:
        largest = max((estimate(a.files, context.pinned) for a in asked if a.heavy), default=0)
    return Needs(device=context.passes.device, memory=largest)


@dataclass(frozen=True, kw_only=True)
class Observing:
    """What the workers of one `observe` are given.

    Attributes:
        models: the store, and the models in memory where the driver itself does the units.
        passes: resolved.
        works: make the passes.
    """

    models: Models
    passes: Passes
    works: tuple[Callable[[RunContext], Work], ...]

    def open(self, report: Report) -> "_Open":
        """Make ready to do units."""
        caps = RunCaps(outer=report.check)
        store = replace(self.models.store, writer=report.writer)

        def told(what: str, done: int, total: int) -> None:
            report.told(done, caps.spent_tokens - opened.before)

        context = RunContext(
            models=replace(self.models, store=store),
            passes=self.passes,
            progress=told,
            caps=caps,
            engine=Local(threads=self.passes.threads),
        )
        opened = _Open(works=self.works, context=context)
        return opened


@dataclass(kw_only=True)
class _Open:
    """A worker at work: it holds one pass at a time, and with it what batches share."""

    works: Sequence[Callable[[RunContext], Work]]
    context: RunContext
    before: int = 0  # tokens, when the unit began
    _current: int | None = None
    _work: list[Work] = field(default_factory=list)

    def __call__(self, unit: Unit) -> Tables:
        number, _, todo = unit.settings
        if number != self._current:
            self._work.clear()  # before the next one: two large models may not fit together
            self._work.append(self.works[number](self.context))
            self._current = number
        self.before = self.context.caps.spent_tokens
        with threads(self.context.passes.threads):
            return self._work[0].shard(todo)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads for torch in this block: sums of floats depend on them."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(kw_only=True)
class _Heard:
    """What the driver makes of what its workers tell."""

    context: RunContext
    asked: Sequence[Asked]
    _of: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    _done: dict[int, int] = field(default_factory=dict)

    def told(self, unit: Unit, done: int, tokens: int) -> None:
        number, shard, _ = unit.settings
        before, spent = self._of.get((number, shard), (0, 0))
        self._of[number, shard] = done, tokens
        self._done[number] = self._done.get(number, 0) + done - before
        # a unit that is begun again tells of nothing first
        self.context.caps.spend(max(0, tokens - spent))
        one = self.asked[number]
        self.context.tell(one.what, min(self._done[number], one.total), one.total)

    def check(self) -> None:
        self.context.caps.check()
