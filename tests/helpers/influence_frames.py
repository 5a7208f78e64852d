"""Observations in memory for the influence methods: gradients given as numbers."""

import json

import numpy as np
import polars as pl

from gristmill.pipeline.contracts import Frames


def ids(count, prefix="r"):
    return [f"{prefix}{i:04d}" for i in range(count)]


def gradients(matrices, signal, *, prefix="r", tasks=None, weights=(1.0,), blocks=1, nulls=()):
    """A pool or target set whose rows have these gradients, one matrix per checkpoint."""
    rows = len(matrices[0])
    columns = {"id": ids(rows, prefix), "source": ["file.jsonl"] * rows}
    meta = [None if t is None else json.dumps({"task": t}) for t in tasks or [None] * rows]
    columns["meta"] = pl.Series(meta, dtype=pl.String)
    frame = pl.DataFrame(columns)
    names = (
        [signal.column]
        if len(weights) == 1
        else [f"{signal.column}@{k}" for k in range(len(weights))]
    )
    for name, matrix in zip(names, matrices, strict=True):
        wide = np.asarray(matrix, dtype=np.float32)
        values = pl.Series(name, wide, dtype=pl.Array(pl.Float32, wide.shape[1]))
        there = pl.Series([i not in nulls for i in range(rows)])
        frame = frame.with_columns(pl.when(there).then(values).alias(name))
    size = -(-rows // blocks)
    parts = tuple(frame[at : at + size] for at in range(0, rows, size))
    return Frames(parts=parts, weights={signal.role: tuple(weights)})


def values(scored, column="score"):
    return scored.sort("id")[column].to_numpy()


def run(scorer, pool, targets, **how):
    tasks = how.pop("tasks", None)
    return scorer.score(
        gradients([pool], scorer.signals[0], **how),
        gradients([targets], scorer.reference_signals[0], prefix="t", tasks=tasks),
    )
