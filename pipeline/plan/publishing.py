"""Publishing: the rows that trainers take as they are, which the target's tokenizer writes."""

from pathlib import Path

from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.plan.amounts import Amount, mean, ratio
from gristmill.pipeline.plan.lines import PlanLine
from gristmill.pipeline.plan.preparing import drawn
from gristmill.pipeline.plan.probe import Probe
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import CONTENT
from gristmill.pipeline.signals.forward_signals import DIALOGUE

TOKEN_BYTES = 8  # an id and a label
READINGS = 2  # the render check, and the rows themselves


def trainer_rows(
    context: RunContext, pool: Dataset, rows: int, probe: Probe | None = None
) -> PlanLine:
    """What publishing the target's tokens takes; no model reads them.

    Args:
        context: of the run.
        pool: the rows that are selected from.
        rows: how many are kept at most.
        probe: times the tokenizer; None: nothing is timed.
    """
    files = context.models.files("target")[0]
    chat = context.passes.chat(files)
    some = drawn(pool, rows).frame().unique("id", keep="first")
    lengths, seconds = [], []
    for row in some.iter_rows(named=True):
        begun = probe.clock() if probe is not None else 0.0
        lengths.append(len(DIALOGUE.view.encode(row, chat).ids))
        seconds.append(probe.clock() - begun if probe is not None else 0.0)
    length = mean(lengths or [0], of=rows)
    each = ratio(seconds, [1.0] * len(seconds)) if seconds else Amount(value=0.0)
    return PlanLine(
        data="publish: trainer rows",
        role="target",
        model=files.reference,
        view=DIALOGUE.view.name,
        rows=rows,
        runs=f"tokenizer, about {length.value * rows:,.0f} tokens",
        seconds=each.times(READINGS * rows) if probe is not None else None,
        disk=length.times(TOKEN_BYTES * rows),
    )


def write_few(pool: Dataset, path: Path, rows: int) -> None:
    """Write some records as JSON lines, for a run that has next to nothing to do."""
    columns = CONTENT[pool.kind]
    frame = drawn(pool, rows).frame(["id", *columns]).unique("id").sort("id").head(rows)
    frame.select(columns).write_ndjson(path)
