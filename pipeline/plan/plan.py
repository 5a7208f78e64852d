"""Plan: rows, tokens, passes, memory and disk of a run, before any weight is loaded.

Tokens come from a keyed sample of the rows under the real tokenizers; sizes from the weights on
disk and the types of the signals.
"""

# D = hidden size, V = vocabulary

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from gristmill.pipeline.contracts import ModelShape, Signal
from gristmill.pipeline.models.folder import weight_files
from gristmill.pipeline.models.forward import HEAD_CHUNK
from gristmill.pipeline.models.load import load_tokenizer, pick_device, pick_dtype
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.observe.observe import unique_ids
from gristmill.pipeline.observe.shared_passes import needs_of
from gristmill.pipeline.records.dataset import Dataset
from gristmill.pipeline.records.schema import uniform

SAMPLE_SHARE, SAMPLE_ROWS = 0.01, 64
COLUMNS = ("data", "role", "view", "rows", "tokens", "pass", "memory", "disk", "signals")


@dataclass(frozen=True, kw_only=True)
class PassPlan:
    """One model over one view of one dataset.

    Attributes:
        role: the model role.
        model: its reference.
        view: how records are shown.
        signals: columns that the pass yields.
        rows: unique records.
        tokens: expected tokens, and half the width of their 95% interval.
        memory: bytes of weights, activations and logits at the worst batch.
        disk: bytes that the observations take.
        runs: what the model does.
    """

    role: str
    model: str
    view: str
    signals: tuple[str, ...]
    rows: int
    tokens: tuple[int, int]
    memory: int
    disk: int
    runs: Literal["forward", "forward and backward"]


def plan(
    dataset: Dataset,
    signals: Sequence[Signal],
    models: Models,
    passes: Passes | None = None,
    rows: int | None = None,
) -> list[PassPlan]:
    """The passes that `observe` would make over `dataset`, none of which is made.

    Args:
        dataset: what is observed.
        signals: what is observed of it.
        models: who is asked.
        passes: how they are run.
        rows: how many of its rows are expected to be left by then; None: all.
    """
    passes = passes or Passes()
    unique = sum(len(i) for i in unique_ids(dataset))
    sample = _sample(dataset, unique)
    rows = unique if rows is None else min(rows, unique)
    groups: dict[tuple[str, str], list[Signal]] = {}
    for signal in dict.fromkeys(signals):
        groups.setdefault((signal.role, signal.view.name), []).append(signal)
    plans = []
    for (role, view), members in groups.items():
        for files in models.files(role):
            chat = load_tokenizer(files, limit=passes.max_length, overlong=passes.overlong)
            shown = members[0].view
            lengths = [len(shown.encode(row, chat).ids) for row in sample.iter_rows(named=True)]
            needs = needs_of(members)
            mean = sum(lengths) / max(1, len(lengths))
            plans.append(
                PassPlan(
                    role=role,
                    model=files.reference,
                    view=view,
                    signals=tuple(s.column for s in members),
                    rows=rows,
                    tokens=(round(mean * rows), _half_width(lengths, rows)),
                    memory=_memory(files, passes),
                    disk=sum(s.row_bytes(_shape(files), mean) for s in members) * rows,
                    runs="forward and backward" if "backward" in needs else "forward",
                )
            )
    return plans


def line(part: str, made: PassPlan) -> dict[str, Any]:
    """A planned pass as a line of a table."""
    expected, half = made.tokens
    tokens = f"{expected:,}" + (f" ± {half:,}" if half else "")
    shown = (f"{made.rows:,}", tokens, made.runs, size(made.memory), size(made.disk))
    values = (part, made.role, made.view, *shown, ", ".join(made.signals))
    return dict(zip(COLUMNS, values, strict=True))


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _sample(dataset: Dataset, rows: int) -> pl.DataFrame:
    share = max(SAMPLE_SHARE, min(1.0, SAMPLE_ROWS / max(1, rows)))
    blocks = [
        b.filter([uniform(0, "plan", ident) < share for ident in b["id"]]) for b in dataset.blocks()
    ]
    sample = pl.concat([dataset.frame().clear(), *blocks])
    return sample if sample.height else dataset.frame().head(SAMPLE_ROWS)


def _half_width(lengths: Sequence[int], rows: int) -> int:
    if len(lengths) < 2 or len(lengths) >= rows:
        return 0
    mean = sum(lengths) / len(lengths)
    variance = sum((x - mean) ** 2 for x in lengths) / (len(lengths) - 1)
    return round(1.96 * rows * math.sqrt(variance / len(lengths)))


def _shape(files: ModelFiles) -> ModelShape:
    root = files.base.path if files.base else files.path
    config: dict[str, int] = json.loads((root / "config.json").read_text("utf-8"))
    hidden = config.get("hidden_size", 768)
    return ModelShape(
        hidden=hidden,
        inner=config.get("intermediate_size", 4 * hidden),
        blocks=config.get("num_hidden_layers", 12),
        vocabulary=config.get("vocab_size", 0),
    )


def _memory(files: ModelFiles, passes: Passes) -> int:
    root = files.base.path if files.base else files.path
    on_disk = sum(p.stat().st_size for p in weight_files(root))
    dtype = pick_dtype(passes.dtype, pick_device(passes.device))
    weights = on_disk if dtype == "float32" else on_disk // 2
    shape = _shape(files)
    # residual stream, attention inputs and the widest feed-forward tensors of one layer at a time
    activations = passes.batch_tokens * (6 * shape.hidden + 3 * shape.inner) * 4
    logits = 3 * HEAD_CHUNK * shape.vocabulary * 4
    return int(weights + activations + logits)
