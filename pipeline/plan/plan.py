"""Plan: what the passes over a dataset will take, of which none is made.

The passes are those of `observe`, grouped by the same functions; what the store has of them already
is found. Tokens come from a keyed sample of the rows under the real tokenizers, sizes from the
weights' headers and the types of the signals, and time from a probe (`probe.py`), if there is one.
"""

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import polars as pl

from gristmill.pipeline.contracts import EncodingFacts, ModelSignal, Signal, View, reads_weights
from gristmill.pipeline.engine.engine import Needs
from gristmill.pipeline.models.chat_tokenizer import Encoded
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.low_rank import shell
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.models.shared_prefixes import shareable
from gristmill.pipeline.observe.observe import ModelPass, model_passes, new_ids
from gristmill.pipeline.observe.observing import threads
from gristmill.pipeline.observe.pieces import cost_of
from gristmill.pipeline.observe.shared_passes import LIGHT, Reading, needs_of, readings
from gristmill.pipeline.plan.amounts import Amount, mean, total
from gristmill.pipeline.plan.lines import PlanLine
from gristmill.pipeline.plan.probe import Probe
from gristmill.pipeline.plan.sizes import Size, size_of
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import uniform

SAMPLE_SHARE, SAMPLE_ROWS = 0.01, 256  # tokenizers are quick
HEAD = frozenset({"losses", "all_losses", "entropy", "backward"})


@dataclass(frozen=True, kw_only=True)
class PlannedPass:
    """One model over some rows, as `observe` would run it.

    Attributes:
        work: the pass.
        signals: what the store lacks of it; nothing: all of it is found.
        rows: that it lacks, or that are expected to be left by then.
        encoded: a sample of them, by view.
        shards: that lack rows, which workers of an engine share among them.
    """

    work: ModelPass
    signals: tuple[Signal, ...]
    rows: int
    encoded: Mapping[View, Sequence[Encoded]]
    shards: int = 1

    @cached_property
    def readings(self) -> list[Reading]:
        """How the model reads the sample."""
        light = needs_of(self.signals) <= LIGHT and not any(
            isinstance(s, ModelSignal) for s in self.signals
        )
        several = light and len(self.work.shown) > 1
        shares = several and _shares(self.work.files, self.work.limit)
        return readings(self.encoded, self.signals, self.work.shown, shares)

    @property
    def sampled(self) -> int:
        """Rows of the sample."""
        return len(next(iter(self.encoded.values())))

    @cached_property
    def size(self) -> Size:
        """Of the model."""
        return size_of(self.work.files)

    @cached_property
    def row_tokens(self) -> Amount:
        """Tokens that the model reads for a row, by the lengths of the sample."""
        found = [0.0] * self.sampled
        for view, mine in self._by_view().items():
            running = [s for s in mine if isinstance(s, ModelSignal)]
            for at, one in enumerate(self.encoded[view]):
                length = len(one.ids) if one.reason is None else 0
                times = (len(running) < len(mine)) + sum(s.cost(length) for s in running)
                found[at] += length * times
        return mean(found, of=self.rows)

    @cached_property
    def row_flops(self) -> Amount:
        """Operations of a row."""
        found = [0.0] * self.sampled
        head = bool(needs_of(self.signals) & HEAD) or any(
            isinstance(s, ModelSignal) for s in self.signals
        )
        by_view = self._by_view()
        for reading in self.readings:
            mine = by_view[reading.views[0]] if len(reading.views) == 1 else None
            for at, length in zip(reading.rows, reading.lengths, strict=True):
                times = length if mine is None else cost_of(mine, length)
                found[at] += self.size.flops(times, length, head=head)
        return mean(found, of=self.rows)

    def _by_view(self) -> dict[View, list[Signal]]:
        found: dict[View, list[Signal]] = {}
        for signal in self.signals:
            found.setdefault(signal.view, []).append(signal)
        return found

    def line(self, part: str, probe: Probe | None = None) -> PlanLine:
        """What it takes.

        Args:
            part: what the rows are of the run.
            probe: times it; None: nothing is run.
        """
        shown = [s for s in self.work.columns if isinstance(s, Signal) and reads_weights(s)]
        told = PlanLine(
            data=part,
            role=self.work.role,
            model=self.work.files.reference,
            view=" + ".join(v.name for v in self.work.shown),
            rows=self.rows,
            signals=tuple(s.column for s in self.signals or shown),
            found=not self.signals,
        )
        if not self.signals:
            return told
        length = mean([len(e.ids) for view in self.encoded.values() for e in view])
        tokens, seconds = self.row_tokens, None
        memory = self.size.memory(self.work.passes)
        engine = self.work.context.engine
        if probe is not None and engine.here:
            with threads(self.work.passes.threads):
                timing = probe.time(self.work, self.signals, self.encoded, self.rows)
            tokens = timing.row_tokens or tokens
            read = tokens.times(self.rows).by(timing.token)
            lanes = engine.lanes(Needs(device=self.work.passes.device, memory=memory))
            seconds = total([timing.fixed, read.times(1 / min(lanes, max(1, self.shards)))])
        disk = sum(s.row_bytes(self.size.shape, length.value) for s in self.signals)
        return PlanLine(
            **{
                **vars(told),
                "tokens": tokens.times(self.rows),
                "runs": self._runs(),
                "flops": self.row_flops.times(self.rows),
                "seconds": seconds,
                "memory": memory,
                "disk": Amount(value=disk * self.rows),
            }
        )

    def _runs(self) -> str:
        if any(isinstance(s, ModelSignal) for s in self.signals):
            cost = sum(s.cost(self.row_tokens.value) for s in self.signals)
            return f"about {cost:,.0f} forward passes of its own"
        if "backward" in needs_of(self.signals):
            return "forward and backward"
        shared = any(r.family is not None for r in self.readings)
        return "forward, shared prefixes" if shared else "forward"


