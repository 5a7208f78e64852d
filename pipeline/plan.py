"""Plan: rows, tokens, passes, memory and disk of a run, before any weight is loaded.

Tokens come from a keyed sample of the rows under the real tokenizers; sizes from the weights on
disk and the types of the signals.
"""

# D = hidden size, V = vocabulary

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from gristmill.pipeline.contracts import Signal
from gristmill.pipeline.dataset import Dataset
from gristmill.pipeline.gradient_signals import ProjectedGradient
from gristmill.pipeline.models.folder import weight_files
from gristmill.pipeline.models.forward import HEAD_CHUNK
from gristmill.pipeline.models.load import load_tokenizer, pick_device, pick_dtype
from gristmill.pipeline.models.reference import ModelFiles
from gristmill.pipeline.observe import Models, Passes, unique_ids
from gristmill.pipeline.schema import uniform
from gristmill.pipeline.signals import HiddenState, SentenceEmbedding, TokenLosses

SAMPLE_SHARE, SAMPLE_ROWS = 0.01, 64


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
        runs: what the model does: nothing if the tokenizer is enough.
    """

    role: str
    model: str
    view: str
    signals: tuple[str, ...]
    rows: int
    tokens: tuple[int, int]
    memory: int
    disk: int
    runs: Literal["tokenizer only", "forward", "forward and backward"]


def plan(
    dataset: Dataset, signals: Sequence[Signal], models: Models, passes: Passes | None = None
) -> list[PassPlan]:
    """The passes that `observe` would make over `dataset`, none of which is made."""
    passes = passes or Passes()
    rows = sum(len(i) for i in unique_ids(dataset))
    sample = _sample(dataset, rows)
    groups: dict[tuple[str, str], list[Signal]] = {}
    for signal in dict.fromkeys(signals):
        groups.setdefault((signal.role, signal.shown.name), []).append(signal)
    plans = []
    for (role, view), members in groups.items():
        for files in models.files(role):
            chat = load_tokenizer(files, limit=passes.max_length, overlong=passes.overlong)
            shown = members[0].shown
            lengths = [len(shown.encode(row, chat).ids) for row in sample.iter_rows(named=True)]
            needs = frozenset().union(*(s.needs for s in members))
            mean = sum(lengths) / max(1, len(lengths))
            plans.append(
                PassPlan(
                    role=role,
                    model=files.reference,
                    view=view,
                    signals=tuple(s.column for s in members),
                    rows=rows,
                    tokens=(round(mean * rows), _half_width(lengths, rows)),
                    memory=_memory(files, passes) if needs else 0,
                    disk=sum(_row_bytes(s, files, mean) for s in members) * rows,
                    runs=_work(needs),
                )
            )
    return plans


def _work(needs: frozenset[str]) -> Literal["tokenizer only", "forward", "forward and backward"]:
    if not needs:
        return "tokenizer only"
    return "forward and backward" if "backward" in needs else "forward"


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


def _config(files: ModelFiles) -> dict[str, int]:
    root = files.base.path if files.base else files.path
    config: dict[str, int] = json.loads((root / "config.json").read_text("utf-8"))
    return config


def _memory(files: ModelFiles, passes: Passes) -> int:
    root = files.base.path if files.base else files.path
    on_disk = sum(p.stat().st_size for p in weight_files(root))
    dtype = pick_dtype(passes.dtype, pick_device(passes.device))
    weights = on_disk if dtype == "float32" else on_disk // 2
    config = _config(files)
    hidden = config.get("hidden_size", 768)
    inner = config.get("intermediate_size", 4 * hidden)
    # residual stream, attention inputs and the widest feed-forward tensors of one layer at a time
    activations = passes.batch_tokens * (6 * hidden + 3 * inner) * 4
    logits = 3 * HEAD_CHUNK * config.get("vocab_size", 0) * 4
    return int(weights + activations + logits)


def _row_bytes(signal: Signal, files: ModelFiles, tokens: float) -> int:
    if isinstance(signal, (HiddenState, SentenceEmbedding)):
        return 4 * _config(files).get("hidden_size", 768) + 32
    if isinstance(signal, ProjectedGradient):  # seven matrices a block, unless capped
        blocks = _config(files).get("num_hidden_layers", 12)
        return 4 * (signal.size or 7 * blocks * signal.k**2) + 32
    if isinstance(signal, TokenLosses):
        return round(4 * tokens) + 32
    return 40
