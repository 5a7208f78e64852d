"""Probe: the real passes over a few rows, timed on the machine at hand.

What a run would do is done to a sample: models are loaded, batches are read, warm-ups are trained,
in a scratch store that is gone afterwards, so that a run finds nothing of it. Each batch or step is
timed by itself; their spread gives the interval. Of what a pass does once (loading, opening) it is
told how long it took, of what it does for every row how long a token takes.
"""

import contextlib
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gristmill.pipeline.contracts import ModelSignal, Signal, View
from gristmill.pipeline.engine.engine import Local
from gristmill.pipeline.models.caps import RunCaps
from gristmill.pipeline.models.chat_tokenizer import Encoded
from gristmill.pipeline.models.load import pick_device
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.observe.observe import ModelPass
from gristmill.pipeline.observe.pieces import cost_of
from gristmill.pipeline.plan.amounts import Amount, ratio
from gristmill.pipeline.records.store import Store

SHARE = 0.01  # of the rows
BATCHES = 8  # at least
# Forward-equivalents of tokens in a batch of the probe, where 1 % of the rows is less than that: a
# processor is busy with so many, an accelerator with no less than a whole batch.
BATCH_WORK = 512
MOST_SECONDS = 120.0  # of one pass; then its batches so far must do


class _Enough(Exception):
    """The probe of a pass has taken its time."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a pass takes.

    Attributes:
        fixed: seconds once.
        token: seconds a token.
        row_tokens: tokens that a row took, where only running it can tell; None: as planned.
    """

    fixed: Amount
    token: Amount
    row_tokens: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """When something was told of progress, and how many tokens were read by then.

    Attributes:
        clock: seconds.
        caps: count the tokens.
        most: seconds after which it is enough.
    """

    clock: Callable[[], float]
    caps: RunCaps
    most: float = MOST_SECONDS
    marks: list[tuple[float, int]] = field(default_factory=list)

    def start(self) -> None:
        """Begin again."""
        self.marks[:] = [(self.clock(), self.caps.spent_tokens)]

    def mark(self) -> None:
        """A batch, or a step, is done."""
        self.marks.append((self.clock(), self.caps.spent_tokens))

    @property
    def late(self) -> bool:
        """Whether it has gone on for long enough."""
        return self.marks[-1][0] - self.marks[0][0] > self.most

    @property
    def spans(self) -> tuple[list[float], list[float]]:
        """Seconds and tokens from mark to mark."""
        pairs = list(itertools.pairwise(self.marks))
        return [b[0] - a[0] for a, b in pairs], [float(b[1] - a[1]) for a, b in pairs]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Runs and times what is planned.

    Attributes:
        store: a scratch store; nothing of it is kept.
        clock: seconds, from any start.
    """

    store: Store
    clock: Callable[[], float] = time.perf_counter

    def stopwatch(self) -> Stopwatch:
        """Another one, that has not been started."""
        return Stopwatch(clock=self.clock, caps=RunCaps())

    def time(
        self,
        work: ModelPass,
        signals: Sequence[Signal],
        encoded: Mapping[View, Sequence[Encoded]],
        rows: int,
    ) -> Timing:
        """Read some of the sampled rows as the pass would.

        Args:
            work: the pass.
            signals: what is read.
            encoded: the sample by view, in an order that is drawn.
            rows: of the whole pass.
        """
        watch = self.stopwatch()
        each = _group(encoded, signals, work.passes)
        first = {view: whole[:each] for view, whole in encoded.items()}
        passes = replace(work.passes, batch_tokens=_batch_tokens(first, work.passes))
        rows_done = [0]

        def told(what: str, done: int, total: int) -> None:
            _finish(work.passes.device)
            watch.mark()
            rows_done.append(done)
            if watch.late:
                raise _Enough

        models = replace(work.context.models, store=self.store)
        here = Local(threads=work.passes.threads)
        context = replace(work.context, models=models, progress=told, caps=watch.caps, engine=here)
        probed = replace(work, context=replace(context, passes=passes))
        begun = self.clock()
        model = probed.model(signals)
        few = {view: whole[:1] for view, whole in encoded.items()}
        watch.start()
        with contextlib.suppress(_Enough):  # opens what batches share, and warms caches
            probed.read(few, signals, model, ("probe", 0, 1))
        fixed = self.clock() - begun
        seconds: list[float] = []
        tokens: list[float] = []
        counts: list[float] = []
        enough = max(each, math.ceil(SHARE * rows))
        for at in range(0, min(enough, len(next(iter(encoded.values())))), each):
            # rows of a group are sorted by length: a group is read whole, or the short ones alone
            group = {view: whole[at : at + each] for view, whole in encoded.items()}
            watch.start()
            rows_done[:] = [0]
            with contextlib.suppress(_Enough):
                probed.read(group, signals, model, ("probe", 0, each * len(group)))
            spans = watch.spans
            seconds += spans[0]
            tokens += spans[1]
            counts += [float(b - a) for a, b in itertools.pairwise(rows_done)]
            if sum(seconds) > watch.most:
                break
        ran = any(isinstance(s, ModelSignal) for s in signals)
        return Timing(
            fixed=Amount(value=fixed),
            token=ratio(seconds, tokens),
            row_tokens=ratio(tokens, counts) if ran else None,
        )


@contextlib.contextmanager
def probing(clock: Callable[[], float] = time.perf_counter) -> Iterator[Probe]:
    """A probe with a scratch store, which is removed."""
    with tempfile.TemporaryDirectory(prefix="gristmill-probe-") as folder:
        yield Probe(store=Store(root=Path(folder)), clock=clock)


def _group(
    encoded: Mapping[View, Sequence[Encoded]], signals: Sequence[Signal], passes: Passes
) -> int:
    """How many rows of a sample make the least number of batches."""
    sampled = len(next(iter(encoded.values())))
    work = 0.0
    for view, whole in encoded.items():
        mine = [s for s in signals if s.view == view]
        work += sum(cost_of(mine, len(e.ids)) for e in whole)
    batch = BATCH_WORK if pick_device(passes.device) == "cpu" else passes.batch_tokens
    wanted = math.ceil(min(batch, passes.batch_tokens) * sampled / max(1.0, work))
    return min(sampled, BATCHES * max(1, wanted))


def _batch_tokens(encoded: Mapping[View, Sequence[Encoded]], passes: Passes) -> int:
    """The size of a batch, so that the rows fill enough of them."""
    tokens = sum(len(e.ids) for whole in encoded.values() for e in whole)
    return max(1, min(passes.batch_tokens, tokens // BATCHES))


def _finish(device: str) -> None:
    """Wait for an accelerator, which works on behind."""
    import torch

    if pick_device(device).startswith("cuda"):
        torch.cuda.synchronize()