def planned_passes(
    context: RunContext,
    dataset: Dataset,
    signals: Sequence[Signal],
    facts: Sequence[EncodingFacts] = (),
    rows: int | None = None,
    among: Collection[str] | None = None,
) -> Iterator[PlannedPass]:
    """The passes that `observe` would make over a dataset, in its order.

    What the tokenizer alone says takes no model, and stands in no line.

    Args:
        context: models, and how they are run.
        dataset: what is observed.
        signals: what is observed of it.
        facts: the encodings that are written beside.
        rows: how many of its rows are expected to be left by then; None: all.
        among: ids of the rows that alone may be looked at; None: any.
    """
    ids = new_ids(dataset)
    for work in model_passes(context, dataset, signals, facts):
        if not work.shown:
            continue
        todo, lacking = work.missing(ids)
        asked = tuple(c for c in lacking if isinstance(c, Signal) and reads_weights(c))
        there = sum(map(len, todo)) if asked else sum(map(len, ids))
        yield PlannedPass(
            work=work,
            signals=asked,
            rows=there if rows is None else min(rows, there),
            encoded=_sample(work, todo, among) if asked else {},
            shards=sum(len(ids) > 0 for ids in todo),
        )


def unkept(context: RunContext, dataset: Dataset, signal: Signal, rows: int) -> PlannedPass:
    """A pass for one signal of which nothing is kept, so that nothing can be found."""
    (work,) = model_passes(context, dataset, [signal])
    ids = new_ids(dataset)
    encoded = _sample(work, ids, None)
    shards = sum(len(of_shard) > 0 for of_shard in ids)
    return PlannedPass(work=work, signals=(signal,), rows=rows, encoded=encoded, shards=shards)


def plan(
    context: RunContext,
    dataset: Dataset,
    signals: Sequence[Signal],
    *,
    facts: Sequence[EncodingFacts] = (),
    part: str = "pool",
    rows: int | None = None,
    probe: Probe | None = None,
) -> list[PlanLine]:
    """What the passes of `observe` over a dataset take, a line each.

    Args:
        context: models, and how they are run.
        dataset: what is observed.
        signals: what is observed of it.
        facts: the encodings that are written beside.
        part: what the rows are of a run.
        rows: how many of its rows are expected to be left by then; None: all.
        probe: times the passes; None: nothing is run, and no hours are told.
    """
    return [p.line(part, probe) for p in planned_passes(context, dataset, signals, facts, rows)]


@lru_cache(maxsize=32)
def _shares(files: ModelFiles, limit: int) -> bool:
    """Whether a model can compute a common beginning once; asked of its shapes alone."""
    return shareable(shell(files), limit)


def _sample(
    work: ModelPass, todo: Sequence[pl.Series], among: Collection[str] | None
) -> dict[View, list[Encoded]]:
    """Rows drawn by hash(id), in the order of their hashes, as each view shows them."""
    there = sum(map(len, todo))
    count = max(min(there, SAMPLE_ROWS), round(SAMPLE_SHARE * there))
    there_ids = (i for ids in todo for i in ids if among is None or i in among)
    drawn = heapq.nsmallest(count, ((uniform(0, "plan", i), i) for i in there_ids))
    place = {ident: at for at, (_, ident) in enumerate(drawn)}
    shown: dict[View, list[tuple[int, Encoded]]] = {view: [] for view in work.shown}
    for shard, ids in enumerate(todo):
        mine = ids.filter(ids.is_in(list(place)))
        if mine.is_empty():
            continue
        encoded = work.encoded(shard, mine)
        for view, rows in shown.items():
            rows += zip((place[i] for i in mine), encoded[view], strict=True)
    return {
        view: [e for _, e in sorted(rows, key=lambda row: row[0])] for view, rows in shown.items()
    }
